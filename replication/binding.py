"""Mapped columns found in the table that a node has: what engines with declared columns do alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from replication.errors import SchemaChanged
from replication.schema import Table


class Named(Protocol):
    """A column of a node's table."""

    @property
    def name(self) -> str:
        """What it is called there."""


LocalColumn = TypeVar("LocalColumn", bound=Named)


def mapped_columns(table: Table, node: str, found: Iterable[LocalColumn]) -> tuple[LocalColumn, ...]:
    """The local column of every canonical one.

    Args:
        table: the mapped table.
        node: the node's name.
        found: the columns that the table has there; none if there is no such table.

    Raises:
        SchemaChanged: the table or a mapped column does not exist.
    """
    name, local = table.mapping.names[node], {column.name: column for column in found}
    if not local:
        message = f"table {name} does not exist"
        raise SchemaChanged(message, node=node, hint="create it, or take it out of the configuration")
    wanted = [table.mapping.local(node, column.name) for column in table.schema.columns]
    if missing := [column for column in wanted if column not in local]:
        message = f"table {name} has no column {missing[0]}"
        raise SchemaChanged(message, node=node, hint="add it, or exclude it in the configuration")
    return tuple(local[column] for column in wanted)
