"""Contact sheets: the same people again and again, a row for each way to change them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from nada.experiments.figures import ReportedCase
from nada.experiments.folder import GRID, home

GAP, HEAD = 6, 18  # pixels between the strips of a row, and above them for what they are


def contact_sheet(
    rows: Mapping[str, Sequence[Image.Image]],
    heads: Sequence[str] = (),
    columns: int = 1,
    margin: int | None = None,
) -> Image.Image:
    """Strips of images row by row, each row's label at its left.

    Args:
        rows: label → strips, side by side; all of one size, as many in each row.
        heads: what to write above the strips.
        columns: the rows stand in so many columns, filled one after the other.
        margin: pixels for the label; default: what the longest one needs.
    """
    strips = next(iter(rows.values()))
    width, height = strips[0].size
    margin = 12 + 7 * max(map(len, rows)) if margin is None else margin
    across = margin + len(strips) * (width + GAP) - GAP
    down, top = -(-len(rows) // columns), HEAD if heads else 0
    sheet = Image.new("RGB", (columns * across, top + down * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, strips) in enumerate(rows.items()):
        left, y = i // down * across, top + i % down * height
        draw.text((left + 8, y + height // 2 - 6), label, fill="black")
        for number, strip in enumerate(strips):
            sheet.paste(strip, (left + margin + number * (width + GAP), y))
    for number, head in enumerate(heads):
        draw.text((margin + number * (width + GAP), 3), head, fill="black")
    return sheet


def people_sheet(
    folder: Path, cases: Sequence[ReportedCase], targets: int = 2, each: int = 5
) -> Image.Image | None:
    """A row a case below the frozen people: `each` of them for `targets` targets from all over the
    list, one seed; None where the runs' grids are not there."""
    names = list(dict.fromkeys(run["target"] for case in cases for run in case.runs))
    names = names[:: math.ceil(len(names) / targets)]
    seed = min(run["seed"] for case in cases for run in case.runs)
    rows = {case.name: [_grid_of(folder, case, name, seed) for name in names] for case in cases}
    rows = {name: grids for name, grids in rows.items() if all(grids)}
    if not rows:
        return None
    side = next(iter(rows.values()))[0].height // 2  # two rows of images: frozen, adapted
    frozen = [grid.crop((0, 0, each * side, side)) for grid in next(iter(rows.values()))]
    adapted = {
        name: [grid.crop((0, side, each * side, 2 * side)) for grid in grids]
        for name, grids in rows.items()
    }
    return contact_sheet({"frozen": frozen, **adapted}, names)


def _grid_of(folder: Path, case: ReportedCase, target: str, seed: int) -> Image.Image | None:
    for run in case.runs:
        path = home(folder, run["id"]) / GRID
        if (run["target"], run["seed"]) == (target, seed) and path.is_file():
            with Image.open(path) as image:
                return image.convert("RGB")
    return None
