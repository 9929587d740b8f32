"""How well adaptation works on the bundled world: `python -m nada evaluate`.

A sweep of one case, a preset, whose folder goes when its figures are printed. What they
mean: `nada.experiments.measure.assess`.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev

from PIL import Image

from nada.clip import bundled_path, split_names
from nada.demo.styles import HELD_OUT, STYLES, TARGETS, TUNED
from nada.experiments.folder import GRID, home
from nada.experiments.measure import REGIONS, assess_base
from nada.experiments.pool import in_processes
from nada.experiments.sheets import contact_sheet
from nada.experiments.spec import Trial, parse
from nada.experiments.tables import markdown_table
from nada.experiments.workbench import Workbench
from nada.formats.files import check_place, written_whole
from nada.formats.messages import json_line
from nada.presets import PRESETS

FORMS = {
    "judged_before": ".0%",
    "judged": ".0%",
    "lp": ".2f",
    "quality": ".2f",
    "diversity": ".0%",
    "diversity_truth": ".0%",
    "identity": ".0%",
    "backdrop": ".0%",
    "hair": ".0%",
    "skin": ".0%",
    "glasses": ".0%",
    "seconds": ".0f",
}
MARGIN = 110  # pixels of the sheet for a target's name
GROUPS = {"Settings tuned on these": TUNED, "Held out": HELD_OUT}


def add_evaluate(commands, command) -> None:
    """Options of `evaluate`; `command` makes a parser with the options that all commands share."""
    parser = command(commands, "evaluate", run_evaluate, "Judge adaptations of the bundled world.")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(STYLES)[1:],
                        metavar="STYLE", help="styles of the world (default: all)")  # fmt: skip
    parser.add_argument("--runs", type=int, default=1, help="training seeds each (default: 1)")
    parser.add_argument("--samples", type=int, default=128, help="pictures judged (default: 128)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: 1)")
    parser.add_argument(
        "--clip", default="demo", help="CLIP models joined by commas (default: demo)"
    )
    parser.add_argument("--preset", default="demo", choices=PRESETS, help="(default: demo)")
    parser.add_argument("--sheet", type=Path, help="PNG of frozen and adapted pictures to write")


def run_evaluate(args: argparse.Namespace) -> int:
    """Train, judge, print."""
    if args.runs < 1 or args.samples < 2 or args.jobs < 1:
        raise ValueError("Give --runs and --jobs of 1 or more and --samples of 2 or more.")
    if args.sheet:
        check_place(args.sheet, (".png",))
    trials, workbench = trials_for(args), Workbench(args.device)
    observer = workbench.observer(trials[0])  # what cannot be loaded is said before any training
    with tempfile.TemporaryDirectory() as folder:
        rows = evaluate(trials, Path(folder), args)
        drawn = sheet(trials, Path(folder)) if args.sheet else None
    if not args.json:
        order = list(dict.fromkeys(args.targets))
        rows.sort(key=lambda row: (order.index(row["target"]), row["seed"]))
        print(table(rows), *summary(rows), sep="\n\n")
        print(
            "\nFréchet distance of the base from renders {generator:.3f}, of renders from other "
            "renders {renders:.3f} (judge's features).".format(
                **assess_base(observer.base, observer.judge)
            )
        )
    if drawn:
        with written_whole(args.sheet) as unfinished:
            drawn.save(unfinished, format="PNG")
    return 0


def trials_for(args: argparse.Namespace) -> list[Trial]:
    """The preset for every target and seed, looked at in the end alone."""
    measure = {"clip": first_clip(args.clip), "judge": "demo", "samples": args.samples}
    looks = {"people": 2, "every": PRESETS[args.preset].config.steps}
    spec = {
        "generator": args.generator,
        "clip": args.clip,
        "preset": args.preset,
        "targets": args.targets,
        "seeds": list(range(args.runs)),
        "measure": {**measure, **looks},
        "group": [{"title": "evaluate", "case": [{"name": args.preset}]}],
    }
    return parse(spec, "evaluate").runs


def first_clip(spec: str) -> str:
    """The first model of an ensemble as `load_clips` takes it: the one that measures."""
    name = split_names(spec)[0]
    return str(bundled_path("demo")) if name == "demo" else name


def evaluate(trials: Sequence[Trial], folder: Path, args: argparse.Namespace) -> list[dict]:
    """Perform the trials, say how each ended; a row of figures for each."""
    rows = []
    threads = 1 if args.jobs > 1 else None  # one process may have the whole machine
    for trial, result in in_processes(trials, folder, args.device, args.jobs, threads):
        if isinstance(result, Exception):
            raise result
        rows.append(row := row_of(result))
        if args.json:
            print(json_line(row), flush=True)
        else:
            judged = f"judged {row['judged']:.0%}, LP {row['lp']:.2f}"
            done = f"{len(rows)}/{len(trials)} {trial.target}, seed {trial.seed}"
            print(f"{done}: {judged}", file=sys.stderr, flush=True)
    return rows


def row_of(result: Mapping) -> dict:
    """Target, seed and figures of a trial's result."""
    figures = {**result["figures"], "seconds": result["seconds"]}
    row = {"target": result["target"], "seed": result["seed"]}
    return row | {name: figures[name] for name in FORMS}


# What is printed and drawn


def table(rows: Sequence[Mapping]) -> str:
    """A line a target, mean ± standard deviation over the seeds of training."""
    lines = []
    for target in dict.fromkeys(row["target"] for row in rows):
        runs = [row for row in rows if row["target"] == target]
        cells = [_cell([run[name] for run in runs], form) for name, form in FORMS.items()]
        lines.append([target, *cells])
    return markdown_table(["target", *(name.replace("_", " ") for name in FORMS)], lines)


def _cell(values: Sequence[float | None], form: str) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    spread = f" ± {format(pstdev(values), form)}" if len(values) > 1 else ""
    return format(mean(values), form) + spread


def summary(rows: Sequence[Mapping]) -> list[str]:
    """A sentence for each group of targets: how many reach what was aimed at."""
    lines = []
    for name, group in GROUPS.items():
        means = [_means(rows, target) for target in group]
        means = [figures for figures in means if figures]
        if not means:
            continue
        good = sum(m["judged"] >= 0.9 and m["lp"] < 0.8 for m in means)
        kept = {
            what: _mean_of([m[what] for m in means]) for what in (*REGIONS, "glasses", "diversity")
        }
        shares = ", ".join(f"{what} {v:.0%}" for what, v in kept.items() if v is not None)
        lines.append(
            f"{name}: {good} of {len(means)} judged as the target in 90 % of pictures or more "
            f"with LP below 0.8; kept on average: {shares}."
        )
    return lines


def _means(rows: Sequence[Mapping], target: str) -> dict[str, float | None]:
    """Each figure's mean over a target's seeds; nothing of a target without rows."""
    runs = [row for row in rows if row["target"] == target]
    return {name: _mean_of([run[name] for run in runs]) for name in FORMS} if runs else {}


def _mean_of(values: Sequence[float | None]) -> float | None:
    values = [value for value in values if value is not None]
    return mean(values) if values else None


def sheet(trials: Sequence[Trial], folder: Path) -> Image.Image:
    """Some people before adaptation, then a strip of them for each target, by its last seed."""
    strips = {}
    for trial in trials:
        with Image.open(home(folder, trial.id) / GRID) as grid:
            side = grid.height // 2
            strips.setdefault("photo", [grid.crop((0, 0, grid.width, side))])
            strips[trial.target] = [grid.crop((0, side, grid.width, 2 * side))]
    return contact_sheet(strips, columns=2, margin=MARGIN)
