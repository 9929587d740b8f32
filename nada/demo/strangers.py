"""Styles that no caption names and no model of this project was trained on.

What pictures can do as prompts shows in them: words cannot help there, and neither the CLIPs nor
the judge have ever seen one.
"""

import torch
from torch import Tensor

from nada.demo.render import Scene, blur, luminance, photo, ramp
from nada.demo.styles import (
    COLOURS,
    STYLES,
    Style,
    blocks,
    grain,
    outlines,
    rgb,
    saturate,
    two_tone,
)


def stained_glass(s: Scene) -> Tensor:
    """Bright panes in lead."""
    pane = saturate(s.albedo, 2.0) * two_tone(s, 0.85) * (1.05 + 0.25 * grain(s, 12, 7))
    rays = torch.sin(torch.atan2(s.y + 0.2, s.x) * 9).abs()
    arcs = torch.sin((s.x.square() + s.y.square()).sqrt() * 11).abs()
    frame = torch.maximum(ramp(rays, 0.16, 0.05), ramp(arcs, 0.20, 0.08)) * s.part("backdrop")
    lead = torch.maximum(ramp(outlines(s, 1.3), 0.15, 0.55), frame)
    return torch.lerp(pane.clamp(0, 1), rgb(pane, 0.05, 0.05, 0.06).expand_as(pane), lead)


def blueprint(s: Scene) -> Tensor:
    """White lines on blue paper with a grid."""
    grid = [ramp((axis % 0.16 - 0.08).abs(), 0.018, 0.0) for axis in (s.x, s.y)]
    line = (outlines(s, 1.6) + 0.30 * torch.maximum(*grid)).clamp(0, 1)
    paper = rgb(s.albedo, 0.07, 0.25, 0.58) * (0.9 + 0.2 * luminance(photo(s)))
    return torch.lerp(paper, rgb(paper, 0.93, 0.96, 1.0).expand_as(paper), line)


HEAT = (
    (0.02, 0.0, 0.12),
    (0.35, 0.02, 0.55),
    (0.85, 0.15, 0.35),
    (1.0, 0.60, 0.05),
    (1.0, 1.0, 0.75),
)


def thermal(s: Scene) -> Tensor:
    """The warmer, the brighter: skin glows, the wall is cold."""
    warmth = {"skin": 0.86, "lips": 0.95, "hair": 0.42, "cloth": 0.38, "hat": 0.30, "glasses": 0.12}
    heat = 0.08 + 0.05 * s.y + sum(s.part(name) * value for name, value in warmth.items())
    heat = heat + s.part("sclera", "iris", "pupil", "teeth") * 0.9
    heat = blur(heat + 0.22 * (s.shade - 0.9), s.albedo.shape[-1] / 110).clamp(0, 1)
    position = heat * (len(HEAT) - 1)
    steps = [
        rgb(s.albedo, *colour) * (1 - (position - i).abs()).clamp(min=0)
        for i, colour in enumerate(HEAT)
    ]
    return torch.stack(steps).sum(0)


def cross_stitch(s: Scene) -> Tensor:
    """Crosses of thread on linen."""
    cells, size = 24, s.albedo.shape[-1]
    thread = blocks(saturate(s.albedo * two_tone(s), 1.25), cells)
    fine = (torch.arange(size, device=thread.device, dtype=thread.dtype) + 0.5) * cells / size % 1
    across, down = fine.view(1, 1, 1, -1), fine.view(1, 1, -1, 1)
    cross = torch.maximum(*(ramp(d.abs(), 0.34, 0.14) for d in (across - down, across + down - 1)))
    linen = rgb(thread, 0.93, 0.89, 0.80).expand_as(thread)
    return torch.lerp(linen, thread, cross * (1 - 0.55 * blocks(s.part("backdrop"), cells)))


def gold_leaf(s: Scene) -> Tensor:
    """An icon: flat dark figures on beaten gold, with gold in their folds."""
    beaten = 0.80 + 0.16 * grain(s, 14, 8) + 0.10 * grain(s, 40, 9)
    gold = rgb(s.albedo, 1.0, 0.78, 0.25) * beaten
    figure = saturate(s.albedo, 0.8) * rgb(s.albedo, 0.80, 0.62, 0.46) * two_tone(s, 0.7)
    figure = torch.lerp(figure, gold, 0.85 * outlines(s, 1.2))
    return torch.lerp(figure, gold, s.part("backdrop"))


def chalkboard(s: Scene) -> Tensor:
    """Dusty lines on dark green."""
    board = rgb(s.albedo, 0.10, 0.20, 0.16) * (1 + 0.12 * grain(s, 7, 10))
    tone, stroke = luminance(photo(s)), 0.5 + 0.5 * torch.sin((s.x + s.y) * 70)
    dust = (0.75 + 0.45 * grain(s, 60, 11)).clamp(0, 1)
    fill = 0.38 * stroke * ramp(tone, 0.35, 0.9) * (1 - s.part("backdrop"))
    chalk = ((outlines(s, 1.6) + fill) * dust).clamp(0, 1)
    tinted = torch.lerp(torch.ones_like(s.albedo), saturate(s.albedo, 1.3), 0.35)
    return torch.lerp(board.expand_as(tinted), tinted, chalk)


STRANGERS = {
    style.names[0]: style
    for style in (
        Style(("stained glass",), finish=stained_glass, unseen_name="leaded light window"),
        Style(("blueprint",), finish=blueprint, unseen_name="cyanotype plan", hides=COLOURS),
        Style(("thermal camera",), finish=thermal, unseen_name="infrared", hides=COLOURS),
        Style(("cross-stitch",), finish=cross_stitch, unseen_name="needlework"),
        Style(("gold leaf",), finish=gold_leaf, unseen_name="gilded icon"),
        Style(("chalkboard",), finish=chalkboard, unseen_name="school slate", hides=COLOURS),
    )
}


def style_of(name: str) -> Style:
    """The style of that name, the world's or one of these; KeyError if there is none."""
    return STRANGERS.get(name) or STYLES[name]
