"""A setting stands once: a dataclass field that knows its bounds, its words and its other names.

`setting` makes the field, `settings` lists those of a dataclass, and `check` holds its values
against them. The command line, the page, the API, sweeps and domain files derive theirs from here.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from nada.formats.messages import brief

Number = int | float


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included, and the step of a slider between them."""

    low: Number
    high: Number
    step: Number = 0


@dataclass(frozen=True)
class Setting:
    """What is known of a setting beside its default.

    Attributes:
        label: a name for people, two or three words.
        help: what it does, a sentence.
        kind: int, float, bool, str, or tuple for several numbers.
        range: of a number; None for any other kind.
        choices: the values there are, where these can be counted.
        optional: whether None is a value.
        lists: whether a list of texts will do instead of a choice.
        name: what it is called in files and on the command line.
        api_name: what it is called on the page and in the API.
        place: where it stands on the page and in the API, from 0; None where it is not offered
            there.
        served: the numbers that a page offers; `range` unless it is narrower.
    """

    label: str
    help: str
    kind: type = float
    range: Range | None = None
    choices: Sequence | Mapping | None = None
    optional: bool = False
    lists: bool = False
    name: str = ""
    api_name: str = ""
    place: int | None = None
    served: Range | None = None

    @property
    def expected(self) -> str:
        """What a value should be, in words."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.kind is bool:
            return "true or false"
        if self.kind is tuple:
            return "a list of numbers"
        number = "a whole number" if self.kind is int else "a number"
        bounds = f" from {self.range.low:.10g} to {self.range.high:.10g}" if self.range else ""
        return number + bounds

    def fits(self, value: object) -> bool:
        """Whether a value is one of this setting's."""
        if value is None:
            return self.optional
        if self.lists and isinstance(value, (tuple, list)):
            return bool(value) and all(isinstance(text, str) for text in value)
        if self.choices is not None:
            return type(value) in (str, int) and value in list(self.choices)
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind is tuple:
            return isinstance(value, (tuple, list)) and all(map(_is_number, value))
        if not _is_number(value) or (self.kind is int and not isinstance(value, int)):
            return False
        return self.range is None or self.range.low <= value <= self.range.high

    def check(self, value: object) -> None:
        """Raises ValueError, with a sentence that names the setting, unless the value fits."""
        if not self.fits(value):
            raise ValueError(f"{self.name.strip('_')} is {shown(value)}: give {self.expected}.")


def shown(value: object) -> str:
    """A value for a message, as Python writes it."""
    return brief(value) if isinstance(value, (str, int, float, type(None))) else repr(value)[:60]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def setting(
    default: object,
    label: str,
    help: str,
    *,
    range: Range | None = None,
    choices: Sequence | Mapping | None = None,
    lists: bool = False,
    name: str = "",
    api_name: str = "",
    place: int | None = None,
    served: Range | None = None,
) -> typing.Any:
    """A dataclass field that is a setting; see `Setting` for the arguments.

    kind and optional come from the field's annotation, name from the field and api_name from name,
    unless given.
    """
    known = Setting(
        label, help, range=range, choices=choices, lists=lists, name=name, api_name=api_name,
        place=place, served=served or range,
    )  # fmt: skip
    return dataclasses.field(default=default, metadata={"setting": known})


@cache
def settings(config: type) -> dict[str, Setting]:
    """The settings of a dataclass by the names of their fields, in their order."""
    found = {}
    for field in dataclasses.fields(config):
        if known := field.metadata.get("setting"):
            kinds = _kinds(field.type)
            name = known.name or field.name
            found[field.name] = dataclasses.replace(
                known,
                kind=next(kind for kind in kinds if kind is not types.NoneType),
                optional=types.NoneType in kinds,
                name=name,
                api_name=known.api_name or name,
            )
    return found


def _kinds(annotation: typing.Any) -> list[type]:
    """The plain types of an annotation: `float | None` → float and None's."""
    union = isinstance(annotation, types.UnionType)
    parts = typing.get_args(annotation) if union else [annotation]
    return [typing.get_origin(part) or part for part in parts]


def check(config: object) -> None:
    """Raises ValueError, with a sentence, for the first value of a dataclass that does not fit."""
    for field, known in settings(type(config)).items():
        known.check(getattr(config, field))
