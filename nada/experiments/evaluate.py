"""How well adaptation works on the bundled world: `python -m nada evaluate`.

Each target is trained with the demo preset, then looked at by an independent judge
(`nada.demo.judge`) and compared with the true render of the same latents in the target's style.
Both are facts that no natural generator could give. What a style leaves alone (the backdrop of a
clown, the glasses of nearly everyone) must still be there.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from nada.adapt import adapt
from nada.checkpoint import load_generator
from nada.clip import CLIP, load_clips
from nada.demo.captions import ATTRIBUTES, attributes_of
from nada.demo.judge import Judge, has_attribute, load_judge, verdicts
from nada.demo.render import draw, factors_of, portrait
from nada.demo.styles import HELD_OUT, STYLES, TARGETS, TUNED, render
from nada.generator import Generator
from nada.guidance import prompt_features
from nada.machine import keep_freed_memory, pick_device
from nada.metrics import diversity, frechet_distance, identity, quality
from nada.presets import PRESETS, Preset, prepare
from nada.sample import image_grid, latents, sample

FIRST_SEED = 10_000  # of the judged pictures: far from those that a page shows
PSI = 0.7  # of the judged pictures: what the page shows
SHEET_SEEDS = tuple(range(6))
REGIONS = ("backdrop", "hair", "skin")
SAME_COLOUR = 0.1  # mean difference of RGB in 0..1 up to which a region counts as unchanged


@dataclass(frozen=True)
class Row:
    """What one run came to.

    judged_before, judged: share of pictures that the judge calls the target, frozen and adapted.
    lp: L1 distance to the true render of the same z in the target's style, relative to before
    adaptation; below 1 means that the pictures moved towards the truth.
    quality, identity: see `nada.metrics`; features of the first CLIP model.
    diversity: of the adapted pictures in the judge's features, relative to the frozen ones;
    diversity_truth: the same of the true renders, which is what the style itself leaves.
    backdrop, hair, skin: share of people whose colour there is kept, among those whose colour the
    style leaves alone; glasses: share of people who still have them, or still have none. None
    where the style leaves nothing to keep.
    """

    target: str
    seed: int
    judged_before: float
    judged: float
    lp: float
    quality: float
    diversity: float
    diversity_truth: float
    identity: float
    backdrop: float | None
    hair: float | None
    skin: float | None
    glasses: float | None
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
    loss, select = prepare(clips, target, preset)
    return loss, preset.config, select


def people(generator: Generator, count: int) -> Tensor:
    """z [count, z_dim] of those that `assess` looks at, on the generator's device."""
    z = latents(range(FIRST_SEED, FIRST_SEED + count), generator.z_dim)
    return z.to(generator.mean_latent.device)


def shown(generator: Generator, count: int, psi: float = PSI) -> Tensor:
    """Pictures [count, 3, H, W] in [-1, 1] of those people; psi: truncation, 1 for none."""
    return sample(generator, range(FIRST_SEED, FIRST_SEED + count), psi)


@dataclass(frozen=True)
class Frozen:
    """The people that `assess` looks at, before any adaptation.

    pictures, wide: by the base, truncated and not; photos: renders. features: of `pictures` by
    CLIP; verdicts: the judge's on them; spread, spread_of_photos: diversity of `wide` and `photos`
    in the judge's features. masks: [N, 1, H, W] for each of REGIONS.
    """

    z: Tensor
    pictures: Tensor
    wide: Tensor
    photos: Tensor
    features: Tensor
    verdicts: list[str]
    spread: float
    spread_of_photos: float
    masks: dict[str, Tensor]


@torch.no_grad()
@lru_cache(maxsize=2)
def _frozen(base: Generator, clip: CLIP, judge: Judge, count: int) -> Frozen:
    """The same for every run."""
    z = people(base, count)
    pictures, wide = shown(base, count), shown(base, count, 1.0)
    photos = render(z, "photo", base.size)
    features, verdict = clip.encode_image(pictures), verdicts(judge, pictures)
    spreads = [diversity(judge.features(images)) for images in (wide, photos)]
    return Frozen(z, pictures, wide, photos, features, verdict, *spreads, masks(z, base.size))


@torch.no_grad()
@lru_cache(maxsize=len(TARGETS))
def _truth(base: Generator, judge: Judge, target: str, count: int) -> tuple[Tensor, float]:
    """Renders of those people in the style `target`, and their diversity."""
    truth = render(people(base, count), target, base.size)
    return truth, diversity(judge.features(truth))


@torch.no_grad()
def assess(
    base: Generator, after: Tensor, wide_after: Tensor, clip: CLIP, judge: Judge, target: str
) -> dict[str, float | None]:
    """The figures of `Row`, of what an adapted generator shows.

    Args:
        base: the generator before.
        after, wide_after: [N, 3, H, W] in [-1, 1] as `shown` gives them, truncated and not:
            without truncation z says who is shown, so that pictures can be held against renders.
        target: the name of a style of the portrait world.
    """
    before = _frozen(base, clip, judge, len(after))
    truth, spread_of_truth = _truth(base, judge, target, len(after))
    features = clip.encode_image(after)
    return {
        "judged_before": _share(before.verdicts, target),
        "judged": _share(verdicts(judge, after), target),
        "lp": distance_to_truth(wide_after, truth) / distance_to_truth(before.wide, truth),
        "quality": quality(features, prompt_features(clip, target, ("{}",))),
        "diversity": diversity(judge.features(wide_after)) / before.spread,
        "diversity_truth": spread_of_truth / before.spread_of_photos,
        "identity": identity(features, before.features),
        **colours_kept(before.masks, before.wide, wide_after, before.photos, truth),
        "glasses": glasses_kept(judge, before.z, wide_after, truth, target),
    }


def _share(called: Sequence[str], target: str) -> float:
    return mean(verdict == target for verdict in called)


def masks(z: Tensor, size: int) -> dict[str, Tensor]:
    """Where each of REGIONS is in the pictures of the people z [N, 96]: [N, 1, size, size] of 0
    and 1."""
    scene = draw(portrait(factors_of(z)), size)
    return {region: (scene.part(region) > 0.9).to(z.dtype) for region in REGIONS}


def colours_kept(
    where: dict[str, Tensor], before: Tensor, after: Tensor, photos: Tensor, truth: Tensor
) -> dict[str, float | None]:
    """For each region the share of people whose mean colour there stayed, among those whose colour
    the style leaves alone. where: as `masks` gives it; pictures [N, 3, H, W] in [-1, 1]."""
    kept = {}
    for region, mask in where.items():
        area = mask.mean((1, 2, 3))

        def change(a: Tensor, b: Tensor, mask=mask, area=area) -> Tensor:
            means = ((a - b) / 2 * mask).mean((2, 3)) / area.clamp(min=1e-6)[:, None]
            return means.abs().mean(1)  # [N]

        left = (change(photos, truth) < SAME_COLOUR) & (area > 0.02)
        stayed = change(before, after) < SAME_COLOUR
        kept[region] = _share_of(stayed, left)
    return kept


def glasses_kept(
    judge: Judge, z: Tensor, after: Tensor, truth: Tensor, target: str
) -> float | None:
    """Share of people who have glasses, or none, as they should, where the judge can tell it from
    the true render."""
    label = attributes_of(factors_of(z), target)[:, list(ATTRIBUTES).index("glasses")]
    told = (label >= 0) & (has_attribute(judge, truth, "glasses") == (label == 1))
    return _share_of(has_attribute(judge, after, "glasses") == (label == 1), told)


def _share_of(right: Tensor, among: Tensor) -> float | None:
    """Mean of bools where `among`; None for a tenth or fewer of them."""
    return right[among].double().mean().item() if among.double().mean() > 0.1 else None


@torch.no_grad()
def assess_base(base: Generator, judge: Judge, count: int = 1024) -> dict[str, float]:
    """Fréchet distance, in the judge's features, of the base's pictures of `count` people from
    renders of others, and of renders of the first from those: what is left of it for the truth."""
    seeds = range(20_000, 20_000 + 2 * count)
    first, second = latents(seeds, base.z_dim).split(count)
    device = base.mean_latent.device

    def features(paint, z: Tensor) -> Tensor:
        return torch.cat([judge.features(paint(part.to(device)).clamp(-1, 1))
                          for part in z.split(32)])  # fmt: skip

    def painted(z: Tensor) -> Tensor:
        return render(z, "photo", base.size)

    others = features(painted, second)
    return {
        "generator": frechet_distance(features(base, first), others),
        "renders": frechet_distance(features(painted, first), others),
    }


FORMS = {"judged_before": ".0%", "judged": ".0%", "lp": ".2f", "quality": ".2f",
         "diversity": ".0%", "diversity_truth": ".0%", "identity": ".0%", "backdrop": ".0%",
         "hair": ".0%", "skin": ".0%", "glasses": ".0%", "seconds": ".0f"}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a target, mean ± standard deviation over the seeds of training."""
    columns = ["target", *(name.replace("_", " ") for name in FORMS)]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for target in dict.fromkeys(row.target for row in rows):
        runs = [row for row in rows if row.target == target]
        cells = [_cell([getattr(run, name) for run in runs], form) for name, form in FORMS.items()]
        lines.append("| " + " | ".join([target, *cells]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None], form: str) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    spread = f" ± {format(pstdev(values), form)}" if len(values) > 1 else ""
    return format(mean(values), form) + spread


def summary(rows: Sequence[Row]) -> list[str]:
    """A sentence for each group of targets: how many reach what was aimed at."""
    lines = []
    for name, group in (("Settings tuned on these", TUNED), ("Held out", HELD_OUT)):
        targets = [t for t in group if any(row.target == t for row in rows)]
        if not targets:
            continue
        means = {
            t: {
                f.name: _mean_of([getattr(row, f.name) for row in rows if row.target == t])
                for f in fields(Row)
                if f.name not in ("target", "seed")
            }
            for t in targets
        }
        good = sum(m["judged"] >= 0.9 and m["lp"] < 0.8 for m in means.values())
        kept = {
            what: _mean_of([m[what] for m in means.values()])
            for what in (*REGIONS, "glasses", "diversity")
        }
        told = ", ".join(f"{k} {v:.0%}" for k, v in kept.items() if v is not None)
        lines.append(
            f"{name}: {good} of {len(targets)} judged as the target in 90 % of pictures or more "
            f"with LP below 0.8; kept on average: {told}."
        )
    return lines


def _mean_of(values: Sequence[float | None]) -> float | None:
    values = [value for value in values if value is not None]
    return mean(values) if values else None


def contact_sheet(rows: dict[str, Tensor], columns: int = 2) -> Image.Image:
    """A strip of pictures [N, 3, H, W] for each label, the label at its left, in columns."""
    strips = {name: image_grid(pictures, len(pictures)) for name, pictures in rows.items()}
    width, height = next(iter(strips.values())).size
    margin, down = 110, -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (margin + width), down * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, strip) in enumerate(strips.items()):
        left, top = i // down * (margin + width), i % down * height
        sheet.paste(strip, (left + margin, top))
        draw.text((left + 8, top + height // 2 - 6), name, fill="black")
    return sheet


# The command


def add_evaluate(commands, command) -> None:
    """Options of `evaluate`; `command` makes a parser with the options that all commands share."""
    parser = command(commands, "evaluate", run_evaluate, "Judge adaptations of the bundled world.")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(STYLES)[1:],
                        metavar="STYLE", help="styles of the world (default: all)")  # fmt: skip
    parser.add_argument("--runs", type=int, default=1, help="training seeds each (default: 1)")
    parser.add_argument("--samples", type=int, default=128, help="pictures judged (default: 128)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: 1)")
    parser.add_argument("--clip", default="demo", help="CLIP models joined by + (default: demo)")
    parser.add_argument("--sheet", type=Path, help="PNG of frozen and adapted pictures to write")


@dataclass(frozen=True)
class Studio:
    """What a process needs to train and judge."""

    base: Generator
    clips: list[CLIP]
    judge: Judge
    preset: Preset
    samples: int

    @classmethod
    def open(cls, generator: str, clip: str, device: str, preset: Preset, samples: int):
        where = pick_device(device)
        return cls(load_generator(generator, where), load_clips(clip, where),
                   load_judge(device=where), preset, samples)  # fmt: skip

    def run(self, target: str, seed: int) -> tuple[Row, Tensor]:
        """A run's row, and the adapted pictures of SHEET_SEEDS."""
        config = replace(self.preset.config, seed=seed, preview_every=0)
        preset = replace(self.preset, config=config)
        adapted, seconds = train(self.base, self.clips, target, preset)
        pictures = [shown(adapted, self.samples, psi) for psi in (PSI, 1.0)]
        figures = assess(self.base, *pictures, self.clips[0], self.judge, target)
        return Row(target, seed, seconds=seconds, **figures), sample(adapted, SHEET_SEEDS, PSI)


def _run_in_process(settings: tuple, target: str, seed: int) -> tuple[Row, Tensor]:
    global _studio
    torch.set_num_threads(1)
    if "_studio" not in globals():
        _studio = Studio.open(*settings)
    return _studio.run(target, seed)


def _all_runs(studio: Studio, settings: tuple, jobs: int, work: list) -> Iterator:
    """(row, pictures) of each (target, seed) of `work`, in any order."""
    if jobs == 1:
        yield from (studio.run(*item) for item in work)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=keep_freed_memory) as pool:
        waiting = [pool.submit(_run_in_process, settings, *item) for item in work]
        yield from (done.result() for done in as_completed(waiting))


def run_evaluate(args: argparse.Namespace) -> int:
    """Train, judge, print."""
    if args.runs < 1 or args.samples < 2 or args.jobs < 1:
        raise ValueError("Give --runs and --jobs of 1 or more and --samples of 2 or more.")
    settings = (args.generator, args.clip, args.device, PRESETS["demo"], args.samples)
    studio, rows, strips = Studio.open(*settings), [], {}
    work = [(target, seed) for target in args.targets for seed in range(args.runs)]
    for row, pictures in _all_runs(studio, settings, args.jobs, work):
        rows.append(row)
        strips[row.target] = pictures
        if args.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"{len(rows)}/{len(work)} {row.target}, seed {row.seed}: judged "
                  f"{row.judged:.0%}, LP {row.lp:.2f}", file=sys.stderr, flush=True)  # fmt: skip
    if not args.json:
        rows.sort(key=lambda row: (args.targets.index(row.target), row.seed))
        distances = assess_base(studio.base, studio.judge)
        print(table(rows), *summary(rows), sep="\n\n")
        print("\nFréchet distance of the base from renders {generator:.3f}, of renders from other "
              "renders {renders:.3f} (judge's features).".format(**distances))  # fmt: skip
    if args.sheet:
        photos = sample(studio.base, SHEET_SEEDS, PSI)
        ordered = {target: strips[target] for target in args.targets}
        contact_sheet({"photo": photos, **ordered}).save(args.sheet, format="PNG")
    return 0
