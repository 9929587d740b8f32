"""Prompts to start from, as data: `examples.json` holds a list for each base generator.

An entry gives source and target, and the settings in which it differs from the base's own
(`nada.adapt.PRESETS`); those of FFHQ are the published ones where there are any.
"""

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("examples.json")


@cache
def _all() -> dict[str, list[dict]]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def examples(base: str) -> list[dict]:
    """The entries for a base generator, a key of `nada.adapt.PRESETS`."""
    return [dict(entry) for entry in _all()[base]]


def suggestion(base: str, target: str) -> dict:
    """The settings an entry for this target asks for, {"steps": 300, "k": 10}; {} if there is none.

    An entry fits when its target and the given one are the same but for case and spaces.
    """
    wanted = " ".join(target.casefold().split())
    for entry in examples(base):
        if entry["target"].casefold() == wanted:
            return {name: entry[name] for name in ("steps", "k") if name in entry}
    return {}
