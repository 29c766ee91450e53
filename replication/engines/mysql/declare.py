"""How columns are declared on this node when a table is created from another node's schema."""

from __future__ import annotations

import re
from dataclasses import replace

from replication.defaults import NOW, TODAY, portable_default
from replication.engines.mysql.columns import CODE_POINTS
from replication.engines.mysql.config import quoted
from replication.schema import Column, Table
from replication.types import CanonicalType, Kind

OPTIONS = f"ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {CODE_POINTS}"
"""Text compares as it does on the other nodes: by its code points, blanks at the end included."""
_TYPES: dict[Kind, str] = {
    Kind.BOOLEAN: "tinyint(1)",
    Kind.INT16: "smallint",
    Kind.INT32: "int",
    Kind.INT64: "bigint",
    Kind.FLOAT32: "float",
    Kind.FLOAT64: "double",
    Kind.NUMERIC: "decimal(65,30)",
    Kind.TEXT: "longtext",
    Kind.BYTES: "longblob",
    Kind.DATE: "date",
    Kind.TIME: "time(6)",
    Kind.TIMESTAMP: "datetime(6)",
    Kind.TIMESTAMPTZ: "timestamp(6)",
    Kind.UUID: "char(36) CHARACTER SET ascii COLLATE ascii_general_ci",
    Kind.JSON: "json",
    Kind.LIST: "json",
    Kind.OPAQUE: "longtext",
}
_PARAMETERS = re.compile(r"^([a-z ]+?) ?\((\d+)(?:,(-?\d+))?\)")
_KEY_BYTES = 3072
"""What InnoDB takes as a key."""
_FIXED_BYTES = 32
"""More than any key column of a fixed width takes."""
_VARCHAR = 2_000
"""Characters; longer ones are declared as longtext, since all varchars share 64 KB of a row."""
_ROW_BYTES = 48_000
_DIGITS, _SCALE, _BITS, _CHARS = 65, 30, 64, 255
_EXPRESSIONS_ONLY = ("json", "longtext", "longblob")
"""Types whose default must be an expression."""


def declarations(table: Table, node: str, own: bool) -> list[str]:
    """The lines of CREATE TABLE, the key's at the end.

    Args:
        table: mapping and canonical schema.
        node: this node's name.
        own: the schema was read from a MySQL node too, so native types and defaults hold.
    """
    lines = []
    room = _ROW_BYTES
    for column in table.schema.columns:
        type = declared_type(table, column, own=own)
        if type.startswith("varchar") and not (own and column.type.native):
            room -= 4 * int(type[8:-1])
            type = type if room >= 0 else _TYPES[Kind.TEXT]
        lines.append(_line(table, quoted(table.mapping.local(node, column.name)), column, type, own))
    key = ", ".join(quoted(table.mapping.local(node, k)) for k in table.schema.key)
    return [*lines, f"PRIMARY KEY ({key})"]


def declared_type(table: Table, column: Column, *, own: bool) -> str:
    """The type that a column is declared with; arguments as of `declarations`."""
    if own and column.type.native:
        return column.type.native
    return _key_type(table, column) if column.name in table.schema.key else declaration(column.type)


def added_column(table: Table, node: str, column: Column, fill: str | None, *, own: bool) -> tuple[str, str]:
    """A column that is added: the declaration that gives `fill` to existing rows, and the one that stays."""
    name, type = quoted(table.mapping.local(node, column.name)), declared_type(table, column, own=own)
    made = replace(column, default=fill, nullable=column.nullable or fill is None, generated=False)
    default = None if column.generated else column.default
    return (
        _line(table, name, made, type, own=False),
        _line(table, name, replace(made, default=default), type, own),
    )


def _line(table: Table, name: str, column: Column, type: str, own: bool) -> str:
    parts = [name, type]
    if column.generated and own and column.default:
        parts.append(f"GENERATED ALWAYS AS ({column.default}) STORED")
    parts.append("NULL" if column.nullable and column.name not in table.schema.key else "NOT NULL")
    if column.default and not column.generated:
        default = column.default if own else _default(column.default, column.type.kind, type)
        if default:
            parts.append(f"DEFAULT {default}")
    return " ".join(parts)


def _default(default: str, kind: Kind, type: str) -> str | None:
    portable = portable_default(default, kind)
    if portable == NOW:
        digits = type.partition("(")[2]
        return f"{NOW}({digits}" if kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ) else None
    if portable == TODAY or (portable and type in _EXPRESSIONS_ONLY):
        return f"({portable})"
    return portable


def declaration(type: CanonicalType) -> str:
    """The type that holds every value of a canonical type, close to what is declared elsewhere."""
    match = _PARAMETERS.match(type.native)
    if match is None:
        return _TYPES[type.kind]
    name, size, scale = match[1], int(match[2]), int(match[3] or 0)
    match type.kind:
        case Kind.NUMERIC if size <= _DIGITS and 0 <= scale <= min(size, _SCALE):
            return f"decimal({size},{scale})"
        case Kind.TEXT if name == "character varying" and size <= _VARCHAR:
            return f"varchar({size})"
        case Kind.TEXT if name == "character" and size <= _CHARS:
            return f"char({size})"
        case Kind.OPAQUE if name == "bit" and size <= _BITS:
            return f"bit({size})"
        case Kind.TIME | Kind.TIMESTAMP | Kind.TIMESTAMPTZ if size < 6:
            return _TYPES[type.kind].replace("6", str(size))
    return _TYPES[type.kind]


def _key_type(table: Table, column: Column) -> str:
    """A type that may be part of the key: all of them together have a limit."""
    kinds = [table.schema.column(name).type.kind for name in table.schema.key]
    wide = sum(kind in (Kind.TEXT, Kind.BYTES) for kind in kinds)
    share = (_KEY_BYTES - _FIXED_BYTES * (len(kinds) - wide)) // max(wide, 1)
    type = declaration(column.type)
    if column.type.kind is Kind.BYTES:
        return f"varbinary({share})"
    if column.type.kind is not Kind.TEXT or type.startswith("char"):
        return type
    declared = int(type[8:-1]) if type.startswith("varchar") else share
    return f"varchar({min(declared, share // 4)})"
