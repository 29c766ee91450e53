"""What each engine makes of a column that another engine declares."""

from __future__ import annotations

from replication.engines.mongodb import declare as mongodb
from replication.engines.mysql import declare as mysql
from replication.engines.mysql.types import canonical
from replication.engines.postgres import types as postgres
from replication.pairing import Declaration
from replication.types import CanonicalType, Kind

_DECLARATIONS = {
    "postgres": postgres.declaration,
    "mysql": mysql.declaration,
    "mongodb": mongodb.declaration,
}


def created(wide: Declaration, engine: str) -> Declaration:
    """The column that `create_tables` makes on a node of another engine, or of the same one."""
    type = wide.type
    if engine == wide.engine or engine not in _DECLARATIONS:
        return Declaration(type, engine)
    native = _DECLARATIONS[engine](type)
    return Declaration(_canonical(engine, type, native), engine)


def _canonical(engine: str, type: CanonicalType, native: str) -> CanonicalType:
    """The canonical type that the new column is by itself."""
    if engine == "mysql":
        own = canonical(native.partition("(")[0].split()[0], native)
        return CanonicalType(own.kind, native)
    if engine == "postgres":
        kind = Kind.JSON if native == "jsonb" else Kind.TEXT if native == "text" else type.kind
        return CanonicalType(kind, native, type.item if kind is Kind.LIST else None)
    return CanonicalType(type.kind, native, type.item)
