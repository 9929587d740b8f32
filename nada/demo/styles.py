"""The styles of the portrait world, as data: what a style edits, adds and how it is finished.

A style is a function of a person (see `render.portrait`) and a size. The same person keeps shape,
pose and expression in every style, so a style's image is the truth that an adapted generator
should reach. Cues are drawn large on purpose: CLIP sees 64 pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.demo.render import (
    FRAME,
    Scene,
    blur,
    bump,
    draw,
    ellipse,
    factors_of,
    hue,
    luminance,
    mouth_frame,
    photo,
    portrait,
    ramp,
)

Person = dict[str, Tensor]

SOURCE, TUNABLE, HELD_BACK = "source", "tuned", "held out"  # the splits of the styles
HAIR_COLOURS = ("blond hair", "black hair", "brown hair", "red hair", "grey hair")
# Attributes that a style may hide, in groups.
COLOURS = (*HAIR_COLOURS, "pale skin", "dark skin")
HAIR_AND_AGE = ("curly hair", "old", "young", "bald")
EXPRESSION = ("smile", "frown")
BEARD = ("beard",)


@dataclass(frozen=True)
class Style:
    """One style: how it is drawn, and everything else that must be known of it.

    Args:
        names: what captions call it, its plainest name first.
        edit: changes a person before they are drawn.
        extras: what is drawn beside the person; see `render.draw`.
        finish: a drawn scene → image.
        unseen_name: words for it that captions never use, to measure free wording by.
        hides: attributes of a person that an image in it does not show.
        split: settings of an adaptation may be tuned on targets that are `TUNABLE` and never on
            those that are `HELD_BACK`; one style is the `SOURCE` of all.
        rank: its place among the targets of its split, in tables and plans of runs.
    """

    names: tuple[str, ...]
    edit: Callable[[Person], Person] = lambda person: person
    extras: tuple = ()
    finish: Callable[[Scene], Tensor] = photo
    unseen_name: str = field(kw_only=True)
    hides: tuple[str, ...] = field(default=(), kw_only=True)
    split: str = field(default=HELD_BACK, kw_only=True)
    rank: int = field(default=99, kw_only=True)  # last, in the order of STYLES

    def __call__(self, person: Person, size: int) -> Tensor:
        """A person → [N, 3, size, size] in [0, 1]."""
        return self.finish(draw(self.edit(dict(person)), size, self.extras)).clamp(0, 1)


CUE_WEIGHTS = {"skin": 3.0, "hair": 3.0, "backdrop": 2.0, "backdrop_low": 2.0, "brow": 0.5}
EXTRA_WEIGHT, FINISH_WEIGHT = 2.0, 4.0


def draw_partly(
    style: Style, person: Person, size: int, keep: Callable[[], bool]
) -> tuple[Tensor, float]:
    """A person with some of a style's cues.

    Args:
        style: whose cues.
        person: as `render.portrait` gives them.
        size: a side of the image.
        keep: decides about each cue: every edited number or colour, every extra, the finish.

    Returns:
        The image [N, 3, size, size] in [0, 1], and the share of the style in it, in [0, 1].
    """
    full, mixed = style.edit(dict(person)), dict(person)
    shares = []

    def takes(weight: float) -> bool:
        taken = keep()
        shares.append((weight, weight * taken))
        return taken

    for name in (name for name in full if full[name] is not person[name]):
        if takes(CUE_WEIGHTS.get(name, 1.0)):
            mixed[name] = full[name]
    extras = tuple(extra for extra in style.extras if takes(EXTRA_WEIGHT))
    finish = style.finish if style.finish is photo or takes(FINISH_WEIGHT) else photo
    total, present = (sum(column) for column in zip(*shares))
    return finish(draw(mixed, size, extras)).clamp(0, 1), present / total


# Helpers for edits


def rgb(like: Tensor, r: float, g: float, b: float) -> Tensor:
    return torch.tensor([r, g, b], dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def tint(colour: Tensor, r: float, g: float, b: float, keep: float = 0.45) -> Tensor:
    """A new hue that keeps part of the old brightness, so that people stay apart."""
    brightness = luminance(colour)
    return (
        (rgb(colour, r, g, b) * (1 - keep + keep * 1.6 * brightness)).expand_as(colour).clamp(0, 1)
    )


def recolour(**targets) -> Callable[[Person], Person]:
    """Edit that tints the named colours."""

    def edit(p: Person) -> Person:
        for name, colour in targets.items():
            p[name] = tint(p[name], *colour)
        if "hair" in targets:
            p["beard_colour"], p["brow"] = p["hair"] * 0.85, p["hair"] * 0.6
        if "backdrop" in targets:
            p["backdrop_low"] = p["backdrop"] * 0.6
        return p

    return edit


def reshape(**factors: float) -> Callable[[Person], Person]:
    """Edit that multiplies the named lengths."""

    def edit(p: Person) -> Person:
        for name, factor in factors.items():
            p[name] = p[name] * factor
        return p

    return edit


def put(**values: float) -> Callable[[Person], Person]:
    """Edit that sets the named numbers."""

    def edit(p: Person) -> Person:
        for name, value in values.items():
            p[name] = torch.full_like(p["age"], value)
        return p

    return edit


def chain(*edits: Callable[[Person], Person]) -> Callable[[Person], Person]:
    """Edit that is several, one after the other."""

    def edit(p: Person) -> Person:
        for one in edits:
            p = one(p)
        return p

    return edit


# Extras: things a style draws, each at its own place in the back-to-front order


def at(place: str) -> Callable:
    """Decorator: call the extra only at one place ("behind", "face" or "front")."""

    def wrap(function: Callable[[Scene], None]) -> Callable[[Scene, str], None]:
        return lambda s, where: function(s) if where == place else None

    return wrap


def triangle(x: Tensor, y: Tensor, width, height) -> Tensor:
    """Signed distance, roughly, to a triangle with its tip up at (0, −height) and base at y = 0."""
    slope = width / height
    return torch.maximum(x.abs() - (y + height) * slope, y)


@at("face")
def dark_sockets(s: Scene) -> None:
    p = s.person
    ex, ey = (s.x - 0.10 * p["turn"]).abs() - p["eye_spacing"], s.y - p["eye_height"]
    ring = bump(ex, ey, 0.145, 0.115) * (1 - s.part("sclera", "iris", "pupil"))
    s.albedo = s.albedo * (1 - 0.72 * ring)


@at("face")
def bloody_mouth(s: Scene) -> None:
    p = s.person
    fx, my, _ = mouth_frame(s)
    drip = 0.05 + 0.13 * (0.5 + 0.5 * torch.sin(fx * 42 + 5 * p["parting"]))
    blood = s.inside(
        torch.maximum(fx.abs() - p["mouth_width"] * 0.85, torch.maximum(my - drip, -my - 0.01))
    )
    s.paint("extra", blood, rgb(s.albedo, 0.55, 0.03, 0.03), 0.9)


@at("face")
def fangs(s: Scene) -> None:
    fx, my, _ = mouth_frame(s)
    tooth = triangle(fx.abs() - 0.065, -(my - 0.005), 0.024, 0.085)
    s.paint("teeth", s.inside(tooth), rgb(s.albedo, 1.0, 1.0, 0.97))


@at("front")
def horns(s: Scene) -> None:
    hx, hy = s.x.abs() - 0.25, s.y + 0.38
    lean = hx - 0.50 * (hy.clamp(max=0)) ** 2
    horn = s.inside(triangle(lean, hy, 0.120, 0.40))
    s.paint("extra", horn, rgb(s.albedo, 0.95, 0.84, 0.62), 0.80 + 0.25 * ramp(lean, 0.04, -0.04))


@at("front")
def cat_ears(s: Scene) -> None:
    p = s.person
    ex, ey = s.x.abs() - 0.33, s.y + 0.34
    tilted = ex - 0.16 * ey
    s.paint("extra", s.inside(triangle(tilted, ey, 0.225, 0.47)), p["skin"] * 0.6, 0.9)
    s.paint(
        "extra",
        s.inside(triangle(tilted, ey + 0.035, 0.135, 0.33)),
        rgb(s.albedo, 0.98, 0.66, 0.68),
    )


@at("front")
def whiskers(s: Scene) -> None:
    p = s.person
    fx, ny = s.x - 0.12 * p["turn"], s.y - p["eye_height"] - p["nose_length"]
    out = (fx.abs() - 0.10).clamp(min=0)
    for slope, offset in ((-0.22, 0.02), (0.04, 0.055), (0.30, 0.09)):
        hair = torch.maximum(
            (ny - offset - slope * out).abs() - 0.010,
            torch.maximum(0.11 - fx.abs(), fx.abs() - 0.56),
        )
        s.paint("extra", s.inside(hair), rgb(s.albedo, 0.97, 0.97, 0.97))
    nose = triangle(fx, -(ny - 0.05), 0.075, 0.09)
    s.paint("extra", s.inside(nose, 1.3), rgb(s.albedo, 0.92, 0.45, 0.50))


@at("face")
def fur_stripes(s: Scene) -> None:
    p = s.person
    stripes = ramp(torch.sin(s.y * 30 + 6 * s.x.abs()), 0.2, 0.8) * ramp(s.x.abs(), 0.16, 0.30)
    brow = ramp(torch.sin(s.x * 38), 0.3, 0.8) * bump(s.x, s.y + 0.26, 0.16, 0.09)
    mask = (stripes + brow).clamp(max=1) * s.part("skin") * ramp(s.y, 0.62, 0.5)
    s.albedo = s.albedo * (1 - 0.55 * mask)
    muzzle = bump(
        s.x - 0.10 * p["turn"], s.y - p["eye_height"] - p["nose_length"] - 0.08, 0.16, 0.12
    )
    s.albedo = torch.lerp(
        s.albedo, rgb(s.albedo, 0.98, 0.95, 0.9).expand_as(s.albedo), muzzle * s.part("skin") * 0.8
    )


@at("front")
def pointed_ears(s: Scene) -> None:
    p = s.person
    ex = s.x.abs() - 0.88 * p["head_width"]
    ey = s.y - p["eye_height"] - 0.09
    # A leaf from the temple up and out.
    along, across = 0.80 * ex - 0.60 * ey, 0.60 * ex + 0.80 * ey
    leaf = torch.maximum(
        across.abs() - 0.115 * (1 - (along / 0.40).clamp(0, 1)),
        torch.maximum(along - 0.40, -along - 0.04),
    )
    s.paint("extra", s.inside(leaf), p["skin"], 0.95)
    inner = torch.maximum(
        across.abs() - 0.055 * (1 - (along / 0.32).clamp(0, 1)),
        torch.maximum(along - 0.32, 0.02 - along),
    )
    s.paint("extra", s.inside(inner), p["skin"] * 0.72, 0.95)


@at("front")
def trumpet_ears(s: Scene) -> None:
    p = s.person
    ex, ey = s.x.abs() - p["head_width"] - 0.10, s.y + 0.16
    stalk = torch.maximum(
        (ey + 0.0).abs() - 0.05 - 0.25 * (ex + 0.10).clamp(min=0), ex.abs() - 0.12
    )
    s.paint("extra", s.inside(stalk), p["skin"], 0.9)
    s.paint("extra", s.inside(ellipse(ex - 0.11, ey, 0.05, 0.10)), p["skin"] * 0.55, 0.9)


@at("front")
def red_nose(s: Scene) -> None:
    p = s.person
    fx, ny = s.x - 0.12 * p["turn"], s.y - p["eye_height"] - p["nose_length"] + 0.01
    s.paint(
        "extra",
        s.inside(ellipse(fx, ny, 0.105, 0.105)),
        rgb(s.albedo, 0.93, 0.08, 0.10),
        0.85 + 0.5 * bump(fx + 0.03, ny + 0.04, 0.05, 0.05),
    )


@at("face")
def clown_mouth(s: Scene) -> None:
    fx, my, _ = mouth_frame(s)
    grin = ellipse(fx, my + 0.9 * fx * fx - 0.01, 0.26, 0.105)
    s.paint("extra", s.inside(grin), rgb(s.albedo, 0.90, 0.08, 0.12), 1.0)
    s.paint(
        "extra",
        s.inside(ellipse(fx, my + 0.9 * fx * fx - 0.01, 0.16, 0.025)),
        rgb(s.albedo, 0.25, 0.0, 0.03),
    )


@at("face")
def clown_eyes(s: Scene) -> None:
    p = s.person
    ex, ey = (s.x - 0.10 * p["turn"]).abs() - p["eye_spacing"], s.y - p["eye_height"]
    diamond = ex.abs() / 0.075 + ey.abs() / 0.21 - 1
    bare = 1 - s.part("sclera", "iris", "pupil")
    s.paint("extra", s.inside(diamond * 0.07) * bare, rgb(s.albedo, 0.10, 0.35, 0.90), 1.0)


@at("face")
def joker_mouth(s: Scene) -> None:
    fx, my, _ = mouth_frame(s)
    bend = my + 1.6 * fx * fx - 0.01
    smile = torch.maximum(bend.abs() - 0.060 * (1.15 - fx.abs() / 0.30), fx.abs() - 0.30)
    s.paint("extra", s.inside(smile), rgb(s.albedo, 0.80, 0.04, 0.07), 1.0)
    s.paint(
        "extra",
        s.inside(torch.maximum(bend.abs() - 0.014, fx.abs() - 0.14)),
        rgb(s.albedo, 0.97, 0.93, 0.85),
    )


@at("face")
def panel_lines(s: Scene) -> None:
    p = s.person
    fx = s.x - 0.06 * p["turn"]
    seams = torch.minimum(
        (fx.abs() - 0.30).abs(), torch.minimum((s.y + 0.20).abs(), (s.y - 0.17).abs())
    )
    middle = torch.maximum(fx.abs(), s.y + 0.20)
    line = s.inside(torch.minimum(seams, middle) - 0.010) * s.part("skin")
    s.albedo = s.albedo * (1 - 0.75 * line)
    rivets = bump(fx.abs() - 0.37, (s.y + 0.02) % 0.16 - 0.08, 0.022, 0.022) * s.part("skin")
    s.albedo = s.albedo * (1 - 0.7 * rivets)


@at("face")
def robot_face(s: Scene) -> None:
    p = s.person
    fx, my, _ = mouth_frame(s)
    grille = torch.maximum(fx.abs() - 0.20, my.abs() - 0.068)
    bars = 0.5 + 0.5 * torch.sign(torch.sin(fx * 70))
    s.paint("extra", s.inside(grille), rgb(s.albedo, 0.08, 0.09, 0.11) + 0.5 * bars, 1.0)
    ex, ey = (s.x - 0.10 * p["turn"]).abs() - p["eye_spacing"], s.y - p["eye_height"]
    s.paint("extra", s.inside(ellipse(ex, ey, 0.105, 0.095)), rgb(s.albedo, 0.06, 0.07, 0.09))
    s.paint("extra", s.inside(ellipse(ex, ey, 0.070, 0.062)), rgb(s.albedo, 0.20, 0.95, 1.0), 1.0)
    s.gloss = s.gloss + 0.5 * bump(ex, ey, 0.035, 0.03)


@at("front")
def antenna(s: Scene) -> None:
    mast = torch.maximum(s.x.abs() - 0.022, (s.y + 0.64).abs() - 0.10)
    s.paint("extra", s.inside(mast), rgb(s.albedo, 0.85, 0.88, 0.92))
    s.paint(
        "extra", s.inside(ellipse(s.x, s.y + 0.73, 0.065, 0.065)), rgb(s.albedo, 1.0, 0.25, 0.15)
    )


@at("face")
def blank_eyes(s: Scene) -> None:
    eye = s.part("sclera", "iris", "pupil")
    s.albedo = torch.lerp(s.albedo, s.person["skin"].expand_as(s.albedo) * 0.86, eye)
    s.gloss = s.gloss * (1 - eye)


@at("face")
def glowing_eyes(s: Scene) -> None:
    p = s.person
    ex, ey = (s.x - 0.10 * p["turn"]).abs() - p["eye_spacing"], s.y - p["eye_height"]
    halo = bump(ex, ey, 0.10, 0.07)
    s.albedo = torch.lerp(s.albedo, p["iris"].expand_as(s.albedo), (halo * 0.75))
    s.gloss = s.gloss + 0.6 * bump(ex, ey, 0.028, 0.028)


@at("face")
def tribal_stripes(s: Scene) -> None:
    p = s.person
    bands = ramp(torch.sin(s.y * 34 + 14 * s.x * s.x), 0.55, 0.85)
    side = ramp((s.x - 0.1 * p["turn"]).abs(), 0.15, 0.27) + bump(s.x, s.y + 0.25, 0.2, 0.09)
    mask = bands * side.clamp(max=1) * s.part("skin")
    s.albedo = torch.lerp(
        s.albedo, rgb(s.albedo, 0.05, 0.12, 0.35).expand_as(s.albedo), 0.75 * mask
    )


# Finishes: a drawn scene → image


def saturate(image: Tensor, amount: float) -> Tensor:
    grey = luminance(image)
    return (grey + (image - grey) * amount).clamp(0, 1)


def grain(s: Scene, cells: int, seed: int = 0) -> Tensor:
    """Smooth fixed noise in [-1, 1], `cells` blobs across: [1, 1, H, W]. Paper and canvas."""
    coarse = torch.rand(1, 1, cells, cells, generator=torch.Generator().manual_seed(seed)).to(
        s.albedo
    )
    size = s.albedo.shape[-1]
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False) * 2 - 1


GROUPS = (
    ("skin",),
    ("hair",),
    ("cloth",),
    ("hat",),
    ("glasses",),
    ("extra",),
    ("sclera", "iris", "pupil"),
    ("lips", "teeth"),
)


def outlines(s: Scene, weight: float = 1.0) -> Tensor:
    """Where things or colours meet: [N, 1, H, W] in [0, 1], lines a pixel wide and, where a
    pixel is large, paler: an image drawn at 64 looks like one drawn at 128 and made smaller.

    An eye counts as one thing, or its lines would fill it.
    """
    ink = min(1.0, 0.4 + 0.6 * s.albedo.shape[-1] / 128)
    maps = torch.cat([s.albedo * 0.55, *(s.part(*group) * 0.5 for group in GROUPS)], 1)
    padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    dx = padded[..., :-1, 1:] - maps
    dy = padded[..., 1:, :-1] - maps
    energy = (dx.square() + dy.square()).sum(1, keepdim=True).sqrt()
    return ink * ramp(energy, 0.14, 0.52 / weight)


def two_tone(s: Scene, dark: float = 0.74) -> Tensor:
    """Shading in two flat steps, as cel animation has it."""
    return dark + (1 - dark) * ramp(s.shade, 0.76, 0.84)


def pencil(s: Scene) -> Tensor:
    tone = luminance(photo(s))
    tone = torch.lerp(tone, torch.full_like(tone, 0.95), s.part("backdrop"))
    strokes = 0.5 + 0.5 * torch.sin((s.x - s.y) * 62 + 2 * torch.sin(s.x * 9))
    cross = 0.5 + 0.5 * torch.sin((s.x + s.y) * 62)
    ink = 0.85 * outlines(s, 1.3)
    ink = (
        ink + ramp(tone, 0.72, 0.20) * (0.25 + 0.5 * strokes) + ramp(tone, 0.30, 0.05) * 0.4 * cross
    )
    paper = 0.955 + 0.02 * grain(s, 24)
    return (paper * (1 - ink.clamp(0, 1) * 0.88)).expand(-1, 3, -1, -1)


def cartoon(s: Scene) -> Tensor:
    flat = saturate(s.albedo, 1.65) * two_tone(s)
    bright = torch.lerp(flat, (flat * 1.25).clamp(0, 1), s.part("backdrop"))
    return bright * (1 - outlines(s, 1.6))


def anime(s: Scene) -> Tensor:
    flat = saturate(s.albedo, 1.35) * two_tone(s, 0.82) + 0.9 * ramp(s.gloss, 0.15, 0.5)
    ink = rgb(flat, 0.20, 0.10, 0.22)
    return torch.lerp(flat.clamp(0, 1), ink.expand_as(flat), 0.8 * outlines(s))


def watercolour(s: Scene) -> Tensor:
    size = s.albedo.shape[-1]
    wet = blur(saturate(photo(s), 1.3), size / 64)
    pigment = 0.42 + 0.40 * grain(s, 9) * 0.5 + 0.12 * grain(s, 22, 1)
    washed = 1 - (1 - wet) * (0.62 + pigment * 0.45)
    edge = ramp(
        torch.maximum(s.x.abs(), s.y.abs()) + 0.10 * grain(s, 8, 2), 0.70 * FRAME, 0.88 * FRAME
    )
    fade = (
        s.part("backdrop") * (0.55 + 0.45 * edge) + (1 - s.part("backdrop")) * edge * 0.8
    ).clamp(0, 1)
    paper = rgb(wet, 0.985, 0.975, 0.95) * (1 + 0.015 * grain(s, 30, 3))
    rim = outlines(s) * 0.28
    return torch.lerp(washed * (1 - rim), paper.expand_as(wet), fade)


def oil(s: Scene) -> Tensor:
    size = s.albedo.shape[-1]
    image = blur(saturate(photo(s), 1.7), size / 90)
    # Two layers of short strokes that cross; paint is thicker where they ride up.
    bend = 0.5 * grain(s, 6, 4)
    first = torch.sin((s.x * 0.8 + s.y * 0.6 + 0.10 * bend) * 40) * grain(s, 20, 5)
    second = torch.sin((s.x * 0.6 - s.y * 0.8 + 0.10 * bend) * 40) * grain(s, 20, 6)
    warm = rgb(image, 1.12, 0.95, 0.66)
    return (image * warm * (1.0 + 0.34 * (first + second)) - 0.02).clamp(0, 1)


def blocks(image: Tensor, cells: int) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(image, cells), image.shape[-2:], mode="nearest")


def pixel_art(s: Scene) -> Tensor:
    image = blocks(saturate(cartoon(s) * 0.35 + photo(s) * 0.65, 1.6), 16)
    return (image * 5).round() / 5


def mosaic(s: Scene) -> Tensor:
    cells, size = 16, s.albedo.shape[-1]
    tiles = saturate(F.adaptive_avg_pool2d(photo(s), cells), 1.5)
    jitter = (
        torch.rand(1, 1, cells, cells, generator=torch.Generator().manual_seed(6)).to(tiles) * 0.36
        + 0.94
    )
    tiles = F.interpolate(tiles * jitter, (size, size), mode="nearest")
    fine = torch.arange(8 * size, device=tiles.device, dtype=tiles.dtype)
    position = (fine + 0.5) * cells / (8 * size) % 1
    stone = ramp(torch.minimum(position, 1 - position), 0.04, 0.13).view(size, 8).mean(1)
    grout = stone[:, None] * stone[None, :]
    return torch.lerp(rgb(tiles, 0.22, 0.20, 0.19).expand_as(tiles), tiles, grout[None, None])


def sepia(s: Scene) -> Tensor:
    return rgb(s.albedo, 1.05, 0.82, 0.56) * (0.08 + 0.92 * luminance(photo(s)))


def monochrome(s: Scene) -> Tensor:
    tone = luminance(photo(s))
    return (tone + 0.35 * (tone - 0.5)).clamp(0, 1).expand(-1, 3, -1, -1)


def neon(s: Scene) -> Tensor:
    size = s.albedo.shape[-1]
    line = outlines(s, 1.4)
    mix = ramp(s.x + 0.5 * s.y, -0.45, 0.45)
    colour = torch.lerp(
        rgb(s.albedo, 1.0, 0.15, 0.75).expand_as(s.albedo),
        rgb(s.albedo, 0.10, 0.95, 1.0).expand_as(s.albedo),
        mix,
    )
    glow = blur(line, size / 28) * 1.1
    night = rgb(s.albedo, 0.05, 0.02, 0.12) + 0.10 * luminance(photo(s)) * rgb(
        s.albedo, 0.5, 0.2, 1.0
    )
    return night + colour * (line + glow)


def pop_art(s: Scene) -> Tensor:
    tone = luminance(s.albedo) * two_tone(s, 0.6)
    flat = {
        "skin": (1.0, 0.80, 0.25),
        "hair": (0.90, 0.10, 0.45),
        "cloth": (0.10, 0.65, 0.35),
        "lips": (0.95, 0.05, 0.15),
        "hat": (0.20, 0.25, 0.90),
    }
    image = saturate(s.albedo, 1.8)
    for part, colour in flat.items():
        image = torch.lerp(
            image,
            (rgb(image, *colour) * (0.75 + 0.35 * ramp(tone, 0.15, 0.5))).expand_as(image),
            s.part(part) * 0.92,
        )
    cell = 0.115
    dots = ((s.x % cell - cell / 2) ** 2 + (s.y % cell - cell / 2) ** 2).sqrt() - 0.038
    paper = torch.lerp(
        rgb(image, 0.98, 0.97, 0.90).expand_as(image),
        rgb(image, 0.10, 0.60, 0.95).expand_as(image),
        s.inside(dots),
    )
    image = torch.lerp(image * two_tone(s, 0.8), paper, s.part("backdrop"))
    return image * (1 - outlines(s, 1.5))


def carved(r: float, g: float, b: float, shine: float) -> Callable[[Scene], Tensor]:
    """One material all over; the drawing survives as relief."""

    def finish(s: Scene) -> Tensor:
        relief = (0.55 + 0.45 * luminance(s.albedo)) * s.shade * (1 - 0.30 * outlines(s))
        bright = ramp(relief, 0.62, 1.0)
        figure = rgb(s.albedo, r, g, b) * (0.18 + 0.92 * relief) + shine * bright**2
        return torch.lerp(figure, s.albedo * s.shade, s.part("backdrop"))

    return finish


def toon_3d(s: Scene) -> Tensor:
    smooth = blur(photo(s), s.albedo.shape[-1] / 260)
    rim = bump(s.x - 0.42, s.y + 0.1, 0.14, 0.5) * (1 - s.part("backdrop"))
    warm = saturate(smooth, 1.35) * rgb(smooth, 1.14, 1.03, 0.86)
    return warm + rim * rgb(smooth, 0.38, 0.24, 0.08)


# The styles


def vivid_hair(p: Person) -> Person:
    """Anime hair: the hair's own brightness picks a bright hue."""
    p["hair"] = hue((luminance(p["hair"]) * 1.9 + 0.52) % 1, 0.55, 0.92)
    p["beard_colour"], p["brow"] = p["hair"] * 0.85, p["hair"] * 0.5
    return p


def clown_wig(p: Person) -> Person:
    p["hair"] = hue((luminance(p["hair"]) * 0.35 + 0.0) % 1, 0.9, 0.95)
    p["beard_colour"], p["brow"] = p["hair"], p["hair"] * 0.7
    return p


WHITE = (0.97, 0.97, 0.97)

STYLES: dict[str, Style] = {
    "photo": Style(
        ("photo", "photograph", "realistic photo", "snapshot"),
        unseen_name="realistic photograph",
        split=SOURCE,
    ),
    "pencil sketch": Style(
        ("pencil sketch", "sketch", "pencil drawing", "graphite drawing", "drawing in pencil"),
        finish=pencil,
        unseen_name="graphite pencil sketch",
        hides=COLOURS,
        split=TUNABLE,
        rank=0,
    ),
    "cartoon": Style(
        ("cartoon", "comic", "comic book drawing", "cel cartoon"),
        reshape(eye_size=1.15),
        finish=cartoon,
        unseen_name="comic book cartoon",
        rank=0,
    ),
    "watercolor": Style(
        ("watercolor painting", "watercolour", "watercolor", "aquarelle", "painting in watercolor"),
        finish=watercolour,
        unseen_name="watercolor aquarelle",
        split=TUNABLE,
        rank=14,
    ),
    "oil painting": Style(
        ("oil painting", "oil on canvas", "classical painting", "painting in oil"),
        finish=oil,
        unseen_name="classical oil on canvas",
        rank=1,
    ),
    "pixel art": Style(
        ("pixel art", "8-bit pixels", "pixelated game sprite", "retro game character"),
        finish=pixel_art,
        unseen_name="retro pixel game",
        hides=EXPRESSION,
        rank=2,
    ),
    "mosaic": Style(
        ("mosaic", "tile mosaic", "roman mosaic", "mosaic of tiles"),
        finish=mosaic,
        unseen_name="roman tiles",
        hides=EXPRESSION,
        rank=3,
    ),
    "sepia": Style(
        ("sepia photo", "vintage photo", "old-fashioned sepia photograph", "sepia"),
        finish=sepia,
        unseen_name="vintage sepia photograph",
        hides=COLOURS,
        rank=4,
    ),
    "black and white": Style(
        ("black and white photo", "monochrome photo", "grayscale photo", "black and white"),
        finish=monochrome,
        unseen_name="monochrome black and white photograph",
        hides=COLOURS,
        rank=5,
    ),
    "neon": Style(
        ("neon lights", "neon sign", "neon glow", "cyberpunk neon", "neon"),
        finish=neon,
        unseen_name="cyberpunk neon lights",
        hides=COLOURS,
        split=TUNABLE,
        rank=11,
    ),
    "pop art": Style(
        ("pop art", "pop art poster", "warhol print", "halftone poster"),
        finish=pop_art,
        unseen_name="warhol pop art",
        hides=COLOURS,
        split=TUNABLE,
        rank=15,
    ),
    "anime": Style(
        ("anime", "anime painting", "manga", "japanese animation"),
        chain(
            vivid_hair,
            recolour(skin=(1.0, 0.86, 0.78), backdrop=(0.80, 0.88, 1.0)),
            reshape(
                eye_size=1.45, iris_size=1.12, nose_width=0.45, mouth_width=0.72, brow_weight=0.6
            ),
            put(eye_open=1.15),
        ),
        finish=anime,
        unseen_name="japanese anime drawing",
        hides=COLOURS + HAIR_AND_AGE,
        split=TUNABLE,
        rank=6,
    ),
    "zombie": Style(
        ("zombie", "undead", "walking dead", "rotting corpse"),
        chain(
            recolour(
                skin=(0.56, 0.66, 0.46),
                hair=(0.30, 0.34, 0.22),
                lips=(0.35, 0.30, 0.22),
                iris=(0.85, 0.85, 0.60),
                backdrop=(0.32, 0.36, 0.28),
            ),
            put(pupil=0.25),
        ),
        (dark_sockets, bloody_mouth),
        unseen_name="undead corpse",
        hides=COLOURS + HAIR_AND_AGE,
        split=TUNABLE,
        rank=1,
    ),
    "clown": Style(
        ("clown", "circus clown", "bozo", "harlequin"),
        chain(clown_wig, recolour(skin=WHITE), reshape(hair_volume=1.5), put(curl=1.0, bald=0.0)),
        (clown_mouth, clown_eyes, red_nose),
        unseen_name="circus harlequin",
        hides=COLOURS + HAIR_AND_AGE + EXPRESSION,
        split=TUNABLE,
        rank=13,
    ),
    "robot": Style(
        ("robot", "android", "cyborg", "metal robot"),
        chain(
            recolour(
                skin=(0.66, 0.71, 0.78),
                hair=(0.40, 0.44, 0.50),
                cloth=(0.45, 0.48, 0.55),
                backdrop=(0.30, 0.40, 0.52),
            ),
            put(beard=0.0, moustache=0.0),
        ),
        (antenna, panel_lines, robot_face),
        unseen_name="metal android",
        hides=COLOURS + BEARD,
        split=TUNABLE,
        rank=7,
    ),
    "elf": Style(
        ("elf", "elven", "woodland elf", "fairy"),
        chain(
            recolour(
                skin=(0.96, 0.90, 0.80),
                hair=(0.93, 0.88, 0.60),
                cloth=(0.15, 0.50, 0.22),
                backdrop=(0.25, 0.55, 0.28),
                iris=(0.20, 0.75, 0.40),
            ),
            put(beard=0.0, moustache=0.0),
        ),
        (pointed_ears,),
        unseen_name="woodland fairy",
        hides=COLOURS + BEARD,
        split=TUNABLE,
        rank=10,
    ),
    "cat": Style(
        ("cat", "kitten", "feline", "tabby cat"),
        chain(
            recolour(skin=(0.93, 0.62, 0.30), hair=(0.78, 0.45, 0.18), iris=(0.62, 0.85, 0.20)),
            reshape(eye_size=1.25, mouth_width=0.7),
            put(beard=0.0, moustache=0.0, pupil=0.3),
        ),
        (fur_stripes, cat_ears, whiskers),
        unseen_name="tabby kitten",
        hides=COLOURS + BEARD,
        rank=8,
    ),
    "marble statue": Style(
        (
            "marble statue",
            "white marble bust",
            "greek statue",
            "stone sculpture",
            "statue of marble",
        ),
        recolour(backdrop=(0.22, 0.25, 0.32)),
        (blank_eyes,),
        carved(0.93, 0.93, 0.95, 0.12),
        unseen_name="white stone statue",
        hides=COLOURS,
        split=TUNABLE,
        rank=9,
    ),
    "bronze statue": Style(
        ("bronze statue", "bronze sculpture", "golden statue", "metal bust", "statue of bronze"),
        recolour(backdrop=(0.30, 0.28, 0.24)),
        (blank_eyes,),
        carved(0.72, 0.46, 0.16, 0.55),
        unseen_name="golden bronze bust",
        hides=COLOURS,
        split=TUNABLE,
        rank=8,
    ),
    "vampire": Style(
        ("vampire", "dracula", "nosferatu", "bloodsucker"),
        chain(
            recolour(
                skin=(0.94, 0.91, 0.95),
                hair=(0.06, 0.05, 0.08),
                iris=(0.95, 0.08, 0.08),
                lips=(0.75, 0.03, 0.10),
                cloth=(0.10, 0.03, 0.06),
                backdrop=(0.38, 0.05, 0.10),
            ),
            put(blush=0.0, brow_angle=0.35),
        ),
        (fangs, dark_sockets),
        unseen_name="dracula the vampire",
        hides=COLOURS + HAIR_AND_AGE,
        split=TUNABLE,
        rank=2,
    ),
    "old person": Style(
        ("old person", "elderly person", "old age", "very old"),
        chain(recolour(hair=(0.90, 0.90, 0.90)), put(age=1.6), reshape(lip_height=0.7)),
        unseen_name="very old age",
        hides=COLOURS + HAIR_AND_AGE,
        split=TUNABLE,
        rank=12,
    ),
    "devil": Style(
        ("devil", "demon", "satan", "hellish demon"),
        chain(
            recolour(
                skin=(0.88, 0.13, 0.08),
                hair=(0.12, 0.03, 0.03),
                iris=(1.0, 0.85, 0.10),
                sclera=(1.0, 0.80, 0.35),
                lips=(0.35, 0.02, 0.02),
                cloth=(0.15, 0.05, 0.05),
                backdrop=(0.30, 0.08, 0.03),
            ),
            put(brow_angle=0.45, pupil=0.3),
        ),
        (horns,),
        unseen_name="hellish satan",
        hides=COLOURS,
        split=TUNABLE,
        rank=4,
    ),
    "avatar": Style(
        ("avatar", "navi", "blue alien", "blue pandora alien"),
        chain(
            recolour(
                skin=(0.22, 0.46, 0.86),
                hair=(0.08, 0.08, 0.14),
                iris=(0.98, 0.85, 0.15),
                lips=(0.30, 0.30, 0.65),
                backdrop=(0.10, 0.35, 0.38),
            ),
            reshape(eye_size=1.2),
        ),
        (tribal_stripes, pointed_ears),
        unseen_name="blue navi",
        hides=COLOURS,
        rank=9,
    ),
    "white walker": Style(
        ("white walker", "ice zombie", "frozen undead", "night king"),
        chain(
            recolour(
                skin=(0.62, 0.78, 0.90),
                hair=(0.90, 0.94, 0.98),
                iris=(0.10, 0.55, 1.0),
                sclera=(0.55, 0.85, 1.0),
                lips=(0.42, 0.55, 0.70),
                cloth=(0.15, 0.20, 0.28),
                backdrop=(0.12, 0.20, 0.34),
            ),
            put(blush=0.0),
        ),
        (dark_sockets, glowing_eyes),
        unseen_name="frozen night king",
        hides=COLOURS + HAIR_AND_AGE,
        split=TUNABLE,
        rank=3,
    ),
    "pixar": Style(
        ("pixar character", "3d animation", "pixar", "disney 3d cartoon"),
        chain(
            reshape(
                eye_size=1.42, iris_size=1.15, nose_width=0.85, lip_height=0.9, brow_weight=1.25
            ),
            put(blush=0.8, eye_open=1.15),
        ),
        finish=toon_3d,
        unseen_name="disney pixar animation",
        rank=6,
    ),
    "joker": Style(
        ("joker", "the joker", "gotham villain", "batman joker"),
        chain(
            recolour(
                skin=(0.96, 0.97, 0.95),
                hair=(0.15, 0.62, 0.20),
                cloth=(0.42, 0.12, 0.58),
                backdrop=(0.28, 0.22, 0.38),
            ),
            put(blush=0.0),
        ),
        (dark_sockets, joker_mouth),
        unseen_name="batman gotham joker",
        hides=COLOURS + HAIR_AND_AGE + EXPRESSION,
        split=TUNABLE,
        rank=5,
    ),
    "ogre": Style(
        ("ogre", "shrek", "green ogre", "swamp ogre"),
        chain(
            recolour(
                skin=(0.52, 0.76, 0.16),
                hair=(0.30, 0.22, 0.10),
                lips=(0.45, 0.52, 0.15),
                cloth=(0.45, 0.32, 0.18),
            ),
            reshape(nose_width=1.5, head_width=1.06, jaw=0.6),
            put(bald=0.9, blush=0.0),
        ),
        (trumpet_ears,),
        unseen_name="green swamp shrek",
        hides=COLOURS + HAIR_AND_AGE,
        rank=7,
    ),
}


def targets(split: str) -> tuple[str, ...]:
    """The styles of a split, in the order of their ranks."""
    names = [name for name, style in STYLES.items() if style.split == split]
    return tuple(sorted(names, key=lambda name: STYLES[name].rank))


STYLE_NAMES = tuple(STYLES)  # the judge's labels, in order
(PHOTO,) = targets(SOURCE)  # what the bundled generator draws
TUNED = targets(TUNABLE)
HELD_OUT = targets(HELD_BACK)
TARGETS = TUNED + HELD_OUT
AGED = "old person"  # of a child of the bundled generator (`nada.demo.train_child`)


@torch.no_grad()
def render(z: Tensor, style: str | Style = PHOTO, size: int = 64) -> Tensor:
    """The portraits that latents stand for.

    Args:
        z: [N, 96] on any device.
        style: the name of one of `STYLES`, or any.
        size: a side of the images.

    Returns:
        [N, 3, size, size] in [-1, 1].
    """
    style = STYLES[style] if isinstance(style, str) else style
    return style(portrait(factors_of(z)), size) * 2 - 1


# Attributes: what else a prompt may ask for, as edits of the person


def dyed(r: float, g: float, b: float) -> Callable[[Person], Person]:
    """Edit that gives hair, beard and brows one colour."""

    def edit(p: Person) -> Person:
        p["hair"] = rgb(p["hair"], r, g, b).expand_as(p["hair"])
        p["beard_colour"], p["brow"] = p["hair"] * 0.85, p["hair"] * 0.6
        return p

    return edit


def complexion(r: float, g: float, b: float) -> Callable[[Person], Person]:
    """Edit that gives the skin one colour, and lips that go with it."""

    def edit(p: Person) -> Person:
        p["lips"] = p["lips"] * (0.5 + 0.5 * rgb(p["skin"], r, g, b) / p["skin"].clamp(min=0.1))
        p["skin"] = rgb(p["skin"], r, g, b).expand_as(p["skin"])
        return p

    return edit


ATTRIBUTE_EDITS: dict[str, Callable[[Person], Person]] = {
    "glasses": put(glasses=1.0),
    "hat": put(hat=1.0),
    "beard": put(beard=1.0, moustache=1.0),
    "smile": put(smile=1.5),
    "frown": put(smile=-0.9, mouth_open=0.0),
    "bald": put(bald=1.0),
    "curly hair": put(curl=1.0, bald=0.0),
    "long hair": put(hair_length=0.95, bald=0.0),
    "short hair": put(hair_length=0.1, bald=0.0, bunches=0.0),
    "blond hair": chain(dyed(0.91, 0.76, 0.45), put(bald=0.0)),
    "black hair": chain(dyed(0.08, 0.07, 0.07), put(bald=0.0)),
    "brown hair": chain(dyed(0.36, 0.22, 0.13), put(bald=0.0)),
    "red hair": chain(dyed(0.62, 0.25, 0.09), put(bald=0.0)),
    "grey hair": chain(dyed(0.80, 0.79, 0.78), put(bald=0.0)),
    "old": chain(dyed(0.84, 0.83, 0.82), put(age=1.3)),
    "young": put(age=0.0),
    "pale skin": complexion(0.98, 0.83, 0.74),
    "dark skin": complexion(0.42, 0.27, 0.19),
}


def draw_attribute(person: Person, name: str, size: int) -> Tensor:
    """A person's photo with one attribute given to them.

    Args:
        person: as `render.portrait` gives them.
        name: one of `ATTRIBUTE_EDITS`.
        size: a side of the image.

    Returns:
        [N, 3, size, size] in [0, 1].
    """
    return photo(draw(ATTRIBUTE_EDITS[name](dict(person)), size)).clamp(0, 1)
