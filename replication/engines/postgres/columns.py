"""What the catalog says of a table's columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from replication.binding import mapped_columns
from replication.engines.postgres.config import Connection, quoted, quoted_table, split_name
from replication.engines.postgres.types import LocalType, local_type
from replication.schema import Column, Table

_BASE = """
    WITH RECURSIVE base(oid, typtype, typbasetype, typtypmod, mod) AS (
        SELECT {type}.oid, {type}.typtype, {type}.typbasetype, {type}.typtypmod, {mod}
        UNION ALL
        SELECT p.oid, p.typtype, p.typbasetype, p.typtypmod, base.typtypmod
        FROM base JOIN pg_type p ON p.oid = base.typbasetype WHERE base.typtype = 'd')
    SELECT p.*, base.mod FROM base JOIN pg_type p ON p.oid = base.oid WHERE base.typtype <> 'd'"""
"""What is below a type's domains, and the length or precision that is declared with it there."""
_COLUMNS = f"""
SELECT a.attname, CASE WHEN i.typtype = 'd' THEN e.typarray ELSE b.oid END::int8,
       b.typtype = 'e' OR coalesce(e.typtype = 'e', false),
       CASE WHEN b.typcategory = 'A' THEN e.oid::int8 ELSE 0 END,
       a.atttypid::int8,
       CASE WHEN i.typtype = 'd' THEN format_type(e.typarray, -1) ELSE format_type(b.oid, -1) END,
       CASE WHEN i.typtype = 'd' THEN format_type(e.typarray, e.mod) ELSE format_type(b.oid, b.mod) END,
       format_type(a.atttypid, a.atttypmod),
       a.attnotnull, a.attgenerated, a.attidentity, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a
JOIN pg_class r ON r.oid = a.attrelid
JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
JOIN LATERAL ({_BASE.format(type="t", mod="a.atttypmod")}
) b ON true
LEFT JOIN pg_type i ON b.typcategory = 'A' AND i.oid = b.typelem
LEFT JOIN LATERAL ({_BASE.format(type="i", mod="b.mod")}
) e ON i.oid IS NOT NULL
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = %s AND r.relname = %s AND r.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum"""


@dataclass(frozen=True, slots=True)
class LocalColumn:
    """One column as the catalog describes it.

    Attributes:
        name: its name on this node.
        type: how its text is read.
        type_oid: object id of the declared type, as a Relation message names it.
        cast: the type below any domain, without length or precision, safe for an explicit cast: a value that
            does not fit the declared length is refused on assignment, where a cast to it would cut silently.
        native: the type below any domain, with length or precision.
        declared: the declared type.
        not_null: whether it refuses null.
        generated: `s` stored, `v` virtual, or empty.
        identity: `a` always, `d` by default, or empty.
        default: default or generation expression.
    """

    name: str
    type: LocalType
    type_oid: int
    cast: str
    native: str
    declared: str
    not_null: bool
    generated: str
    identity: str
    default: str | None


@dataclass(frozen=True)
class Bound:
    """A mapped table on this node, with the catalog's column for each canonical one."""

    table: Table
    node: str
    columns: tuple[LocalColumn, ...]

    @property
    def sql(self) -> str:
        """The table's name as SQL."""
        return quoted_table(self.table.mapping.names[self.node])

    @cached_property
    def key(self) -> tuple[int, ...]:
        """Indexes of the key columns, in key order."""
        return tuple(self.table.schema.index(name) for name in self.table.schema.key)

    def local(self, column: Column) -> LocalColumn:
        """The local column of a canonical one."""
        return self.columns[self.table.schema.index(column.name)]

    def names(self, indexes: Iterable[int]) -> list[str]:
        """Quoted local names of some columns."""
        return [quoted(self.columns[i].name) for i in indexes]


def read_columns(connection: Connection, name: str) -> list[LocalColumn]:
    """The columns of a table in their order; empty if there is no such table."""
    rows = connection.execute(_COLUMNS, split_name(name)).fetchall()
    return [
        LocalColumn(name, local_type(base, enum=enum, array_of=item), *rest)
        for name, base, enum, item, *rest in rows
    ]


def bind(connection: Connection, table: Table, node: str) -> Bound:
    """Find the local column of every canonical one.

    Raises:
        SchemaChanged: the table or a mapped column does not exist.
    """
    found = read_columns(connection, table.mapping.names[node])
    return Bound(table, node, mapped_columns(table, node, found))


def publishes_generated(connection: Connection) -> bool:
    """Whether the server can publish stored generated columns: since version 18."""
    return connection.info.server_version >= 180_000
