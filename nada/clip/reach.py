"""How far images of a domain lie from those of the source, as a share of the text direction.

Known of a CLIP once that was measured (`nada calibrate`), and kept beside its weights, which stay
what they are: FILE.reach.json, {"share": 0.82, "measured": how}.
"""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from nada.formats.files import written_whole
from nada.formats.messages import quote

LARGEST = 10_000  # bytes of such a file
LEAST, MOST = 0.05, 5.0


class Reach(NamedTuple):
    """How far images move along the text direction for one of its length; how that was measured."""

    share: float
    measured: str


def reach_file(weights: Path) -> Path:
    """Where the reach of a model lies, whose weights are in a file."""
    return weights.with_name(f"{weights.name}.reach.json")


def read_reach(weights: Path) -> Reach | None:
    """The reach of the model whose weights are in a file; None where nobody has measured it.

    Raises:
        ValueError: what lies there does not say it.
    """
    path = reach_file(weights)
    if not os.path.isfile(path):
        return None
    try:
        found = json.loads(path.read_text("utf-8")) if path.stat().st_size <= LARGEST else {}
        return checked(Reach(found["share"], str(found["measured"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{quote(path.name)} does not say how far a CLIP reaches: measure it again with "
            "nada calibrate, or remove the file"
        ) from error


def write_reach(weights: Path, reach: Reach) -> Path:
    """Keep the reach beside the weights; the file that was written.

    Raises:
        ValueError: a share out of bounds.
    """
    path, reach = reach_file(weights), checked(reach)
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(reach._asdict(), indent=1) + "\n", "utf-8")
    return path


def checked(reach: Reach) -> Reach:
    """The reach, whose share has to be a number within reason.

    Raises:
        ValueError: it is not.
    """
    number = isinstance(reach.share, (int, float)) and not isinstance(reach.share, bool)
    if not number or not math.isfinite(reach.share) or not LEAST <= reach.share <= MOST:
        raise ValueError(
            f"The reach came out as {quote(str(reach.share))}, and a share from {LEAST} to {MOST} "
            "was expected: do the domains belong to their prompts?"
        )
    return Reach(float(reach.share), reach.measured[:1000])
