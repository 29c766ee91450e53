"""What `verify` finds: a row that is not the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class DifferenceKind(StrEnum):
    """How a row differs, seen from the first node."""

    MISSING = "missing"
    """The first node holds the row, another one does not."""
    EXTRA = "extra"
    """The first node does not hold the row, another one does; or a node's filter excludes what it holds."""
    DIFFERENT = "different"
    """All nodes hold the row, and values differ."""
    UNREADABLE = "unreadable"
    """A node holds what is no row of the table."""
    CHANGING = "changing"
    """Whenever the row was read it differed, and its changes may have been on their way."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same everywhere.

    Attributes:
        table: canonical table name.
        key: canonical key.
        kind: see `DifferenceKind`.
        columns: columns that differ between nodes that hold the row.
        values: per node the values of `columns`, or None where the row is missing. A node that lacks the row
            because its filter excludes it is left out.
        unreadable: by node why what it holds is no row of the table.
        excluded: nodes that hold the row although their filter excludes it.
    """

    table: str
    key: bytes
    kind: DifferenceKind
    columns: tuple[str, ...]
    values: Mapping[str, tuple[Any, ...] | None]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    @property
    def holders(self) -> list[str]:
        """The nodes that hold the row rightly and can be read."""
        return [n for n, values in self.values.items() if values is not None and n not in self.excluded]

    @property
    def absent(self) -> list[str]:
        """The nodes that hold no such row."""
        return [n for n, values in self.values.items() if values is None and n not in self.unreadable]
