"""Native types to canonical types and back.

What a column's own values are, by its type, and which canonical type it maps to by itself:

    tinyint(1), bit(1)                 int16, opaque   boolean; a value other than 0 and 1 is unreadable
    tinyint, smallint, year            int16           int16
    smallint unsigned, mediumint, int  int32           int32
    int unsigned, bigint               int64           int64
    bigint unsigned, decimal           numeric         numeric
    float, double                      float32/64      float32, float64
    char, varchar, text, enum, set     text            text; the members of a set with commas between
    binary, varbinary, blob, vector    bytes           bytes; binary(n) with its zero bytes at the end
    date                               date            date
    time                               time            time; beyond a day it is unreadable
    datetime                           timestamp       timestamp
    timestamp                          timestamptz     timestamptz
    json                               json            json
    bit(n)                             opaque          opaque: n digits, 0 or 1, as PostgreSQL prints bits
    geometry and its kin               opaque          opaque: hexadecimal EWKB, as PostGIS prints it

Zero dates, and dates with a zero month or day, have no canonical value: such a row is unreadable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from replication.pairing import accepts
from replication.types import CanonicalType, Kind

GEOMETRIES = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
        "geomcollection", "geometrycollection",
    }
)  # fmt: skip
TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
KINDS: dict[str, Kind] = {
    "tinyint": Kind.INT16,
    "smallint": Kind.INT16,
    "mediumint": Kind.INT32,
    "int": Kind.INT32,
    "bigint": Kind.INT64,
    "year": Kind.INT16,
    "bit": Kind.OPAQUE,
    "decimal": Kind.NUMERIC,
    "float": Kind.FLOAT32,
    "double": Kind.FLOAT64,
    **dict.fromkeys(TEXTS, Kind.TEXT),
    "enum": Kind.TEXT,
    "set": Kind.TEXT,
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), Kind.BYTES),
    "vector": Kind.BYTES,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "datetime": Kind.TIMESTAMP,
    "timestamp": Kind.TIMESTAMPTZ,
    "json": Kind.JSON,
    **dict.fromkeys(GEOMETRIES, Kind.OPAQUE),
}
"""By the column's DATA_TYPE in the information schema."""
_UNSIGNED: dict[str, Kind] = {"smallint": Kind.INT32, "int": Kind.INT64, "bigint": Kind.NUMERIC}
_DECLARED = re.compile(r"^\w+\((\d+)(?:,(\d+))?\)")
_MEMBER = re.compile(r"'((?:[^']|'')*)'")

_INTEGERS = (Kind.INT16, Kind.INT32, Kind.INT64)
_FAMILIES = ({*_INTEGERS, Kind.NUMERIC}, {Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
"""Kinds whose values compare with each other."""


@dataclass(frozen=True, slots=True)
class LocalType:
    """What matters of a column's type on this node when its values are read or written.

    Attributes:
        name: the DATA_TYPE of the information schema, e.g. `int`.
        kind: what its values are by themselves, see the module's docstring.
        unsigned: whether the type is.
        size: declared characters, bytes, bits or digits; 0 where none are.
        scale: digits after the decimal point, of decimals; of times those of the second.
        members: of an enum or set, in order.
        charset: MySQL's name of a text's character set, or empty.
    """

    name: str
    kind: Kind
    unsigned: bool = False
    size: int = 0
    scale: int = 0
    members: tuple[str, ...] = ()
    charset: str = ""

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of `kind`."""
        return CanonicalType(self.kind).arrow

    @property
    def default(self) -> Kind:
        """The kind it maps to by itself."""
        boolean = self.name in ("tinyint", "bit") and self.size == 1 and not self.unsigned
        return Kind.BOOLEAN if boolean else self.kind

    def fits(self, canonical: CanonicalType) -> bool:
        """Whether its values can be read as values of the canonical type, see `values.adapt`."""
        return accepts("mysql", canonical.kind, (self.kind, self.default))

    def compares(self, kind: Kind) -> bool:
        """Whether its values compare and sort as canonical keys of a kind do, given a fit collation."""
        if kind is Kind.UUID:
            return self.fits(CanonicalType(kind))
        if kind in (self.kind, self.default):
            return True
        return any(kind in family and self.kind in family for family in _FAMILIES)


def local_type(data_type: str, column_type: str, charset: str = "") -> LocalType:
    """The type of a column.

    Args:
        data_type: DATA_TYPE in the information schema, e.g. `decimal`.
        column_type: COLUMN_TYPE there, e.g. `decimal(10,2) unsigned`.
        charset: CHARACTER_SET_NAME there.
    """
    name, declared = data_type.lower(), column_type.lower()
    unsigned = " unsigned" in declared and name not in ("enum", "set")
    kind = _UNSIGNED.get(name) if unsigned else None
    if name in ("enum", "set"):
        members = tuple(m.replace("''", "'") for m in _MEMBER.findall(column_type))
        return LocalType(name, Kind.TEXT, members=members, charset=charset)
    match = _DECLARED.match(declared)
    size, scale = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if name in ("time", "datetime", "timestamp"):
        size, scale = 0, size
    return LocalType(name, kind or KINDS.get(name, Kind.OPAQUE), unsigned, size, scale, charset=charset)


def canonical(data_type: str, column_type: str, charset: str = "", collation: str = "") -> CanonicalType:
    """The canonical type that a column maps to by itself; arguments as the information schema has them."""
    native = column_type
    if charset and collation:
        native += f" CHARACTER SET {charset} COLLATE {collation}"
    return CanonicalType(local_type(data_type, column_type, charset).default, native)
