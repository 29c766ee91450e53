"""Comparing key ranges by checksums that the databases compute themselves.

A checksum stands for the texts of a range's rows. Each engine spells a value as it prints it to whoever reads
rows, so equal texts are equal values; the other way round does not hold, and costs a look at the rows. A text
cannot be taken for another row's: a null is `~`, text and bytes have their length before them, and nothing
else holds a separator. A row whose text the server cannot make leaves the range without a checksum.

    boolean                          0 or 1
    int16, int32, int64, numeric     as printed, without zeros at the end of a fraction
    text, uuid                       length in bytes of UTF-8, colon, the text
    bytes                            length, colon, SHA-256 in hexadecimal
    date                             as printed
    time, timestamp, timestamptz     as printed, in UTC, without zeros at the end of the fraction

The first 128 bits of the rows' SHA-256 are joined by exclusive or: each row has a key of its own, so no two
cancel each other. MD5 would be cheaper, and MySQL has it no more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from replication.narrowing import MICROSECONDS
from replication.schema import Table
from replication.types import Kind

CHUNK_ROWS = 20_000
KEYS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
"""Kinds of keys whose ranges every engine finds by its index."""
PRINTED = KEYS | {Kind.NUMERIC}
CLOCKS = frozenset({Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
SIZED = frozenset({Kind.TEXT, Kind.UUID})
SUMMED = PRINTED | CLOCKS | SIZED | {Kind.BOOLEAN, Kind.BYTES, Kind.DATE}
_ALWAYS_READABLE = PRINTED | {Kind.TEXT, Kind.BYTES}
"""Kinds of which MySQL's types hold no value that is none of the kind's."""


@dataclass(frozen=True, slots=True)
class RangeSum:
    """What a node says of a key range.

    Attributes:
        rows: how many it holds.
        digest: the checksum; None if it could not be computed.
    """

    rows: int
    digest: int | None


@runtime_checkable
class Summing(Protocol):
    """A `Snapshot` whose database computes checksums; only for keys of `KEYS`."""

    def sums(self, table: Table) -> bool:
        """Whether all columns have types here whose texts are as the module's docstring says."""

    def boundary(self, table: Table, after: bytes | None, rows: int) -> bytes | None:
        """The key so many rows behind `after` (None: from the start); None if there are not as many."""

    def sum_range(self, table: Table, after: bytes | None, upto: bytes | None) -> RangeSum:
        """The rows with keys greater than `after` and up to `upto`; None is no bound."""


def in_order(table: Table) -> tuple[list[int], list[int]]:
    """The indexes of the columns as a row's text has them: first those without a length, then the others."""
    sized = [c.type.kind in SIZED or c.type.kind is Kind.BYTES for c in table.schema.columns]
    return [i for i, s in enumerate(sized) if not s], [i for i, s in enumerate(sized) if s]


def may_sum(table: Table, nodes: Collection[tuple[str, str]]) -> bool:
    """Whether equal checksums of these nodes' rows mean that `compare_rows` would find no difference.

    Args:
        table: the table.
        nodes: name and engine of each.
    """
    columns, engines = table.schema.columns, {engine for _, engine in nodes}
    kinds = {c.type.kind for c in columns}
    # What is equal to PostgreSQL's text can be read; MySQL alone may hold the same zero date twice.
    known = SUMMED if "postgres" in engines else _ALWAYS_READABLE
    return (
        engines <= {"postgres", "mysql"}
        and not table.mapping.where
        and kinds <= known
        and {table.schema.column(name).type.kind for name in table.schema.key} <= KEYS
        and all(len({c.digits.get(node, MICROSECONDS) for node, _ in nodes}) == 1 for c in columns)
    )
