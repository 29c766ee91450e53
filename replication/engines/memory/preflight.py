"""What would keep a memory database from taking part."""

from __future__ import annotations

from collections.abc import Iterator

from replication.engine import Finding
from replication.engines.memory.database import MemoryDatabase
from replication.engines.memory.schema import bind
from replication.key import KEY_KINDS
from replication.schema import Table


def findings(database: MemoryDatabase, table: Table, node: str) -> Iterator[Finding]:
    """Everything that is wrong with one mapped table."""
    binding = bind(table, node)
    store = database.tables.get(binding.local)
    if store is None:
        yield Finding(
            "error", table.name, f"{binding.local} does not exist", f"create_table({binding.local})"
        )
        return
    key = tuple(table.mapping.local(node, name) for name in table.mapping.key)
    if key != store.schema.key:
        yield Finding(
            "error", table.name, f"its key is {store.schema.key}, not {key}", "map the table by its own key"
        )
    for name in table.mapping.key:
        kind = table.schema.column(name).type.kind
        if kind not in KEY_KINDS:
            yield Finding("error", table.name, f"{name} is {kind}, which no key can be", "choose another key")
    for local, column in zip(binding.columns, table.schema.columns, strict=True):
        if local not in store.arrow.names:
            yield Finding("error", table.name, f"column {local} does not exist", f"add_column({local})")
        elif store.arrow.field(local).type != column.type.arrow:
            found = store.schema.column(local).type.kind
            yield Finding(
                "error", table.name, f"{local} is {found}, not {column.type.kind}", "change its type"
            )
