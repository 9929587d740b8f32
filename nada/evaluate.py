"""How well adaptation works on the bundled world: `python -m nada evaluate`.

Each target is trained with the demo preset, then looked at by an independent judge
(`nada.demo.judge`) and compared with the true render of the same latents in the target's style.
Both are facts that no natural generator could give.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from nada.adapt import PRESETS, Preset, adapt, prepare
from nada.checkpoint import load_generator, pick_device
from nada.clip import CLIP, load_clips
from nada.demo.judge import Judge, load_judge, verdicts
from nada.demo.render import render
from nada.demo.styles import STYLES
from nada.generator import Generator
from nada.guidance import prompt_features
from nada.metrics import diversity, identity, quality
from nada.sample import image_grid, latents, sample

TARGETS = (
    "pencil sketch", "zombie", "vampire", "white walker", "devil", "joker",
    "anime", "robot", "bronze statue", "marble statue", "elf", "neon",
)  # fmt: skip
PSI = 0.7  # of the judged pictures: what the page shows
SHEET_SEEDS = tuple(range(10))


@dataclass(frozen=True)
class Row:
    """What one run came to.

    judged_before, judged: share of pictures that the judge calls the target, frozen and adapted.
    lp: L1 distance to the true render of the same z in the target's style, relative to before
    adaptation; below 1 means that the pictures moved towards the truth.
    quality, diversity, identity: see `nada.metrics`; features of the first CLIP model.
    """

    target: str
    seed: int
    judged_before: float
    judged: float
    lp: float
    quality: float
    diversity: float
    identity: float
    seconds: float


def distance_to_truth(pictures: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of pictures [N, 3, H, W] pooled 4×4: blind to fine misalignment."""
    return (F.avg_pool2d(pictures, 4) - F.avg_pool2d(truth, 4)).abs().mean().item()


def train(
    base: Generator, clips: Sequence[CLIP], target: str, preset: Preset
) -> tuple[Generator, float]:
    """A generator adapted to `target`, and the seconds that took."""
    adapted = copy.deepcopy(base)
    seconds = 0.0
    for progress in adapt(base, adapted, *_job(clips, target, preset)):
        seconds = progress.seconds
    return adapted, seconds


def _job(clips: Sequence[CLIP], target: str, preset: Preset) -> tuple:
    loss, select = prepare(clips, preset.source, target, preset)
    return loss, preset.config, select


def assess(
    base: Generator,
    adapted: Generator,
    clip: CLIP,
    judge: Judge,
    target: str,
    count: int,
) -> dict[str, float]:
    """The figures of `Row` for `count` seeds; `target` names a style of the portrait world."""
    seeds = range(10_000, 10_000 + count)  # far from the seeds that a page shows
    before, after = (sample(g, seeds, PSI, batch=32) for g in (base, adapted))
    wide = [sample(g, seeds, 1.0, batch=32) for g in (base, adapted)]
    z = latents(seeds, base.z_dim).to(before.device)
    truth = render(z, target, base.size)
    with torch.no_grad():
        features = [clip.encode_image(pictures) for pictures in (before, after)]
    return {
        "judged_before": _share(judge, before, target),
        "judged": _share(judge, after, target),
        "lp": distance_to_truth(wide[1], truth) / distance_to_truth(wide[0], truth),
        "quality": quality(features[1], prompt_features(clip, target, ("{}",))),
        "diversity": diversity(features[1]),
        "identity": identity(features[1], features[0]),
    }


def _share(judge: Judge, pictures: Tensor, target: str) -> float:
    return mean(verdict == target for verdict in verdicts(judge, pictures))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a target, mean ± standard deviation over the seeds of training."""
    lines = [
        "| target | judged so before | judged so after | LP | quality | diversity | identity | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for target in dict.fromkeys(row.target for row in rows):
        runs = [row for row in rows if row.target == target]

        def cell(name: str, form: str, runs=runs) -> str:
            values = [getattr(run, name) for run in runs]
            spread = f" ± {format(pstdev(values), form)}" if len(values) > 1 else ""
            return format(mean(values), form) + spread

        forms = {"judged_before": ".0%", "judged": ".0%", "lp": ".2f", "quality": ".2f",
                 "diversity": ".2f", "identity": ".0%", "seconds": ".0f"}  # fmt: skip
        lines.append(f"| {target} | " + " | ".join(cell(n, f) for n, f in forms.items()) + " |")
    return "\n".join(lines)


def contact_sheet(rows: dict[str, Tensor], scale: int = 2) -> Image.Image:
    """A row of pictures [N, 3, H, W] for each label, the label at the left."""
    strips = {name: image_grid(pictures, len(pictures)) for name, pictures in rows.items()}
    width, height = (side * scale for side in next(iter(strips.values())).size)
    margin = 110
    sheet = Image.new("RGB", (margin + width, height * len(strips)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, strip) in enumerate(strips.items()):
        sheet.paste(strip.resize((width, height), Image.Resampling.BICUBIC), (margin, i * height))
        draw.text((8, i * height + height // 2 - 6), name, fill="black")
    return sheet


# The command


def add_evaluate(commands, command) -> None:
    """Options of `evaluate`; `command` makes a parser with the options that all commands share."""
    parser = command(commands, "evaluate", run_evaluate, "Judge adaptations of the bundled world.")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(STYLES)[1:],
                        metavar="STYLE", help="styles of the world (default: twelve)")  # fmt: skip
    parser.add_argument("--runs", type=int, default=1, help="training seeds each (default: 1)")
    parser.add_argument("--samples", type=int, default=128, help="pictures judged (default: 128)")
    parser.add_argument("--clip", default="demo", help="CLIP models joined by + (default: demo)")
    parser.add_argument("--sheet", type=Path, help="PNG of frozen and adapted pictures to write")


def run_evaluate(args: argparse.Namespace) -> int:
    """Train, judge, print."""
    if args.runs < 1 or args.samples < 2:
        raise ValueError("Give --runs of 1 or more and --samples of 2 or more.")
    device = pick_device(args.device)
    base, clips = load_generator(args.generator, device), load_clips(args.clip, device)
    judge, preset = load_judge(device=device), PRESETS["demo"]
    rows, strips = [], {"photo": sample(base, SHEET_SEEDS, PSI)}
    for target in args.targets:
        for seed in range(args.runs):
            config = replace(preset.config, seed=seed, preview_every=0)
            adapted, seconds = train(base, clips, target, replace(preset, config=config))
            figures = assess(base, adapted, clips[0], judge, target, args.samples)
            rows.append(Row(target, seed, seconds=seconds, **figures))
            if args.json:
                print(json.dumps(asdict(rows[-1])), flush=True)
            else:
                print(f"{target}, seed {seed}: judged {rows[-1].judged:.0%}, LP {rows[-1].lp:.2f}",
                      file=sys.stderr, flush=True)  # fmt: skip
        strips[target] = sample(adapted, SHEET_SEEDS, PSI)
    if not args.json:
        print(table(rows))
    if args.sheet:
        contact_sheet(strips).save(args.sheet, format="PNG")
    return 0
