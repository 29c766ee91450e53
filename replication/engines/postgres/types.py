"""Native types to canonical types and back.

Built-in types are known by object id, which never changes (`pg_type.dat` in the server's source). An enum
travels as text under its own name, a domain as its base type, an array of scalars as a list; whatever is left
travels as the text that the server prints and reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.pairing import accepts, items_fit
from replication.types import CanonicalType, Kind

BYTEA = 17
BPCHAR = 1042
JSON_OID = 114
JSONB_OID = 3802
FIRST_USER_OID = 16_384
"""Types below it come with the server and are the same everywhere."""

KINDS: dict[int, Kind] = {
    16: Kind.BOOLEAN,
    BYTEA: Kind.BYTES,
    18: Kind.TEXT,  # "char"
    19: Kind.TEXT,  # name
    20: Kind.INT64,
    21: Kind.INT16,
    23: Kind.INT32,
    25: Kind.TEXT,
    26: Kind.INT64,  # oid
    JSON_OID: Kind.JSON,
    700: Kind.FLOAT32,
    701: Kind.FLOAT64,
    BPCHAR: Kind.TEXT,
    1043: Kind.TEXT,  # varchar
    1082: Kind.DATE,
    1083: Kind.TIME,
    1114: Kind.TIMESTAMP,
    1184: Kind.TIMESTAMPTZ,
    1700: Kind.NUMERIC,
    2950: Kind.UUID,
    JSONB_OID: Kind.JSON,
}
ARRAYS: dict[int, int] = {
    1000: 16,
    1005: 21,
    1007: 23,
    1016: 20,
    1021: 700,
    1022: 701,
    1231: 1700,
    1009: 25,
    1015: 1043,
    1003: 19,
    1182: 1082,
    1183: 1083,
    1115: 1114,
    1185: 1184,
    2951: 2950,
}
"""Array types by their item's type, where a list can hold the items as JSON scalars."""

_DDL: dict[Kind, str] = {
    Kind.BOOLEAN: "boolean",
    Kind.INT16: "smallint",
    Kind.INT32: "integer",
    Kind.INT64: "bigint",
    Kind.FLOAT32: "real",
    Kind.FLOAT64: "double precision",
    Kind.NUMERIC: "numeric",
    Kind.TEXT: "text",
    Kind.BYTES: "bytea",
    Kind.DATE: "date",
    Kind.TIME: "time",
    Kind.TIMESTAMP: "timestamp",
    Kind.TIMESTAMPTZ: "timestamptz",
    Kind.UUID: "uuid",
    Kind.JSON: "jsonb",
    Kind.OPAQUE: "text",
}
_LIST_ITEMS = frozenset(KINDS[item] for item in ARRAYS.values())


@dataclass(frozen=True, slots=True)
class LocalType:
    """What matters of a column's type on this node when its text is read or written.

    Attributes:
        kind: the kind it maps to by itself.
        item: the kind of a list's items.
        padded: blanks at the end are padding, not value (`char(n)`).
    """

    kind: Kind
    item: Kind | None = None
    padded: bool = False

    def fits(self, canonical: CanonicalType) -> bool:
        """Whether every text of this type can be read as a value of the canonical type."""
        own = CanonicalType(self.kind, item=self.item)
        return accepts("postgres", canonical.kind, (self.kind,)) and items_fit(canonical, own)


def local_type(oid: int, *, enum: bool = False, array_of: int = 0) -> LocalType:
    """The type with a base object id.

    Args:
        oid: object id, of the base type where the column's type is a domain.
        enum: it is an enum, or an array of one.
        array_of: object id of the items' type, if it is an array.
    """
    if oid in ARRAYS:
        return LocalType(Kind.LIST, KINDS[ARRAYS[oid]])
    if enum:
        return LocalType(Kind.LIST, Kind.TEXT) if array_of else LocalType(Kind.TEXT)
    return LocalType(KINDS.get(oid, Kind.OPAQUE), padded=oid == BPCHAR)


def declaration(type: CanonicalType) -> str:
    """The PostgreSQL type that holds every value of a canonical type from another engine."""
    if type.kind is Kind.LIST:
        return f"{_DDL[type.item]}[]" if type.item in _LIST_ITEMS and type.item else "jsonb"
    return _DDL[type.kind]
