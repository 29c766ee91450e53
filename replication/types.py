"""Canonical types: what a column is called and how Arrow holds it while it travels.

Some kinds share an Arrow type (json, uuid and numeric travel as text), so a column always carries
its kind beside its Arrow type. Infinite dates and timestamps use the smallest and largest value of
their Arrow type, as PostgreSQL's own binary format does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

import replication.arrow  # noqa: F401  first of all that is Arrow


class Kind(StrEnum):
    """The canonical kinds."""

    BOOLEAN = "boolean"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    NUMERIC = "numeric"
    """Exact decimal of any precision, as plain text; also NaN, Infinity, -Infinity."""
    TEXT = "text"
    BYTES = "bytes"
    DATE = "date"
    TIME = "time"
    """Microseconds since midnight; 24:00:00 is allowed."""
    TIMESTAMP = "timestamp"
    """Microseconds, without zone."""
    TIMESTAMPTZ = "timestamptz"
    """Microseconds, an instant in UTC."""
    UUID = "uuid"
    """Lower-case text with hyphens."""
    JSON = "json"
    """JSON text. Values beyond JSON use MongoDB's relaxed extended JSON."""
    LIST = "list"
    """A JSON array of scalars of the kind `item`, as text."""
    OPAQUE = "opaque"
    """The text form of a type that only its own engine understands."""


_ARROW: dict[Kind, pa.DataType] = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.INT16: pa.int16(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.FLOAT32: pa.float32(),
    Kind.FLOAT64: pa.float64(),
    Kind.BYTES: pa.binary(),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True)
class CanonicalType:
    """A canonical type.

    Attributes:
        kind: the canonical kind.
        native: the declaration on the node whose schema it was read from, e.g. `numeric(12,2)`;
            an engine of the same name creates columns with it.
        item: the kind of a list's items.
        rest: it holds the fields of a document that no other column maps; no such fields is null.
    """

    kind: Kind
    native: str = ""
    item: Kind | None = None
    rest: bool = field(default=False, compare=False)

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type the column travels as; text where no closer one is exact."""
        return _ARROW.get(self.kind, pa.utf8())
