"""What a column's values are in documents; nothing is declared there."""

from __future__ import annotations

from replication.types import CanonicalType, Kind

_WRITTEN: dict[Kind, str] = {
    Kind.BOOLEAN: "bool",
    **dict.fromkeys((Kind.INT16, Kind.INT32), "int"),
    Kind.INT64: "long",
    **dict.fromkeys((Kind.FLOAT32, Kind.FLOAT64), "double"),
    Kind.NUMERIC: "decimal",
    **dict.fromkeys((Kind.TEXT, Kind.OPAQUE, Kind.TIME), "string"),
    **dict.fromkeys((Kind.BYTES, Kind.UUID), "binData"),
    **dict.fromkeys((Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ), "date"),
    Kind.JSON: "any",
    Kind.LIST: "array",
}


def declaration(type: CanonicalType) -> str:
    """The BSON type that a value of a canonical type is written as, by the name that `$type` knows."""
    return _WRITTEN[type.kind]
