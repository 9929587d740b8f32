"""What `nada.experiments.bench` measured, added up and shown as Markdown or JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from nada.experiments.tables import markdown_table

SAMPLES = 4  # images of one measurement of sampling


@dataclass(frozen=True)
class Measured:
    """seconds: of each round. flops: of one call, as PyTorch counts those of its own operations."""

    seconds: list[float]
    flops: int

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class BenchRow:
    """A line of the table. every: steps from one choice of layers to the next. seconds: per step,
    choices spread over the steps. ratio, least, most: how many times faster than the reference,
    by the medians and over the rounds. gb: peak of memory.

    share: of the machine's peak in these numbers; None where PyTorch cannot count, which takes the
    backward pass of a convolution in groups for that of a whole one.
    """

    name: str
    every: int
    seconds: float
    ratio: float
    least: float
    most: float
    share: float | None
    gb: float | None


def step_seconds(parts: dict[str, float], every: int) -> float:
    """Seconds (or operations) of a step where layers are chosen in one of `every`."""
    choose = parts["choose"] if "choose" in parts else max(0.0, parts["whole"] - parts["train"])
    return parts["train"] + choose / every


def rows_of(
    measured: dict[str, dict[str, Measured]],
    memory: dict[str, float],
    peaks: dict[str, float],
    every: int,
    compiled: bool,
) -> list[BenchRow]:
    """The table: everything with a choice in each step, then ours with the usual settings'.

    compiled: whether the library's filter is no convolution in groups.
    """
    base = measured["reference"]
    rounds = len(next(iter(base.values())).seconds)

    def times(parts: dict[str, Measured], every: int) -> list[float]:
        return [
            step_seconds({part: m.seconds[i] for part, m in parts.items()}, every)
            for i in range(rounds)
        ]

    def row(name: str, every: int) -> BenchRow:
        parts = measured[name]
        own, whole = times(parts, every), times(base, 1)
        took = step_seconds({part: m.median for part, m in parts.items()}, every)
        full = step_seconds({part: m.median for part, m in base.items()}, 1)
        flops = step_seconds({part: m.flops for part, m in parts.items()}, every)
        ratios = [a / b for a, b in zip(whole, own)]
        peak = peaks["bf16" if "bf16" in name else "fp32"]
        counts = compiled and name.startswith("ours")
        share = flops / took / peak if counts else None
        spread = min(ratios), max(ratios)
        return BenchRow(name, every, took, full / took, *spread, share, memory.get(name))

    often = [row(name, 1) for name in measured]
    return often + [row(name, every) for name in measured if name.startswith("ours")]


def table(rows: Sequence[BenchRow]) -> str:
    """A line a row, as Markdown."""
    head = ("formulation", "layers chosen", "s per step", "times faster", "over the rounds",
            "share of peak", "memory, GB")  # fmt: skip
    return markdown_table(head, [_cells(row) for row in rows])


def _cells(row: BenchRow) -> list[str]:
    return [
        row.name,
        "every step" if row.every == 1 else f"every {row.every} steps",
        f"{row.seconds:.3g}",
        f"{row.ratio:.1f}",
        f"{row.least:.1f} to {row.most:.1f}",
        "" if row.share is None else f"{row.share:.0%}",
        "" if row.gb is None else f"{row.gb:.1f}",
    ]


def sampling_table(measured: dict[str, Measured]) -> str:
    """A line for each way to draw, as Markdown."""
    base, rows = measured["reference"], []
    for name, m in measured.items():
        ratios = [a / b for a, b in zip(base.seconds, m.seconds)]
        faster, spread = base.median / m.median, f"{min(ratios):.1f} to {max(ratios):.1f}"
        rows.append([name, f"{m.median / SAMPLES:.3g}", f"{faster:.1f}", spread])
    return markdown_table(("pictures by", "s per picture", "times faster", "over the rounds"), rows)


def show(result: dict) -> str:
    """The result of one size as Markdown."""
    peaks = ", ".join(f"{rate:.2f} in {name}" for name, rate in result["peak_tflops"].items())
    parts = f" (the reference by {result['reference_at_once']})" * bool(result["reference_at_once"])
    facts = (
        f"{result['size']} pixels, batch {result['batch']}{parts}, "
        f"{_surroundings(result)}; TFLOP/s of the fastest convolution: {peaks}."
    )
    return f"\n{facts}\n\n{table(result['rows'])}\n\n{sampling_table(result['sampling'])}"


def show_parameters(result: dict) -> str:
    """Runs by what they train, against weights, as Markdown."""
    head = ("trained", "layers", "s per step", "times faster", "over the rounds", "memory, MB",
            "of that of weights")  # fmt: skip
    base, lines = result["rows"]["weights"], []
    for name, row in result["rows"].items():
        ratios = [a / b for a, b in zip(base["seconds"], row["seconds"])]
        took = median(row["seconds"])
        memory = row["gb"] and (f"{1000 * row['gb']:.0f}", f"{row['gb'] / base['gb']:.2f}")
        faster = (
            f"{median(base['seconds']) / took:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
        lines.append((name, str(row["layers"]), f"{took:.3g}", *faster, *(memory or ("", ""))))
    facts = (
        f"{result['size']} pixels, trained at {result['resolution']}, batch {result['batch']}, "
        f"{result['precision']}, {_surroundings(result)}; memory beside the models."
    )
    return f"\n{facts}\n\n{markdown_table(head, lines)}"


def _surroundings(result: dict) -> str:
    return (
        f"{result['rounds']} rounds in turns; {result['processor']}, {result['threads']} threads, "
        f"PyTorch {result['torch']}, operations: {result['operations']}, "
        f"allocator: {result['allocator']}"
    )


def as_json(result: dict) -> dict:
    """A result with plain values only."""
    sampling = {name: asdict(m) for name, m in result["sampling"].items()}
    return {**result, "rows": [asdict(row) for row in result["rows"]], "sampling": sampling}
