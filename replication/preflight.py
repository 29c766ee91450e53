"""What the preflight of SQL engines shares: how a table's own columns and the mapped ones go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

from replication.engine import Finding
from replication.key import KEY_KINDS
from replication.schema import Column, Table


class LocalColumn(Protocol):
    """A column as a SQL engine's catalog describes it."""

    @property
    def name(self) -> str:
        """Its name on this node."""

    @property
    def not_null(self) -> bool:
        """Whether it refuses null."""

    @property
    def default(self) -> str | None:
        """Default or generation expression."""

    @property
    def identity(self) -> object:
        """True if the server gives it a number."""

    @property
    def generated(self) -> object:
        """True if the server computes it."""


C = TypeVar("C", bound=LocalColumn)


def column_findings(
    table: Table,
    name: str,
    columns: Mapping[str, C],
    mapped: Mapping[str, str],
    misfit: Callable[[Column, C], Finding | None],
    drop_not_null: Callable[[C], str],
) -> Iterator[Finding]:
    """What is wrong with the columns of a table.

    Args:
        table: mapping and canonical schema.
        name: what the table is called on this node.
        columns: all of its own columns, by name.
        mapped: what each canonical column is called here.
        misfit: why a column cannot hold a canonical one; None if it can.
        drop_not_null: the statement that lets a column be null.
    """
    for column in table.schema.columns:
        local = columns.get(mapped[column.name])
        if local is None:
            message = f"table {name} has no column {mapped[column.name]}"
            yield Finding("error", table.name, message, "add it, or exclude it in the configuration")
        elif (found := misfit(column, local)) is not None:
            yield found
        if column.name in table.schema.key and column.type.kind not in KEY_KINDS:
            message = f"{name}.{mapped[column.name]} is {column.type.kind}, which cannot be a key"
            yield Finding("error", table.name, message, "choose another key")
    taken = set(mapped.values())
    for local in columns.values():
        needed = local.not_null and local.default is None and not local.identity and not local.generated
        if local.name not in taken and needed:
            message = f"{name}.{local.name} is not mapped, not null and without default: inserts will fail"
            yield Finding("warning", table.name, message, drop_not_null(local))
