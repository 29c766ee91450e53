"""How mapped tables and columns are called in a memory database, and what they look like there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from replication.defaults import literal_value
from replication.engines.memory.database import MemoryDatabase
from replication.evolution import holds
from replication.schema import Column, Table, TableMapping, TableSchema


@dataclass(frozen=True, slots=True)
class Binding:
    """A mapped table on this node.

    Attributes:
        table: mapping and canonical schema.
        local: the table's name in the database.
        columns: the columns' names in the database, in schema order.
    """

    table: Table
    local: str
    columns: tuple[str, ...]


def bind(table: Table, node: str) -> Binding:
    """How `table` is called on `node`."""
    columns = tuple(table.mapping.local(node, c.name) for c in table.schema.columns)
    return Binding(table, table.mapping.names[node], columns)


def read_schema(database: MemoryDatabase, mapping: TableMapping, node: str) -> TableSchema | None:
    """The mapped columns under their canonical names; see `engine.Catalog`."""
    store = database.tables.get(mapping.names[node])
    if store is None:
        return None
    canonical = {names[node]: name for name, names in mapping.columns.items() if node in names}
    columns = [
        Column(name, c.type, c.nullable, c.generated, c.default)
        for c in store.schema.columns
        if (name := canonical.get(c.name, c.name)) not in mapping.exclude
    ]
    return TableSchema(mapping.name, tuple(columns), mapping.key)


def create_table(database: MemoryDatabase, table: Table, node: str) -> None:
    """Create the table under its local names unless it exists."""
    binding = bind(table, node)
    if binding.local in database.tables:
        return
    columns = tuple(
        Column(local, c.type, c.nullable, c.generated)
        for local, c in zip(binding.columns, table.schema.columns, strict=True)
    )
    key = tuple(table.mapping.local(node, name) for name in table.mapping.key)
    database.create_table(TableSchema(binding.local, columns, key))


def add_column(database: MemoryDatabase, table: Table, column: Column, fill: str | None, node: str) -> None:
    """Add a column unless it is there."""
    name, local = table.mapping.names[node], table.mapping.local(node, column.name)
    if any(c.name == local for c in database.tables[name].schema.columns):
        return
    value = None if fill is None else literal_value(fill, column.type)[0]
    made = Column(local, column.type, column.nullable or fill is None)
    database.add_column(name, made, value)


def widen_column(database: MemoryDatabase, table: Table, column: Column, node: str) -> None:
    """Widen a column, unless it is wide enough."""
    name, local = table.mapping.names[node], table.mapping.local(node, column.name)
    have = database.tables[name].schema.column(local)
    if not holds(have.type, column.type) or (column.nullable and not have.nullable):
        type = have.type if holds(have.type, column.type) else column.type
        database.retype_column(name, replace(have, type=type, nullable=column.nullable or have.nullable))
