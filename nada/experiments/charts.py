"""Charts of a comparison as SVG, by matplotlib: loaded only where a report draws.

The same runs give the same file: the fonts are matplotlib's own, and nothing tells a date.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nada.experiments.figures import Figure, ReportedCase, mean_curve, over_targets, spread
from nada.formats.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NO_CHARTS = (
    "The report has no new charts, for want of matplotlib: pip install matplotlib, or the library "
    'with its extra, pip install -e ".[reports]".'
)
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
GREY = "#bbbbbb"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans", "Arial"],  # the first comes with matplotlib
    "svg.hashsalt": "nada",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": "#cccccc",
    "xtick.color": "#777777",
    "ytick.color": "#777777",
    "ytick.labelcolor": "#222222",
    "lines.linewidth": 1.2,
}
PANEL, ROW, TALL = 1.9, 0.2, 1.6  # inches: a panel's width, a case's height, a curve's


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def dot_chart(path: Path, cases: Sequence[ReportedCase], figures: Sequence[Figure]) -> None:
    """Write a panel a figure, a row a case: each target's mean in grey, their mean with the
    standard deviation over seeds in colour."""

    def fill(canvas: "Canvas") -> None:
        panels = canvas.subplots(1, len(figures), sharey=True, squeeze=False)[0]
        for axes, figure in zip(panels, figures):
            _dots(axes, cases, figure)
        panels[0].set_yticks(range(len(cases)), [case.name for case in cases])
        panels[0].set_ylim(len(cases) - 0.5, -0.5)

    margin = 0.07 * max(len(case.name) for case in cases)
    _write(path, (margin + PANEL * len(figures), 0.65 + ROW * len(cases)), fill)


def _dots(axes: "Axes", cases: Sequence[ReportedCase], figure: Figure) -> None:
    _frame(axes, figure)
    axes.xaxis.set_major_formatter(lambda value, _: format(value, figure.form))
    axes.tick_params(axis="y", length=0)
    for row, case in enumerate(cases):
        values = over_targets(case.runs, figure.name)
        axes.plot(values, [row] * len(values), "o", color=GREY, markersize=2.5)
        if summary := spread(case.runs, figure.name):
            middle, deviation = summary
            axes.plot([middle - deviation, middle + deviation], [row, row], color=COLOURS[0])
            axes.plot([middle], [row], "o", color=COLOURS[0], markersize=4.5)


def line_chart(path: Path, cases: Sequence[ReportedCase], figures: Sequence[Figure]) -> None:
    """Write a panel a figure, a line a case over the steps: the mean over all runs, and a band of
    the standard deviation over seeds."""

    def fill(canvas: "Canvas") -> None:
        panels = canvas.subplots(1, len(figures), squeeze=False)[0]
        for axes, figure in zip(panels, figures):
            _lines(axes, cases, figure)
        lines, names = panels[0].get_legend_handles_labels()
        canvas.legend(lines, names, loc="outside lower left", ncols=4, frameon=False)

    _write(path, (PANEL * len(figures), TALL + 0.6 + ROW * -(-len(cases) // 4)), fill)


def _lines(axes: "Axes", cases: Sequence[ReportedCase], figure: Figure) -> None:
    _frame(axes, figure)
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(lambda value, _: format(value, figure.form))
    for i, case in enumerate(cases):
        curve = mean_curve(case.runs, figure.name)
        steps, means, deviations = zip(*curve) if curve else ((), (), ())
        colour = COLOURS[i % len(COLOURS)]
        low = [m - d for m, d in zip(means, deviations)]
        high = [m + d for m, d in zip(means, deviations)]
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, means, color=colour, label=case.name)


def _frame(axes: "Axes", figure: Figure) -> None:
    arrow = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
    axes.set_title(figure.title + arrow)
    axes.locator_params(nbins=4)


def _write(path: Path, inches: tuple[float, float], fill) -> None:
    """Draw by matplotlib's own defaults, whatever this machine's user has set."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(), written_whole(path) as unfinished:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        canvas = Canvas(figsize=inches, layout="constrained")
        fill(canvas)
        canvas.savefig(unfinished, format="svg", metadata={"Date": None, "Creator": None})
