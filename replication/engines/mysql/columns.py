"""What the information schema says of a table's columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pymysql.connections import Connection

from replication.binding import mapped_columns
from replication.engines.mysql.config import quoted
from replication.engines.mysql.types import LocalType, canonical, local_type
from replication.errors import SchemaChanged
from replication.pairing import shown
from replication.schema import Column, Table
from replication.types import CanonicalType, Kind

_COLUMNS = """
SELECT column_name, data_type, column_type, character_set_name, collation_name, is_nullable, extra,
       column_default, generation_expression
FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s
ORDER BY ordinal_position"""
_INDEXES = """
SELECT index_name, GROUP_CONCAT(column_name ORDER BY seq_in_index SEPARATOR '`'), MAX(sub_part),
       MAX(nullable = 'YES')
FROM information_schema.statistics
WHERE table_schema = DATABASE() AND table_name = %s AND non_unique = 0
GROUP BY index_name"""
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|b'[01]*'|NULL")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "0": "\0", "Z": "\x1a"}
CODE_POINTS = "utf8mb4_0900_bin"
"""The collation that sorts text as canonical keys do, and to which blanks at the end are characters."""


@dataclass(frozen=True, slots=True)
class LocalColumn:
    """One column as the information schema describes it.

    Attributes:
        name: its name on this node.
        type: how its values are read and written.
        declared: the declared type, e.g. `varchar(20)`.
        canonical: the canonical type that it maps to by itself.
        collation: MySQL's name of a text's collation, or empty.
        not_null: whether it refuses null.
        generated: computed by the server, stored or virtual.
        identity: AUTO_INCREMENT.
        default: default or generation expression, as SQL.
    """

    name: str
    type: LocalType
    declared: str
    canonical: CanonicalType
    collation: str
    not_null: bool
    generated: bool
    identity: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """An index that makes its columns unique.

    Attributes:
        name: of the index.
        columns: local names; of an index on expressions None.
        whole: whether it takes whole values, not a part of each.
        nullable: whether a column may be null.
    """

    name: str
    columns: tuple[str, ...] | None
    whole: bool
    nullable: bool


@dataclass(frozen=True, slots=True)
class Bound:
    """A mapped table on this node, with the catalog's column for each canonical one.

    Attributes:
        table: mapping and canonical schema.
        node: this node's name.
        columns: in canonical order.
        only_key: nothing but the key is unique, so a row that exists already is the row itself.
    """

    table: Table
    node: str
    columns: tuple[LocalColumn, ...]
    only_key: bool

    @property
    def sql(self) -> str:
        """The table's name as SQL."""
        return quoted(self.table.mapping.names[self.node])

    @property
    def inexact(self) -> tuple[int, ...]:
        """Indexes of key columns that take different texts for equal, or sort them otherwise than keys do."""
        return tuple(i for i in self.key if not self._exact(i))

    @property
    def key(self) -> tuple[int, ...]:
        """Indexes of the key columns, in key order."""
        return tuple(self.table.schema.index(name) for name in self.table.schema.key)

    def kind(self, index: int) -> Kind:
        """The canonical kind of a column."""
        return self.table.schema.columns[index].type.kind

    def name(self, index: int) -> str:
        """The quoted local name of a column."""
        return quoted(self.columns[index].name)

    def bytewise(self, index: int) -> str:
        """A column as SQL that compares and sorts as canonical keys do."""
        name = self.name(index)
        return name if self._exact(index) else f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"

    def names(self, indexes: Iterable[int]) -> list[str]:
        """The quoted local names of some columns."""
        return [self.name(i) for i in indexes]

    def _exact(self, index: int) -> bool:
        local = self.columns[index]
        if self.kind(index) is not Kind.TEXT or local.type.kind is Kind.BYTES:
            return True
        return local.collation == CODE_POINTS and local.type.name not in ("enum", "set")


def read_columns(connection: Connection, table: str) -> list[LocalColumn]:
    """The columns of a table in their order; empty if there is no such table."""
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, [table])
        rows = cursor.fetchall()
    return [
        LocalColumn(
            name,
            local_type(data_type, declared, charset or ""),
            declared,
            canonical(data_type, declared, charset or "", collation or ""),
            collation or "",
            nullable == "NO",
            "GENERATED" in extra.replace("DEFAULT_GENERATED", ""),
            "auto_increment" in extra,
            _plain(generation) if generation else _default(default, data_type, extra),
        )
        for name, data_type, declared, charset, collation, nullable, extra, default, generation in rows
    ]


def read_unique_indexes(connection: Connection, table: str) -> list[UniqueIndex]:
    """The indexes of a table that make something unique."""
    with connection.cursor() as cursor:
        cursor.execute(_INDEXES, [table])
        rows = cursor.fetchall()
    return [
        UniqueIndex(name, tuple(columns.split("`")) if columns else None, part is None, bool(nullable))
        for name, columns, part, nullable in rows
    ]


def bind(connection: Connection, table: Table, node: str) -> Bound:
    """Find the local column of every canonical one.

    Raises:
        SchemaChanged: the table or a mapped column does not exist, or cannot be read as what it should be.
    """
    name = table.mapping.names[node]
    columns = mapped_columns(table, node, read_columns(connection, name))
    for local, column in zip(columns, table.schema.columns, strict=True):
        if trouble := unfit(table, column, local):
            raise SchemaChanged(trouble, node=node, hint="run `sync-worker check` for the remedy")
    key = {table.mapping.local(node, k) for k in table.schema.key}
    only_key = all(i.columns and set(i.columns) == key for i in read_unique_indexes(connection, name))
    return Bound(table, node, columns, only_key)


def unfit(table: Table, column: Column, local: LocalColumn) -> str:
    """Why a local column cannot hold a canonical one; empty if it can."""
    place, kind = f"{table.name}.{local.name}", column.type.kind
    if not local.type.fits(column.type):
        return f"{place} is {local.declared}, which is not {shown(column.type)}"
    if column.name in table.schema.key and not local.type.compares(kind):
        return f"{place} is {local.declared}, which does not compare as a key of {kind} does"
    return ""


def _default(default: str | None, data_type: str, extra: str) -> str | None:
    """A default as SQL; the information schema gives a text without its quotes."""
    if default is None:
        return None
    if "DEFAULT_GENERATED" in extra:
        return default if default.upper().startswith("CURRENT_TIMESTAMP") else f"({_plain(default)})"
    if _NUMBER.fullmatch(default) and data_type not in ("char", "varchar", "enum", "set"):
        return default
    return "'" + default.replace("\\", "\\\\").replace("'", "''") + "'"


def _plain(expression: str) -> str:
    """An expression as it was written; the information schema escapes it as if it stood in a string."""
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), expression)
