"""Changes tables as another node's were changed: added and widened columns."""

from __future__ import annotations

from pymysql.connections import Connection

from replication.defaults import literal, portable_default
from replication.engines.mysql.columns import LocalColumn
from replication.engines.mysql.config import quoted
from replication.errors import SchemaChanged
from replication.evolution import holds
from replication.schema import Column
from replication.types import Kind

LOCK_WAIT = "SET SESSION lock_wait_timeout = 5"
"""Whoever waits for the table longer than this stops the applications that come behind."""


def filled(connection: Connection, table: str, local: LocalColumn, column: Column) -> str | None:
    """See `SchemaEditor.filled`.

    The server does not say what it gave to existing rows: a default may have been dropped since, and where
    there is none a not-null column gets a value all the same. So the rows themselves are asked; where there
    are none, or they hold several values by now, the declared default counts.
    """
    kind = column.type.kind
    if local.generated or local.identity:
        message = f"column {local.name} of {table} is computed by the server, so the rows differ in it"
        raise SchemaChanged(message)
    name = quoted(local.name)
    value = f"{name} + 0" if kind is Kind.BOOLEAN else name
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT CAST({value} AS CHAR) FROM {quoted(table)} LIMIT 2")
        values = [row[0] for row in cursor.fetchall()]
    declared = portable_default(local.default, kind) if local.default is not None else None
    if declared is not None and declared.startswith("CURRENT"):
        declared = None
    if not values:  # perhaps rows of other nodes are on their way
        return declared
    if values == [None]:
        return None
    found = literal(values[0], kind) if len(values) == 1 else None
    if len(values) > 1 and local.default is not None:
        found = declared
    elif len(values) > 1 and not local.not_null and None in values:
        return None
    if found is None:
        message = f"what the rows of {table} got in column {local.name} cannot be told, or not be written on"
        message += " every node"
        raise SchemaChanged(message)
    return found


def add_column(connection: Connection, table: str, first: str, line: str) -> None:
    """Add a column.

    Args:
        connection: to the node.
        table: the table's name here.
        first: its declaration, with what existing rows get as its default.
        line: its declaration from then on.
    """
    connection.query(LOCK_WAIT)
    connection.query(f"ALTER TABLE {quoted(table)} ADD COLUMN {first}")
    if line != first:
        connection.query(f"ALTER TABLE {quoted(table)} MODIFY COLUMN {line}")


def widen_column(connection: Connection, table: str, local: LocalColumn, column: Column, type: str) -> None:
    """Widen a column, unless it is wide enough. Everything else that is declared of it stays.

    Args:
        connection: to the node.
        table: the table's name here.
        local: the column as it is here.
        column: what it must hold.
        type: the type that does.
    """
    wide = holds(local.canonical, column.type)
    relax = column.nullable and local.not_null
    if wide and not relax:
        return
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW CREATE TABLE {quoted(table)}")
        row = cursor.fetchone()
    assert row is not None
    head = f"{quoted(local.name)} {local.declared}"
    lines = (line.strip().removesuffix(",") for line in row[1].splitlines())
    line = next((line for line in lines if line.startswith(head)), None)
    if line is None:
        message = f"the declaration of column {local.name} of {table} cannot be read"
        raise SchemaChanged(message)
    rest = line[len(head) :]
    if relax:
        rest = rest.replace(" NOT NULL", "", 1)
    if " CHARACTER SET " in rest or " COLLATE " in rest:
        type = type.partition(" CHARACTER SET ")[0]
    connection.query(LOCK_WAIT)
    new = local.declared if wide else type
    connection.query(f"ALTER TABLE {quoted(table)} MODIFY COLUMN {quoted(local.name)} {new}{rest}")
