"""What a domain file says of itself: JSON that anyone may have written, read once and for all.

What JSON, a browser or a page cannot carry is refused, text is made plain, and a known fact of
another kind than ours is left out: what comes out here can be shown, and saved anew, unasked.
"""

import json
import math

from nada.formats.messages import is_small_int, plain

FORMAT = "stylegan-nada delta 1"  # what the header of a domain file says it is
MAX_LENGTH = 2**16  # characters of JSON, in ASCII; a run of ours has two thousand
MAX_VALUES = 2000
MAX_DEPTH = 8
MAX_TEXT = 2000  # characters of one text; a prompt has 1000 at most
LARGEST_FACT = 1e9  # of measures, weights and times

# Facts that our own code reads; [kind] is a list of it.
KINDS = {
    **dict.fromkeys(("source", "target", "method", "started_from"), str),
    **dict.fromkeys(("k", "steps_done"), int),
    **dict.fromkeys(("loss", "seconds", "quality", "diversity"), float),
    **dict.fromkeys(("family", "compared"), str),
    "carried_from": {"base": str, "name": str, "agreement": float},
    "distilled_from": {
        "source": str,
        "target": str,
        "before": float,
        "after": float,
        "explained": float,
    },
    "pictures": {"count": int, "sha256": [str]},
    "clip": [str],
    "layers": [str],
    "config": {"seed": int, "batch": int, "lr": float},
    "guidance": {"directional": float, "global_": float, "in_domain": float},
    "generator": {"name": str, "used": str, "unusual": [str]},
    "blend": [
        {
            "weight": float,
            "by_resolution": dict.fromkeys(("coarse", "middle", "fine"), float),
            "source": str,
            "target": str,
        }
    ],
}


def read_metadata(text: str) -> dict:
    """The facts in a JSON object.

    Raises:
        ValueError: they cannot be used; the message goes on from "The metadata …".
    """
    _check_length(text)
    try:
        facts = json.loads(text, parse_constant=_refuse, parse_int=_whole, parse_float=_number)
    except json.JSONDecodeError as error:
        raise ValueError("is not JSON") from error
    except RecursionError as error:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep") from error
    if not isinstance(facts, dict):
        raise ValueError("is not a JSON object")
    _check_extent(facts)
    return _fitted(_plain(facts), KINDS)


def write_metadata(facts: dict) -> str:
    """JSON in ASCII that `read_metadata` reads: what it would refuse is not written.

    Raises:
        ValueError: it would refuse them; the message goes on from "The metadata …".
        TypeError: JSON does not hold such facts.
    """
    facts = read_metadata(json.dumps(facts))
    _check_length(text := json.dumps(facts, sort_keys=True))
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"has {len(text)} characters, and may have {MAX_LENGTH}")


def _check_extent(facts: dict) -> None:
    """Refuse what is too deep, too many or too long, level by level."""
    depth, count, level = 0, 0, [facts]
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        for value in level:
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise ValueError(f"holds a text of more than {MAX_TEXT} characters")
        parts = [[*v, *v.values()] if isinstance(v, dict) else v for v in level]
        level = [part for several in parts if isinstance(several, list) for part in several]
    if count > MAX_VALUES:
        raise ValueError(f"holds more than {MAX_VALUES} values")


def _refuse(constant: str):
    raise ValueError(f"holds {constant}, which is not a number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not is_small_int(int(digits)):
        raise ValueError("holds a whole number of more than 64 bits")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("holds a number that is too large for a float")
    return number


def _plain(value):
    """The value with all its texts, names included, made plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {plain(name): _plain(part) for name, part in value.items()}
    return value


def _fitted(value, kind):
    """The value without the known facts in it that are of another kind; None if it is itself."""
    if isinstance(kind, dict) and isinstance(value, dict):
        parts = {name: _fitted(value[name], kind[name]) for name in value.keys() & kind}
        return {n: parts.get(n, part) for n, part in value.items() if parts.get(n, 0) is not None}
    if isinstance(kind, list) and isinstance(value, list):
        parts = [_fitted(part, kind[0]) for part in value]
        return None if any(part is None for part in parts) else parts
    if kind is float:
        fits = type(value) in (int, float) and abs(value) <= LARGEST_FACT
        return value if fits else None
    return value if type(value) is kind else None
