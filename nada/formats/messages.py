"""Values and errors quoted in the sentences that people read: one line, and never long."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence

BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # letters that nobody sees


def plain(text: str) -> str:
    """The text as a terminal, a page or a name of a file can show it, on one line.

    White space becomes blanks, half a character (a lone surrogate) "�". What is not seen goes:
    control characters, and with them escape codes, marks of the direction of writing, joiners.
    Letters of any writing stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\ufffd"
    if character.isspace():
        return " "
    return "" if category in ("Cc", "Cf") or character in BLANK else character


def quote(value: object, length: int = 40) -> str:
    """What somebody typed or sent, in quotation marks, on one line, cut to `length` characters."""
    line = " ".join(plain(str(value)[:1000]).split())
    return f"“{line if len(line) <= length else line[: length - 1] + '…'}”"


def quote_all(words: Sequence[str]) -> str:
    """Words quoted in a row, five at most."""
    return ", ".join(map(quote, words[:5])) + (" and more" if len(words) > 5 else "")


def json_line(data: object) -> str:
    """JSON on one line; a number that is not finite, which JSON cannot write, becomes null."""
    return json.dumps(_finite(data), allow_nan=False)


def _finite(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def brief(value: object) -> str:
    """A value out of a file for a message, bounded: nested containers are named by type only, since
    shared ones expand without end."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:59] + "…")
    if value is None or isinstance(value, float) or is_small_int(value):
        return str(value)
    return f"<{type(value).__name__}>"


def is_small_int(value: object) -> bool:
    """Whether it is an integer of 64 bits; much longer ones cannot even be printed."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


def first_line(error: BaseException) -> str:
    """An error's first line, of at most 120 characters, without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(". ")


def size_text(size: int) -> str:
    """Bytes for people: "19 KB", "11.2 MB"."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{max(1, round(size / 2**10))} KB"
