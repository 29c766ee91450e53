"""What the text of a column's declaration says of its size, in the words of any SQL dialect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from replication.narrowing import MICROSECONDS

_DECLARED = re.compile(r"^([a-z][a-z0-9_ \"]*?) ?(?:\((-?\d+)(?:, ?(-?\d+))?\)(.*))?$", re.DOTALL)
_CLOCKS = re.compile(r"^(time|timestamp|datetime)\b")


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared type in parts.

    Attributes:
        name: in lower case, without what follows the parentheses, e.g. `character varying`.
        size: the first number in the parentheses, or None.
        scale: the second one, or None.
    """

    name: str
    size: int | None = None
    scale: int | None = None


@cache
def declared(native: str) -> Declared:
    """Take a declaration apart; what has another shape is a name alone."""
    match = _DECLARED.match(native.lower())
    if match is None:
        return Declared(native.lower())
    name, size, scale, _ = match.groups()
    return Declared(name, None if size is None else int(size), None if scale is None else int(scale))


def second_digits(native: str, engine: str) -> int:
    """How many digits of the second a column keeps.

    Args:
        native: the declaration.
        engine: whose dialect it is in; without digits MySQL means 0, PostgreSQL 6.
    """
    parts = declared(native)
    if not _CLOCKS.match(parts.name):
        return MICROSECONDS
    if parts.size is not None:
        return min(parts.size, MICROSECONDS)
    return 0 if engine == "mysql" else MICROSECONDS
