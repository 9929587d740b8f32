"""What a sweep came to, from its folder alone: `python -m nada report FOLDER`.

Writes FOLDER/report.md with charts in FOLDER/figures, and FOLDER/summary.jsonl, a line a run.
A folder that holds only plans and the summary gives the same report, which is what makes it small
enough to keep; sheets of people need the runs themselves and stay as they are without them, and so
do charts without matplotlib. Nothing in a report depends on when, where or in which order the runs
were done.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from nada.experiments.charts import NO_CHARTS, can_draw, dot_chart, line_chart
from nada.experiments.figures import (
    FIGURES,
    Figure,
    ReportedCase,
    at_step,
    figure_cell,
    figures_of,
    of_whole_seeds,
    over_seeds,
    paired,
    paired_cell,
    spread_cell,
)
from nada.experiments.folder import (
    CURVES,
    DIGITS,
    REPORT,
    finished,
    read_plans,
    write_summary,
    write_text,
)
from nada.experiments.sheets import people_sheet
from nada.experiments.stopping import stops
from nada.experiments.tables import markdown_table, plain
from nada.formats.files import written_whole

DRAWINGS = {"figures": "svg", "curves": "svg", "people": "png"}  # of a comparison
MARK = re.compile(r"<!-- (\S+): (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def write_report(folder: Path) -> Path:
    """Write the report, its charts and sheets, and the summary; the report's path.

    Raises:
        ValueError: the folder is no sweep's, or no run is finished.
    """
    plans = read_plans(folder)
    if not plans:
        raise ValueError(f"{folder} holds no plans: give the folder of `python -m nada sweep`.")
    runs = finished(folder)
    if not runs:
        raise ValueError(f"No run in {folder} is finished: let the sweep do some first.")
    write_summary(folder, runs)
    paragraphs = (text for plan in plans for text in chapter(folder, plan, runs))
    write_text(folder / REPORT, "\n\n".join(paragraphs) + "\n")
    return folder / REPORT


def named_groups(plan: dict) -> list[tuple[str, dict]]:
    """A plan's comparisons, with what the names of their charts begin with."""
    return [(f"{plan['name']}-{number}", group) for number, group in enumerate(plan["groups"], 1)]


def group_cases(group: dict, runs: dict[str, dict]) -> list[ReportedCase]:
    """A comparison's cases, with those of their runs that are done: see `of_whole_seeds`."""
    return [
        ReportedCase(
            case["name"],
            case["settings"],
            of_whole_seeds([runs[key] for key in case["runs"] if key in runs]),
            len(case["runs"]),
        )
        for case in group["cases"]
    ]


# A page of one's own


def fill_in(page: Path, folder: Path) -> None:
    """Write a folder's comparisons into a Markdown page of one's own: the tables, charts and
    sheet of a group between `<!-- SPEC: TITLE -->` and `<!-- end -->`.

    Raises:
        ValueError: the page names a comparison that the folder does not have.
    """
    runs = finished(folder)
    groups = {
        (plan["name"], group["title"]): (stem, group)
        for plan in read_plans(folder)
        for stem, group in named_groups(plan)
    }

    def filled(mark: re.Match) -> str:
        if mark.groups() not in groups:
            raise ValueError(f"{page} asks for “{mark[1]}: {mark[2]}”, which {folder} has not.")
        stem, group = groups[mark.groups()]
        parts = [
            *comparison(group_cases(group, runs), group["stopping"]),
            *links(folder, stem, group["title"], page.parent),
        ]
        return "\n\n".join([f"<!-- {mark[1]}: {mark[2]} -->", *parts, "<!-- end -->"])

    write_text(page, MARK.sub(filled, page.read_text(encoding="utf-8")))


# A chapter of the report


def chapter(folder: Path, plan: dict, runs: dict[str, dict]) -> Iterator[str]:
    """A specification's chapter, paragraph by paragraph."""
    yield f"# {plan['title']}"
    if plan["text"]:
        yield plan["text"].strip()
    planned = {key for group in plan["groups"] for case in group["cases"] for key in case["runs"]}
    done = planned & set(runs)
    made_by = sorted({runs[key]["made_by"] for key in done})
    yield (
        f"{len(done)} of {len(planned)} runs are done ({'; '.join(made_by)}). Tables "
        "give the mean over all targets ± the standard deviation of that mean over the seeds of "
        "training; of seconds the median over all runs."
    )
    cases = [case for group in plan["groups"] for case in group_cases(group, runs)]
    yield "\n".join(f"- {figure.title}: {figure.meaning}" for figure in figures_of(cases))
    for stem, group in named_groups(plan):
        yield from section(folder, stem, group, runs)


def section(folder: Path, stem: str, group: dict, runs: dict[str, dict]) -> Iterator[str]:
    """A comparison: what was compared, tables, charts, people."""
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
    draw(folder, stem, done)
    yield from links(folder, stem, group["title"], folder)
    if len({run["target"] for case in done for run in case.runs}) > 1:
        yield target_details(done)


def setting_of(group: dict, cases: Sequence[ReportedCase]) -> str:
    """What all cases share, in a sentence or two."""
    measure, full = group["measure"], [case["all_settings"] for case in group["cases"]]
    common = {k: v for k, v in full[0].items() if all(other[k] == v for other in full)}
    settings = ", ".join(f"{key.strip('_')} {_in_words(value)}" for key, value in common.items())
    targets = list(dict.fromkeys(run["target"] for case in cases for run in case.runs))
    seeds = sorted({run["seed"] for case in cases for run in case.runs})
    judge = "" if measure["judge"] == "none" else f" and the judge {measure['judge']}"
    return (
        f"{len(targets)} targets ({', '.join(targets)}), {len(seeds)} seeds each, generator "
        f"{group['generator']}; measured by CLIP {measure['clip']}{judge} on "
        f"{measure['samples']} pictures, truncation 0.7 (LP, diversity and kernel: 1). "
        f"Common to all: {settings}."
    )


def _in_words(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


# Tables


def comparison(cases: Sequence[ReportedCase], stopping: bool) -> Iterator[str]:
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


def figures_table(cases: Sequence[ReportedCase]) -> str:
    """A row a case: how many runs, how many diverged, every figure."""
    figures = figures_of(cases)
    diverged = any(run["diverged"] for case in cases for run in case.runs)
    head = ["case", "runs", *["diverged"] * diverged, *(figure.title for figure in figures)]
    rows = []
    for case in cases:
        count = len(case.runs)
        cells = [f"{count}" if count == case.planned else f"{count} of {case.planned}"]
        cells += [str(sum(run["diverged"] for run in case.runs))] * diverged
        rows.append([case.name, *cells, *(figure_cell(case.runs, f) for f in figures)])
    return markdown_table(head, rows)


def paired_table(cases: Sequence[ReportedCase]) -> str:
    """A row for each case but the first: how its figures differ from the first's."""
    figures = [figure for figure in figures_of(cases) if not figure.clock]
    first = cases[0].runs
    rows = [
        [case.name, *(paired_cell(paired(case.runs, first, f.name), f) for f in figures)]
        for case in cases[1:]
    ]
    return markdown_table(["case", *(figure.title for figure in figures)], rows)


def layers_table(cases: Sequence[ReportedCase]) -> str:
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


def target_details(cases: Sequence[ReportedCase]) -> str:
    """One figure for each target and case, folded."""
    figure = next(f for name in ("lp", "quality") for f in figures_of(cases) if f.name == name)
    rows = []
    for target in dict.fromkeys(run["target"] for case in cases for run in case.runs):
        runs = [[run for run in case.runs if run["target"] == target] for case in cases]
        cells = [spread_cell(over_seeds(mine, figure.name), figure.form) for mine in runs]
        rows.append([target, *cells])
    table = markdown_table(["target", *(case.name for case in cases)], rows)
    return f"<details><summary>{figure.title} by target</summary>\n\n{table}\n\n</details>"


def stopping_parts(cases: Sequence[ReportedCase]) -> Iterator[str]:
    """Where each rule stops, and what that costs against the best step and the last."""
    truth = all("lp" in run["curve"] for case in cases for run in case.runs)
    best = " The best step is that of the lowest LP, which only the truth can tell." * truth
    yield (
        "When to stop. Three rules look at CLIP's quality alone: the knee of the whole curve, seen "
        "afterwards; the plateau, the first step at which quality gains less than a fifth as fast "
        "as it did at its fastest, seen on the way; and half as long again as up to the plateau."
        f"{best} ± of the steps is over runs, of the rest over seeds."
    )
    names = (*(("lp", "judged") if truth else ("quality",)), "identity", "clip_diversity")
    figures = sorted((f for f in FIGURES if f.name in names), key=lambda f: names.index(f.name))
    rows = [
        [case.name, stop, spread_cell(steps, ".0f"), *_cells_at(case.runs, steps, figures)]
        for case in cases
        for stop, steps in stops([run["curve"] for run in case.runs], truth).items()
    ]
    yield markdown_table(["case", "stop", "at step", *(figure.title for figure in figures)], rows)


def _cells_at(runs: Sequence[dict], steps: Sequence[int], figures: Sequence[Figure]) -> list[str]:
    at = [at_step(run, step) for run, step in zip(runs, steps)]
    return [spread_cell(over_seeds(at, figure.name), figure.form) for figure in figures]


# Charts and sheets


def draw(folder: Path, stem: str, cases: Sequence[ReportedCase]) -> None:
    """Write those charts and sheets of a comparison that can be drawn here."""
    paths = {kind: _drawing(folder, stem, kind) for kind in DRAWINGS}
    figures = [figure for figure in figures_of(cases) if figure.name in CURVES]
    if can_draw() and figures:
        dot_chart(paths["figures"], cases, figures)
        if any(len(run["curve"]["step"]) > 2 for case in cases for run in case.runs):
            line_chart(paths["curves"], cases, figures)
    if sheet := people_sheet(folder, cases):
        with written_whole(paths["people"]) as unfinished:
            sheet.save(unfinished, format="PNG", optimize=True)


def links(folder: Path, stem: str, title: str, start: Path) -> Iterator[str]:
    """The Markdown that shows a comparison's charts and sheet, seen from the folder `start`."""
    for kind in DRAWINGS:
        path = _drawing(folder, stem, kind)
        if path.is_file():
            yield f"![{plain(title)}: {kind}]({Path(os.path.relpath(path, start)).as_posix()})"


def _drawing(folder: Path, stem: str, kind: str) -> Path:
    return folder / "figures" / f"{stem}-{kind}.{DRAWINGS[kind]}"


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
    if not can_draw():
        print(NO_CHARTS, file=sys.stderr)
    if args.into:
        fill_in(args.into, args.folder)
        print(f"Filled in {args.into}.")
    return 0
