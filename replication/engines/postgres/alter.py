"""Changes tables as another node's were changed: added and widened columns."""

from __future__ import annotations

from replication.defaults import literal
from replication.engines.postgres.columns import LocalColumn
from replication.engines.postgres.config import Connection, quoted, quoted_table, split_name
from replication.errors import SchemaChanged
from replication.evolution import holds
from replication.schema import Column
from replication.types import CanonicalType

LOCK_WAIT = "SET LOCAL lock_timeout = '5s'"
"""Whoever waits for the table longer than this stops the applications that come behind."""
_MISSING = """
SELECT a.atthasmissing, (a.attmissingval::text::text[])[1], a.attgenerated <> '' OR a.attidentity <> '',
       a.atthasdef
FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname = %s AND r.relname = %s AND a.attname = %s"""


def filled(connection: Connection, table: str, name: str, column: Column) -> str | None:
    """See `SchemaEditor.filled`. The server remembers the value until it rewrites the table.

    Args:
        connection: to the node.
        table: the table's name in the configuration.
        name: the column's name here.
        column: the column.
    """
    row = connection.execute(_MISSING, [*split_name(table), name]).fetchone()
    if row is None:
        message = f"{table} has no column {name}"
        raise SchemaChanged(message)
    missing, text, computed, has_default = row
    if computed:
        message = f"column {name} of {table} is computed by the server, so the rows differ in it"
        raise SchemaChanged(message)
    if missing:
        if (known := literal(text, column.type.kind)) is not None:
            return known
        message = f"the rows of {table} hold {text[:60]!r} in {name}, which cannot be written on every node"
        raise SchemaChanged(message)
    if has_default:
        found = connection.execute(
            f"SELECT EXISTS (SELECT FROM {quoted_table(table)} WHERE {quoted(name)} IS NOT NULL)".encode()
        ).fetchone()
        if found and found[0]:
            message = f"the default of column {name} of {table} gave each row a value of its own"
            raise SchemaChanged(message)
    return None


def add_column(connection: Connection, table: str, name: str, line: str, default: str | None) -> None:
    """Add a column.

    Args:
        connection: to the node.
        table: the table's name in the configuration.
        name: the column's name here.
        line: its declaration, with what existing rows get as its default.
        default: its default from then on, or None.
    """
    alter = f"ALTER TABLE {quoted_table(table)}"
    last = f"SET DEFAULT {default}" if default else "DROP DEFAULT"
    with connection.transaction():
        connection.execute(LOCK_WAIT)
        connection.execute(f"{alter} ADD COLUMN IF NOT EXISTS {line}".encode())
        connection.execute(f"{alter} ALTER COLUMN {quoted(name)} {last}".encode())


def widen_column(connection: Connection, table: str, local: LocalColumn, column: Column, type: str) -> None:
    """Widen a column, unless it is wide enough.

    Args:
        connection: to the node.
        table: the table's name in the configuration.
        local: the column as it is here.
        column: what it must hold.
        type: the type that does.
    """
    actions = []
    if not holds(CanonicalType(local.type.kind, local.native, local.type.item), column.type):
        actions.append(f"ALTER COLUMN {quoted(local.name)} TYPE {type}")
    if column.nullable and local.not_null:
        actions.append(f"ALTER COLUMN {quoted(local.name)} DROP NOT NULL")
    if actions:
        with connection.transaction():
            connection.execute(LOCK_WAIT)
            connection.execute(f"ALTER TABLE {quoted_table(table)} {', '.join(actions)}".encode())
