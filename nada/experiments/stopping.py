"""When to stop: where a curve over the steps of a run bends, seen afterwards and seen on the way.

Adaptation first moves to the target and then lays on more than the target has: CLIP's quality
climbs steeply and flattens, while images move away from what they should be. All rules look at
CLIP's quality alone, so that they work where nobody knows the truth.
"""

from collections.abc import Callable, Sequence


def knee(steps: Sequence[float], values: Sequence[float]) -> int:
    """The step at which a rising, flattening curve bends most: a look back at the whole curve.

    The point furthest above the straight line from the curve's start to its highest point, both
    axes scaled to [0, 1] (Kneedle without smoothing: Satopää et al. 2011). A curve that never
    rises has its knee at its start, one that rises evenly at its highest point.

    Raises:
        ValueError: no points, or steps and values that do not pair.
    """
    _check(steps, values)
    top = max(range(len(values)), key=values.__getitem__)
    rise, run = values[top] - values[0], steps[top] - steps[0]
    if rise <= 0:
        return steps[0]
    heights = [(values[i] - values[0]) / rise - (steps[i] - steps[0]) / run for i in range(top + 1)]
    return steps[max(reversed(range(top + 1)), key=heights.__getitem__)]


def plateau(steps: Sequence[float], values: Sequence[float], share: float = 0.2) -> int:
    """The first step at which the curve has flattened, seen from what came before it.

    Flat is a gain per step, since the point before, below `share` of the steepest so far; the
    first points of a run may be flat as well (Adam is warming up), so nothing counts before the
    curve has risen. The last step if it never flattens.

    Raises:
        ValueError: no points, or steps and values that do not pair.
    """
    _check(steps, values)
    steepest = 0.0
    for i in range(1, len(steps)):
        gain = (values[i] - values[i - 1]) / (steps[i] - steps[i - 1])
        if steepest > 0 and gain < share * steepest:
            return steps[i]
        steepest = max(steepest, gain)
    return steps[-1]


def past_plateau(steps: Sequence[float], values: Sequence[float], more: float = 0.5) -> int:
    """The first step at which a run is `more` times as long again as it was at its `plateau`: where
    CLIP's quality flattens, the image is not there yet. The last step if it ends before.

    Raises:
        ValueError: no points, or steps and values that do not pair.
    """
    enough = (1 + more) * plateau(steps, values)
    return next((step for step in steps if step >= enough), steps[-1])


RULES: dict[str, Callable[[Sequence[float], Sequence[float]], int]] = {
    "knee": knee,
    "plateau": plateau,
    "half as long again": past_plateau,
}


def stops(curves: Sequence[dict[str, list]], truth: bool) -> dict[str, list[int]]:
    """For each way to stop, the step at which each run would.

    Args:
        curves: of each run the steps, CLIP's quality and, where the truth is known, LP.
        truth: whether it is: the best step is that of the lowest LP.
    """
    found = {}
    if truth:
        found["best"] = [min(zip(curve["lp"], curve["step"]))[1] for curve in curves]
    for name, rule in RULES.items():
        found[name] = [rule(curve["step"], curve["quality"]) for curve in curves]
    found["last"] = [curve["step"][-1] for curve in curves]
    return found


def _check(steps: Sequence[float], values: Sequence[float]) -> None:
    if not steps or len(steps) != len(values):
        raise ValueError(
            f"Got {len(steps)} steps and {len(values)} values: give one value for each step, "
            "and at least one."
        )
