"""Reads and creates tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from replication.defaults import portable_default
from replication.engine import Finding
from replication.engines.postgres import alter
from replication.engines.postgres.columns import LocalColumn, publishes_generated, read_columns
from replication.engines.postgres.config import Connection, Session, quoted, quoted_table, split_name
from replication.engines.postgres.preflight import check, large_columns
from replication.engines.postgres.types import declaration
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType


class PostgresCatalog:
    """Implements `replication.engine.Catalog`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        self._session = Session(node)

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """See `Catalog.read_schema`.

        Generated columns that the server cannot publish are left out: virtual ones, and all of them before
        PostgreSQL 18.
        """
        with self._session.use() as c:
            found = read_columns(c, mapping.names[self.node.name])
            stored = publishes_generated(c)
        if not found:
            return None
        names = self._canonical_names(mapping)
        columns = []
        for local in found:
            name = names.get(local.name, local.name)
            hidden = local.generated == "v" or (local.generated == "s" and not stored)
            if name not in mapping.exclude and (not hidden or name in mapping.key):
                columns.append(_column(name, local))
        return TableSchema(mapping.name, tuple(columns), mapping.key)

    def create_table(self, table: Table, source_engine: str) -> None:
        """See `Catalog.create_table`. Serial defaults are left out: their sequence stays where it is.

        The log shows whole rows where a policy or a large column needs that.
        """
        name = table.mapping.names[self.node.name]
        schema = split_name(name)[0]
        with self._session.use() as c, c.transaction():
            lines = [self._line(c, table, column, source_engine) for column in table.schema.columns]
            key = ", ".join(quoted(table.mapping.local(self.node.name, k)) for k in table.schema.key)
            lines.append(f"PRIMARY KEY ({key})")
            if c.execute("SELECT to_regclass(%s)", [quoted_table(name)]).fetchone() != (None,):
                return
            c.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
            c.execute(f"CREATE TABLE IF NOT EXISTS {quoted_table(name)} ({', '.join(lines)})".encode())
            others = [
                table.mapping.local(self.node.name, column.name)
                for column in table.schema.columns
                if column.name not in table.schema.key
            ]
            if "merge_fields" in table.mapping.conflict or large_columns(c, name, others):
                c.execute(f"ALTER TABLE {quoted_table(name)} REPLICA IDENTITY FULL")

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """See `Catalog.preflight`."""
        with self._session.use() as c:
            return check(c, self.node, self.group, tables)

    def filled(self, mapping: TableMapping, column: Column) -> str | None:
        """See `SchemaEditor.filled`."""
        here = self.node.name
        with self._session.use() as c:
            return alter.filled(c, mapping.names[here], mapping.local(here, column.name), column)

    def add_column(self, table: Table, column: Column, source_engine: str, fill: str | None) -> None:
        """See `SchemaEditor.add_column`."""
        name, local = table.mapping.names[self.node.name], table.mapping.local(self.node.name, column.name)
        with self._session.use() as c:
            if any(found.name == local for found in read_columns(c, name)):
                return
            made = replace(column, default=fill, nullable=column.nullable or fill is None, generated=False)
            default = None if column.generated else _default(column, source_engine)
            alter.add_column(c, name, local, self._line(c, table, made, source_engine), default)

    def widen_column(self, table: Table, column: Column, source_engine: str) -> None:
        """See `SchemaEditor.widen_column`."""
        name, local = table.mapping.names[self.node.name], table.mapping.local(self.node.name, column.name)
        nullable = column.nullable and column.name not in table.mapping.key
        with self._session.use() as c:
            for found in read_columns(c, name):
                if found.name == local:
                    type = self._type(c, column.type, source_engine == "postgres")
                    alter.widen_column(c, name, found, replace(column, nullable=nullable), type)

    def rest_has(self, table: Table, field: str) -> bool:
        """See `SchemaEditor.rest_has`."""
        here = self.node.name
        rest = quoted(table.mapping.local(here, table.mapping.rest))
        name = quoted_table(table.mapping.names[here])
        with self._session.use() as c:
            query = f"SELECT 1 FROM {name} WHERE {rest} -> %s::text IS NOT NULL LIMIT 1"
            return c.execute(query.encode(), [field]).fetchone() is not None

    def close(self) -> None:
        """See `Catalog.close`."""
        self._session.close()

    def _canonical_names(self, mapping: TableMapping) -> dict[str, str]:
        here = self.node.name
        return {names[here]: name for name, names in mapping.columns.items() if here in names}

    def _line(self, c: Connection, table: Table, column: Column, source_engine: str) -> str:
        """One column's declaration."""
        parts = [quoted(table.mapping.local(self.node.name, column.name))]
        own = source_engine == "postgres"
        parts.append(self._type(c, column.type, own))
        if column.generated and own and column.default:
            parts.append(f"GENERATED ALWAYS AS ({column.default}) STORED")
        elif not column.generated and (default := _default(column, source_engine)):
            parts.append(f"DEFAULT {default}")
        if not column.nullable or column.name in table.schema.key:
            parts.append("NOT NULL")
        return " ".join(parts)

    def _type(self, c: Connection, type: CanonicalType, own: bool) -> str:
        if own and type.native:
            # An enum or a domain may be unknown here.
            row = c.execute("SELECT to_regtype(%s) IS NOT NULL", [type.native]).fetchone()
            if row and row[0]:
                return type.native
        return declaration(type)


def _default(column: Column, source_engine: str) -> str | None:
    """A column's default as this engine has it, None if it has none or means nothing here."""
    if column.default is None:
        return None
    if source_engine == "postgres" and "nextval(" not in column.default:
        return column.default
    return portable_default(column.default, column.type.kind)


def _column(name: str, local: LocalColumn) -> Column:
    type = CanonicalType(local.type.kind, local.native, local.type.item)
    return Column(name, type, not local.not_null, bool(local.generated), local.default)
