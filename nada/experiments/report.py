"""What a sweep came to, from its folder alone: `python -m nada report FOLDER`.

Writes FOLDER/report.md with pictures in FOLDER/figures, and FOLDER/summary.jsonl, a line a run.
A folder that holds only plans and the summary gives the same report, which is what makes it small
enough to keep; pictures of people need the runs themselves and stay as they are without them.
Nothing in a report depends on when, where or in which order the runs were done.
"""

import argparse
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

from nada.experiments.stopping import knee, past_plateau, plateau
from nada.experiments.sweep import SUMMARY, read_summary
from nada.formats.files import written_whole

DIGITS = 4  # significant, of every number in the summary


@dataclass(frozen=True)
class Figure:
    """How a figure is told. better: 1 where more is better, −1 where less is, 0 where neither.
    clock: the machine's rather than the run's, so that its median over all runs is all there is to
    tell: other work on the machine spoils means, spreads and comparisons."""

    name: str
    form: str
    better: int
    meaning: str
    clock: bool = False


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("judged", ".0%", 1, "share of pictures that the judge calls the target"),
        Figure("lp", ".3f", -1, "L1 distance to the true render, relative to before"),
        Figure("kernel", ".3f", -1, "kernel distance (KID) from true renders, judge's features"),
        Figure("quality", ".3f", 1, "mean cosine of pictures and target prompt in CLIP"),
        Figure("identity", ".0%", 1, "how often CLIP finds an adapted person's own photo"),
        Figure("clip_diversity", ".3f", 1, "mean 1 − cosine between adapted people in CLIP"),
        Figure("diversity", ".0%", 1, "diversity in the judge's features, relative to before"),
        Figure("backdrop", ".0%", 1, "backdrops that kept their colour, where they should"),
        Figure("hair", ".0%", 1, "hair that kept its colour, where it should"),
        Figure("skin", ".0%", 1, "skin that kept its colour, where it should"),
        Figure("glasses", ".0%", 1, "people who still have glasses, or still have none"),
        Figure("seconds", ".0f", -1, "seconds of training", clock=True),
    )
}
CURVES = ("quality", "identity", "clip_diversity", "judged", "lp", "diversity")
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


# Runs


def load_results(folder: Path) -> dict[str, dict]:
    """The finished runs by id, as the summary tells them: those of the summary, and those with a
    folder, which count where both are there."""
    paths = sorted((folder / "runs").glob("*/result.json"))
    return read_summary(folder) | {path.parent.name: summarise(path.parent) for path in paths}


def summarise(home: Path) -> dict:
    """A run's line of the summary, from its folder."""
    result = json.loads((home / "result.json").read_text(encoding="utf-8"))
    looks = (home / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    looks = [json.loads(line) for line in looks]
    names = [name for name in CURVES if name in looks[0]]
    figures = {**result["figures"], "seconds": result["seconds"]}
    for name in set(looks[-1]) & set(CURVES) - set(figures):
        figures[name] = looks[-1][name]  # what only the looks along the way tell
    return {
        "id": result["id"],
        "target": result["target"],
        "seed": result["seed"],
        "figures": {name: _rounded(value) for name, value in sorted(figures.items())},
        "curve": {
            "step": [look["step"] for look in looks],
            **{name: [_rounded(look[name]) for look in looks] for name in names},
        },
        "steps": result["steps_done"],
        "layers": result["layers"],
        "diverged": result["diverged"] is not None,
        "made_by": result["made_by"],
    }


def _rounded(value: float | None) -> float | None:
    return value if value is None else float(f"{value:.{DIGITS}g}")


def write_summary(folder: Path, runs: dict[str, dict]) -> None:
    """A line a run, ordered by id."""
    with written_whole(folder / SUMMARY) as unfinished:
        lines = (json.dumps(runs[key], sort_keys=True) + "\n" for key in sorted(runs))
        unfinished.write_text("".join(lines), encoding="utf-8")


# Numbers


def over_seeds(runs: Sequence[dict], name: str) -> list[float]:
    """A figure's mean over targets for each seed, ordered by seed."""
    values = {}
    for run in runs:
        if run["figures"].get(name) is not None:
            values.setdefault(run["seed"], []).append(run["figures"][name])
    return [mean(values[seed]) for seed in sorted(values)]


def paired(runs: Sequence[dict], first: Sequence[dict], name: str) -> list[float]:
    """For each target, how much more of a figure than in `first`: the mean over common seeds."""
    other = {(run["target"], run["seed"]): run["figures"].get(name) for run in first}
    changes = {}
    for run in runs:
        mine, theirs = run["figures"].get(name), other.get((run["target"], run["seed"]))
        if mine is not None and theirs is not None:
            changes.setdefault(run["target"], []).append(mine - theirs)
    return [mean(changes[target]) for target in sorted(changes)]


def spread_cell(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation, "–" of nothing."""
    if not values:
        return "–"
    spread = f" ± {format(stdev(values), form)}" if len(values) > 1 else ""
    return format(mean(values), form) + spread


def paired_cell(changes: Sequence[float], figure: Figure) -> str:
    """Mean ± standard error over targets, and for how many it is a change for the better."""
    if not changes:
        return "–"
    error = ""
    if len(changes) > 1:
        error = f" ± {format(stdev(changes) / math.sqrt(len(changes)), figure.form)}"
    better = sum(change * figure.better > 0 for change in changes)
    return f"{signed(mean(changes), figure.form)}{error} ({better} of {len(changes)})"


def signed(value: float, form: str) -> str:
    """A change with its sign, but none before what is rounded to zero."""
    size = format(abs(value), form)
    return size if size == format(0.0, form) else f"{'−' if value < 0 else '+'}{size}"


# The report


@dataclass(frozen=True)
class Case:
    """A line of a comparison and its finished runs."""

    name: str
    settings: dict
    runs: list[dict]
    wanted: int


def write_report(folder: Path) -> Path:
    """Write the report, its figures and the summary; the report's path.

    Raises:
        ValueError: the folder is no sweep's, or no run is finished.
    """
    plans = read_plans(folder)
    if not plans:
        raise ValueError(f"{folder} holds no plans: give the folder of `python -m nada sweep`.")
    runs = load_results(folder)
    if not runs:
        raise ValueError(f"No run in {folder} is finished: let the sweep do some first.")
    write_summary(folder, runs)
    text = "\n\n".join(part for plan in plans for part in plan_parts(folder, plan, runs))
    path = folder / "report.md"
    with written_whole(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
    return path


def read_plans(folder: Path) -> list[dict]:
    """What the folder's sweep was to compare, a specification each."""
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("plans/*.json"))]


def named_groups(plan: dict) -> list[tuple[str, dict]]:
    """A plan's comparisons, with what the names of their pictures begin with."""
    return [(f"{plan['name']}-{number}", group) for number, group in enumerate(plan["groups"], 1)]


MARK = re.compile(r"<!-- (\S+): (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def fill_in(page: Path, folder: Path) -> None:
    """Write a folder's comparisons into a Markdown page of one's own: the tables and pictures of
    a group between `<!-- SPEC: TITLE -->` and `<!-- end -->`.

    Raises:
        ValueError: the page names a comparison that the folder does not have.
    """
    runs = load_results(folder)
    groups = {
        (plan["name"], group["title"]): (stem, group)
        for plan in read_plans(folder)
        for stem, group in named_groups(plan)
    }

    def filled(mark: re.Match) -> str:
        if mark.groups() not in groups:
            raise ValueError(f"{page} asks for “{mark[1]}: {mark[2]}”, which {folder} has not.")
        stem, group = groups[mark.groups()]
        parts = [*comparison(group_cases(group, runs), group["stopping"])]
        for kind, ending in (("figures", "svg"), ("curves", "svg"), ("people", "png")):
            picture = folder / "figures" / f"{stem}-{kind}.{ending}"
            if picture.is_file():
                where = Path(os.path.relpath(picture, page.parent)).as_posix()
                parts.append(f"![{_plain(group['title'])}: {kind}]({where})")
        return "\n\n".join([f"<!-- {mark[1]}: {mark[2]} -->", *parts, "<!-- end -->"])

    text = MARK.sub(filled, page.read_text(encoding="utf-8"))
    with written_whole(page) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def plan_parts(folder: Path, plan: dict, runs: dict[str, dict]) -> Iterator[str]:
    """A specification's chapter, paragraph by paragraph."""
    yield f"# {plan['title']}"
    if plan["text"]:
        yield plan["text"].strip()
    wanted = {key for group in plan["groups"] for case in group["cases"] for key in case["runs"]}
    made_by = sorted({runs[key]["made_by"] for key in wanted & set(runs)})
    yield (
        f"{len(wanted & set(runs))} of {len(wanted)} runs are done ({'; '.join(made_by)}). Tables "
        "give the mean over all targets ± the standard deviation of that mean over the seeds of "
        "training; of seconds the median over all runs."
    )
    cases = [case for group in plan["groups"] for case in group_cases(group, runs)]
    yield "\n".join(f"- {f.name.replace('_', ' ')}: {f.meaning}" for f in shown_figures(cases))
    for stem, group in named_groups(plan):
        yield from group_parts(folder, stem, group, runs)


def group_parts(folder: Path, stem: str, group: dict, runs: dict[str, dict]) -> Iterator[str]:
    """A comparison: what was compared, tables, charts, pictures."""
    cases = group_cases(group, runs)
    yield f"## {group['title']}"
    if group["text"]:
        yield group["text"].strip()
    done = [case for case in cases if case.runs]
    if not done:
        yield "No run of this comparison is done."
        return
    yield setting_of(group, done)
    yield from comparison(cases, group["stopping"])
    yield from figure_parts(folder, stem, group["title"], done)
    if len({run["target"] for case in done for run in case.runs}) > 1:
        yield target_details(done)


def group_cases(group: dict, runs: dict[str, dict]) -> list[Case]:
    """A comparison's cases, with those of their runs that are done: see `of_whole_seeds`."""
    return [
        Case(case["name"], case["settings"],
             of_whole_seeds([runs[k] for k in case["runs"] if k in runs]), len(case["runs"]))
        for case in group["cases"]
    ]  # fmt: skip


def of_whole_seeds(runs: Sequence[dict]) -> list[dict]:
    """Those of a case's runs whose seed has as many targets as any: while a sweep is under way, a
    mean over some targets must not stand for that over all."""
    targets = Counter(run["seed"] for run in runs)
    return [run for run in runs if targets[run["seed"]] == max(targets.values())]


def comparison(cases: Sequence[Case], stopping: bool) -> Iterator[str]:
    """The tables of a comparison; nothing where no run is done."""
    done = [case for case in cases if case.runs]
    if not done:
        return
    yield figures_table(cases)
    if len(done) > 1 and cases[0].runs:
        yield (
            f"Against “{cases[0].name}”, target by target with the same seeds (mean ± standard "
            "error over targets; for how many targets it is better):"
        )
        yield paired_table(done)
    if layers := layers_table(done):
        yield "How often a layer was among those trained last, over all runs:"
        yield layers
    if stopping:
        yield from stopping_parts(done)


def setting_of(group: dict, cases: Sequence[Case]) -> str:
    """What all cases share, in a sentence or two."""
    measure, full = group["measure"], [case["all_settings"] for case in group["cases"]]
    common = {k: v for k, v in full[0].items() if all(other[k] == v for other in full)}
    told = ", ".join(f"{key.strip('_')} {_told(value)}" for key, value in common.items())
    targets = list(dict.fromkeys(run["target"] for case in cases for run in case.runs))
    seeds = sorted({run["seed"] for case in cases for run in case.runs})
    judge = "" if measure["judge"] == "none" else f" and the judge {measure['judge']}"
    return (
        f"{len(targets)} targets ({', '.join(targets)}), {len(seeds)} seeds each, generator "
        f"{group['generator']}; measured by CLIP {measure['clip']}{judge} on "
        f"{measure['samples']} pictures, truncation 0.7 (LP, diversity and kernel: 1). "
        f"Common to all: {told}."
    )


def _told(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def shown_figures(cases: Sequence[Case]) -> list[Figure]:
    """The figures that some run has."""
    there = {
        name
        for case in cases
        for run in case.runs
        for name, value in run["figures"].items()
        if value is not None
    }
    return [figure for name, figure in FIGURES.items() if name in there]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; what would break a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def figures_table(cases: Sequence[Case]) -> str:
    """A row a case: how many runs, how many diverged, every figure."""
    figures = shown_figures(cases)
    diverged = any(run["diverged"] for case in cases for run in case.runs)
    head = ["case", "runs", *(["diverged"] if diverged else []),
            *(f.name.replace("_", " ") for f in figures)]  # fmt: skip
    rows = []
    for case in cases:
        count = len(case.runs)
        told = [f"{count}" if count == case.wanted else f"{count} of {case.wanted}"]
        told += [str(sum(run["diverged"] for run in case.runs))] if diverged else []
        rows.append([case.name, *told, *(figure_cell(case.runs, f) for f in figures)])
    return markdown_table(head, rows)


def figure_cell(runs: Sequence[dict], figure: Figure) -> str:
    """Mean and spread over seeds, or a clock's median over runs; "–" of nothing."""
    if not figure.clock:
        return spread_cell(over_seeds(runs, figure.name), figure.form)
    values = [v for run in runs if (v := run["figures"].get(figure.name)) is not None]
    return format(median(values), figure.form) if values else "–"


def paired_table(cases: Sequence[Case]) -> str:
    """A row for each case but the first: how its figures differ from the first's."""
    figures = [figure for figure in shown_figures(cases) if not figure.clock]
    head = ["case", *(f.name.replace("_", " ") for f in figures)]
    first = cases[0].runs
    rows = [
        [case.name, *(paired_cell(paired(case.runs, first, f.name), f) for f in figures)]
        for case in cases[1:]
    ]
    return markdown_table(head, rows)


def layers_table(cases: Sequence[Case]) -> str:
    """A row a case, a column a layer; "" where all runs trained the same."""
    chosen = {tuple(sorted(run["layers"])) for case in cases for run in case.runs}
    if len(chosen) < 2:
        return ""
    names = sorted({name for layers in chosen for name in layers}, key=_in_order)
    rows = [
        [case.name, *(f"{mean(n in run['layers'] for run in case.runs):.0%}" for n in names)]
        for case in cases
    ]
    return markdown_table(["case", *names], rows)


def _in_order(layer: str) -> tuple:
    kind, _, number = layer.partition(".")
    return ("conv1", "convs", "to_rgb1", "to_rgbs").index(kind), int(number or 0)


def target_details(cases: Sequence[Case]) -> str:
    """One figure for each target and case, folded."""
    figure = next(f for name in ("lp", "quality") for f in shown_figures(cases) if f.name == name)
    rows = []
    for target in dict.fromkeys(run["target"] for case in cases for run in case.runs):
        runs = [[run for run in case.runs if run["target"] == target] for case in cases]
        cells = [spread_cell(over_seeds(mine, figure.name), figure.form) for mine in runs]
        rows.append([target, *cells])
    table = markdown_table(["target", *(case.name for case in cases)], rows)
    name = figure.name.replace("_", " ")
    return f"<details><summary>{name} by target</summary>\n\n{table}\n\n</details>"


# When to stop

RULES: dict[str, Callable[[Sequence, Sequence], int]] = {
    "knee": knee,
    "plateau": plateau,
    "half as long again": past_plateau,
}


def stopping_parts(cases: Sequence[Case]) -> Iterator[str]:
    """Where each rule stops, and what that costs against the best step and the last."""
    truth = all("lp" in run["curve"] for case in cases for run in case.runs)
    yield (
        "When to stop. Three rules look at CLIP's quality alone: the knee of the whole curve, seen "
        "afterwards; the plateau, the first step at which quality gains less than a fifth as fast "
        "as it did at its fastest, seen on the way; and half as long again as up to the plateau."
        + (" The best step is that of the lowest LP, which only the truth can tell." if truth
           else "")
        + " ± of the steps is over runs, of the rest over seeds."
    )  # fmt: skip
    figures = [FIGURES[n] for n in (("lp", "judged") if truth else ("quality",))]
    figures += [FIGURES["identity"], FIGURES["clip_diversity"]]
    head = ["case", "stop", "at step", *(f.name.replace("_", " ") for f in figures)]
    rows = []
    for case in cases:
        for stop, steps in stops(case.runs, truth).items():
            at = [
                {"seed": run["seed"], "figures": at_step(run["curve"], step)}
                for run, step in zip(case.runs, steps)
            ]
            cells = [spread_cell(over_seeds(at, f.name), f.form) for f in figures]
            rows.append([case.name, stop, spread_cell(steps, ".0f"), *cells])
    yield markdown_table(head, rows)


def stops(runs: Sequence[dict], truth: bool) -> dict[str, list[int]]:
    """For each way to stop, the step at which each run would."""
    found = {}
    if truth:
        found["best"] = [min(zip(run["curve"]["lp"], run["curve"]["step"]))[1] for run in runs]
    for name, rule in RULES.items():
        found[name] = [rule(run["curve"]["step"], run["curve"]["quality"]) for run in runs]
    found["last"] = [run["curve"]["step"][-1] for run in runs]
    return found


def at_step(curve: dict, step: int) -> dict[str, float]:
    """What a run's curve says at a step."""
    i = curve["step"].index(step)
    return {name: values[i] for name, values in curve.items() if name != "step"}


# Charts


def figure_parts(folder: Path, stem: str, title: str, cases: Sequence[Case]) -> Iterator[str]:
    """Draw what there is to draw; the Markdown that shows it."""
    figures = [f for f in shown_figures(cases) if f.name in CURVES]
    charts = {"figures": dot_chart(cases, figures)}
    if any(len(run["curve"]["step"]) > 2 for case in cases for run in case.runs):
        charts["curves"] = line_chart(cases, figures)
    for kind, svg in charts.items():
        name = f"figures/{stem}-{kind}.svg"
        with written_whole(folder / name) as unfinished:
            unfinished.write_text(svg, encoding="utf-8")
        yield f"![{_plain(title)}: {kind}]({name})"
    name = f"figures/{stem}-people.png"
    sheet = people(folder, cases)
    if sheet:
        with written_whole(folder / name) as unfinished:
            sheet.save(unfinished, format="PNG", optimize=True)
    if (folder / name).is_file():
        yield f"![{_plain(title)}: people]({name})"


PANEL, GAP, TOP, ROW = 190, 24, 34, 20  # pixels
STYLE = "font-family='DejaVu Sans, Arial, sans-serif' font-size='11'"


def dot_chart(cases: Sequence[Case], figures: Sequence[Figure]) -> str:
    """A panel a figure, a row a case: each target's mean in grey, their mean with the standard
    deviation over seeds in colour."""
    margin = 8 + 6.2 * max(len(case.name) for case in cases)
    height = TOP + ROW * len(cases) + 30
    body = [
        _text(margin - 8, TOP + ROW * (i + 0.7), case.name, "end") for i, case in enumerate(cases)
    ]
    for number, figure in enumerate(figures):
        left = margin + number * (PANEL + GAP)
        body += _dot_panel(left, cases, figure)
    return _svg(margin + len(figures) * (PANEL + GAP), height, body)


def _dot_panel(left: float, cases: Sequence[Case], figure: Figure) -> list[str]:
    dots = [[mean(v) for v in _by_target(case.runs, figure.name)] for case in cases]
    spreads = [_spread(case.runs, figure.name) for case in cases]
    ends = [m + s * d for m, d in filter(None, spreads) for s in (-1, 1)]
    low, high = _range([*ends, *(value for row in dots for value in row)])
    bottom = TOP + ROW * len(cases)

    def x(value: float) -> float:
        return left + PANEL * (value - low) / (high - low)

    parts = _panel_frame(left, bottom, figure, low, high)
    for i, (row, spread) in enumerate(zip(dots, spreads)):
        y = TOP + ROW * (i + 0.5)
        parts += [f"<circle cx='{x(v):.1f}' cy='{y:.1f}' r='2' fill='#bbb'/>" for v in row]
        if spread:
            middle, d = spread
            parts.append(_line([(x(middle - d), y), (x(middle + d), y)], COLOURS[0], 2))
            parts.append(f"<circle cx='{x(middle):.1f}' cy='{y:.1f}' r='4' fill='{COLOURS[0]}'/>")
    return parts


def _spread(runs: Sequence[dict], name: str) -> tuple[float, float] | None:
    """Mean and standard deviation over seeds; None of nothing."""
    seeds = over_seeds(runs, name)
    return (mean(seeds), stdev(seeds) if len(seeds) > 1 else 0.0) if seeds else None


def _by_target(runs: Sequence[dict], name: str) -> list[list[float]]:
    values = {}
    for run in runs:
        if run["figures"].get(name) is not None:
            values.setdefault(run["target"], []).append(run["figures"][name])
    return list(values.values())


def line_chart(cases: Sequence[Case], figures: Sequence[Figure], tall: int = 150) -> str:
    """A panel a figure, a line a case over the steps: the mean over all runs, and a band of the
    standard deviation over seeds."""
    bottom = TOP + tall
    per_column = 4
    height = bottom + 40 + 16 * min(per_column, len(cases))
    body = []
    for number, figure in enumerate(figures):
        body += _line_panel(8 + number * (PANEL + GAP), bottom, cases, figure)
    width = max(8 + len(figures) * (PANEL + GAP), 8 + 260 * math.ceil(len(cases) / per_column))
    for i, case in enumerate(cases):
        x, y = 8 + 260 * (i // per_column), bottom + 44 + 16 * (i % per_column)
        body.append(_line([(x, y - 4), (x + 18, y - 4)], COLOURS[i % len(COLOURS)], 2))
        body.append(_text(x + 24, y, case.name))
    return _svg(width, height, body)


def _line_panel(left: float, bottom: float, cases: Sequence[Case], figure: Figure) -> list[str]:
    curves = [mean_curve(case.runs, figure.name) for case in cases]
    points = [point for curve in curves for point in curve]
    low, high = _range([m + s * d for _, m, d in points for s in (-1, 1)])
    last = max(step for step, *_ in points) or 1

    def at(step: float, value: float) -> tuple[float, float]:
        return left + PANEL * step / last, bottom - (bottom - TOP) * (value - low) / (high - low)

    parts = _panel_frame(left, bottom, figure, 0, last, ".0f")
    parts += [
        _text(left + 2, TOP + 10, format(high, figure.form), fill="#777"),
        _text(left + 2, bottom - 3, format(low, figure.form), fill="#777"),
    ]
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        band = [at(s, m + d) for s, m, d in curve] + [at(s, m - d) for s, m, d in curve[::-1]]
        parts.append(f"<polygon points='{_points(band)}' fill='{colour}' fill-opacity='0.15'/>")
        parts.append(_line([at(s, m) for s, m, _ in curve], colour, 1.6))
    return parts


def mean_curve(runs: Sequence[dict], name: str) -> list[tuple[int, float, float]]:
    """(step, mean, standard deviation over seeds) at the steps at which all the runs were looked
    at."""
    runs = [run for run in runs if name in run["curve"]]
    steps = set.intersection(*(set(run["curve"]["step"]) for run in runs)) if runs else set()
    curve = []
    for step in sorted(steps):
        at = [{"seed": r["seed"], "figures": at_step(r["curve"], step)} for r in runs]
        curve.append((step, *_spread(at, name)))
    return curve


def _panel_frame(left, bottom, figure: Figure, low, high, form: str | None = None) -> list[str]:
    name = figure.name.replace("_", " ")
    arrow = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
    form = form or figure.form
    return [
        f"<rect x='{left:.1f}' y='{TOP}' width='{PANEL}' height='{bottom - TOP:.1f}' "
        "fill='none' stroke='#ccc'/>",
        _text(left + PANEL / 2, TOP - 10, name + arrow, "middle"),
        _text(left, bottom + 16, format(low, form), "start", "#777"),
        _text(left + PANEL, bottom + 16, format(high, form), "end", "#777"),
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values' range, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    shape = f"points='{_points(points)}' fill='none'"
    return f"<polyline {shape} stroke='{colour}' stroke-width='{width}'/>"


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222") -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{fill}'"
    return f"<text {place}>{escape(text)}</text>"


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}'"
    back = "<rect width='100%' height='100%' fill='white'/>"
    return "\n".join([f"{head} {STYLE}>", back, *body, "</svg>\n"])


# Pictures


def people(folder: Path, cases: Sequence[Case], targets: int = 2, each: int = 5):
    """A row a case below the frozen people: `each` of them for `targets` targets from all over the
    list, one seed; None where the runs' pictures are not there."""
    names = list(dict.fromkeys(run["target"] for case in cases for run in case.runs))
    names = names[:: math.ceil(len(names) / targets)]
    seed = min(run["seed"] for case in cases for run in case.runs)
    rows = [(case.name, [_grid_of(folder, case, name, seed) for name in names]) for case in cases]
    rows = [(name, grids) for name, grids in rows if all(grids)]
    if not rows:
        return None
    side = rows[0][1][0].height // 2  # two rows of pictures: frozen, adapted
    strip = each * side
    margin = 12 + 7 * max(len(name) for name, _ in [*rows, ("frozen", None)])
    size = (margin + len(names) * (strip + 6), side * (len(rows) + 1) + 18)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        draw.text((margin + column * (strip + 6), 3), name, fill="black")
    for row, (label, grids, top) in enumerate(
        [("frozen", rows[0][1], 0), *((label, grids, side) for label, grids in rows)]
    ):
        draw.text((6, 18 + side * row + side // 2 - 6), label, fill="black")
        for column, grid in enumerate(grids):
            cut = grid.crop((0, top, strip, top + side))
            sheet.paste(cut, (margin + column * (strip + 6), 18 + side * row))
    return sheet


def _grid_of(folder: Path, case: Case, target: str, seed: int) -> Image.Image | None:
    for run in case.runs:
        path = folder / "runs" / run["id"] / "grid.png"
        if (run["target"], run["seed"]) == (target, seed) and path.is_file():
            with Image.open(path) as image:
                return image.convert("RGB")
    return None


# The command


def add_report(commands) -> None:
    """Options of `report`."""
    summary = "Write what a sweep came to as Markdown with charts and pictures."
    parser = commands.add_parser("report", help=summary, description=summary)
    parser.set_defaults(run=run_report)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of `python -m nada sweep`")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="a Markdown page of your own to "
                        "write the tables into, at its marks <!-- SPEC: TITLE -->")  # fmt: skip


def run_report(args: argparse.Namespace) -> int:
    """Write, say where."""
    print(f"Wrote {write_report(args.folder)}.")
    if args.into:
        fill_in(args.into, args.folder)
        print(f"Filled in {args.into}.")
    return 0
