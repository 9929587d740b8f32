"""The figures that a report gives, and the arithmetic over targets and seeds.

A run is a line of the summary, as `nada.experiments.folder.summarise` makes it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Args:
        name: its key in the summary.
        form: its format in a table.
        better: 1 where more is better, −1 where less is, 0 where neither.
        meaning: in a line.
        clock: whether other work on the machine spoils it: a table then gives the median over all
            runs instead of means, spreads and comparisons.
    """

    name: str
    form: str
    better: int
    meaning: str
    clock: bool = False

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


FIGURES = (
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
    Figure("leak", ".1%", -1, "what people in the pictures have by chance, seen more often"),
    Figure("seconds", ".0f", -1, "seconds of training", clock=True),
)


@dataclass(frozen=True)
class ReportedCase:
    """A line of a comparison and its finished runs; planned: how many there shall be."""

    name: str
    settings: dict
    runs: list[dict]
    planned: int


def figures_of(cases: Sequence[ReportedCase]) -> list[Figure]:
    """The figures that some run has."""
    found = {
        name
        for case in cases
        for run in case.runs
        for name, value in run["figures"].items()
        if value is not None
    }
    return [figure for figure in FIGURES if figure.name in found]


def of_whole_seeds(runs: Sequence[dict]) -> list[dict]:
    """Those of a case's runs whose seed has as many targets as any: while a sweep is under way, a
    mean over some targets must not stand for that over all."""
    targets = Counter(run["seed"] for run in runs)
    return [run for run in runs if targets[run["seed"]] == max(targets.values())]


# Over targets and seeds


def over_seeds(runs: Sequence[dict], name: str) -> list[float]:
    """A figure's mean over targets for each seed, ordered by seed."""
    values = _by(runs, "seed", name)
    return [mean(values[seed]) for seed in sorted(values)]


def over_targets(runs: Sequence[dict], name: str) -> list[float]:
    """A figure's mean over seeds for each target."""
    return [mean(values) for values in _by(runs, "target", name).values()]


def _by(runs: Sequence[dict], key: str, name: str) -> dict:
    values = {}
    for run in runs:
        if run["figures"].get(name) is not None:
            values.setdefault(run[key], []).append(run["figures"][name])
    return values


def paired(runs: Sequence[dict], first: Sequence[dict], name: str) -> list[float]:
    """For each target, how much more of a figure than in `first`: the mean over common seeds."""
    other = {(run["target"], run["seed"]): run["figures"].get(name) for run in first}
    changes = {}
    for run in runs:
        mine, theirs = run["figures"].get(name), other.get((run["target"], run["seed"]))
        if mine is not None and theirs is not None:
            changes.setdefault(run["target"], []).append(mine - theirs)
    return [mean(changes[target]) for target in sorted(changes)]


def spread(runs: Sequence[dict], name: str) -> tuple[float, float] | None:
    """Mean and standard deviation over seeds of a figure; None of nothing."""
    seeds = over_seeds(runs, name)
    return (mean(seeds), stdev(seeds) if len(seeds) > 1 else 0.0) if seeds else None


# Along the steps


def at_step(run: dict, step: int) -> dict:
    """A run as its curve says that it was at a step: seed, target and figures."""
    curve = run["curve"]
    i = curve["step"].index(step)
    figures = {name: values[i] for name, values in curve.items() if name != "step"}
    return {"seed": run["seed"], "target": run["target"], "figures": figures}


def mean_curve(runs: Sequence[dict], name: str) -> list[tuple[int, float, float]]:
    """(step, mean, standard deviation over seeds) at the steps at which all the runs were looked
    at."""
    runs = [run for run in runs if name in run["curve"]]
    steps = set.intersection(*(set(run["curve"]["step"]) for run in runs)) if runs else set()
    return [(step, *spread([at_step(run, step) for run in runs], name)) for step in sorted(steps)]


# Cells of a table


def figure_cell(runs: Sequence[dict], figure: Figure) -> str:
    """Mean and spread over seeds, or a clock's median over runs; "–" of nothing."""
    if not figure.clock:
        return spread_cell(over_seeds(runs, figure.name), figure.form)
    values = [v for run in runs if (v := run["figures"].get(figure.name)) is not None]
    return format(median(values), figure.form) if values else "–"


def spread_cell(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation, "–" of nothing."""
    if not values:
        return "–"
    deviation = f" ± {format(stdev(values), form)}" if len(values) > 1 else ""
    return format(mean(values), form) + deviation


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
