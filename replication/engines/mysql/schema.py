"""Reads and creates tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from replication.engine import Finding
from replication.engines.mysql import alter
from replication.engines.mysql.columns import LocalColumn, read_columns
from replication.engines.mysql.config import parse, quoted, table_name
from replication.engines.mysql.connection import Session
from replication.engines.mysql.declare import OPTIONS, added_column, declarations, declared_type
from replication.engines.mysql.preflight import check
from replication.errors import SchemaChanged
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema


class MysqlCatalog:
    """Implements `replication.engine.Catalog`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        self._session = Session(parse(node))

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """See `Catalog.read_schema`."""
        with self._session.use() as c:
            found = read_columns(c, table_name(self.node, mapping))
        if not found:
            return None
        here = self.node.name
        names = {names[here]: name for name, names in mapping.columns.items() if here in names}
        columns = []
        for local in found:
            name = names.get(local.name, local.name)
            if name not in mapping.exclude:
                generated = local.generated
                columns.append(Column(name, local.canonical, not local.not_null, generated, local.default))
        return TableSchema(mapping.name, tuple(columns), mapping.key)

    def create_table(self, table: Table, source_engine: str) -> None:
        """See `Catalog.create_table`. AUTO_INCREMENT is left out: other nodes give their own numbers."""
        lines = ", ".join(declarations(table, self.node.name, source_engine == "mysql"))
        name = quoted(table_name(self.node, table.mapping))
        with self._session.use() as c:
            c.query(f"CREATE TABLE IF NOT EXISTS {name} ({lines}) {OPTIONS}")

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """See `Catalog.preflight`."""
        with self._session.use() as c:
            return check(c, self.node, tables)

    def filled(self, mapping: TableMapping, column: Column) -> str | None:
        """See `SchemaEditor.filled`."""
        name = table_name(self.node, mapping)
        with self._session.use() as c:
            local = _find(read_columns(c, name), mapping.local(self.node.name, column.name))
            if local is None:
                message = f"{name} has no column {column.name}"
                raise SchemaChanged(message, node=self.node.name)
            return alter.filled(c, name, local, column)

    def add_column(self, table: Table, column: Column, source_engine: str, fill: str | None) -> None:
        """See `SchemaEditor.add_column`."""
        name, local = table_name(self.node, table.mapping), table.mapping.local(self.node.name, column.name)
        first, line = added_column(table, self.node.name, column, fill, own=source_engine == "mysql")
        with self._session.use() as c:
            if _find(read_columns(c, name), local) is None:
                alter.add_column(c, name, first, line)

    def widen_column(self, table: Table, column: Column, source_engine: str) -> None:
        """See `SchemaEditor.widen_column`."""
        name = table_name(self.node, table.mapping)
        nullable = column.nullable and column.name not in table.mapping.key
        type = declared_type(table, column, own=source_engine == "mysql")
        with self._session.use() as c:
            local = _find(read_columns(c, name), table.mapping.local(self.node.name, column.name))
            if local is not None:
                alter.widen_column(c, name, local, replace(column, nullable=nullable), type)

    def rest_has(self, table: Table, field: str) -> bool:
        """See `SchemaEditor.rest_has`."""
        rest = quoted(table.mapping.local(self.node.name, table.mapping.rest))
        name = quoted(table_name(self.node, table.mapping))
        path = f"$.{json.dumps(field, ensure_ascii=False)}"
        with self._session.use() as c, c.cursor() as cursor:
            query = f"SELECT 1 FROM {name} WHERE JSON_CONTAINS_PATH({rest}, 'one', %s) LIMIT 1"
            cursor.execute(query, [path])
            return cursor.fetchone() is not None

    def close(self) -> None:
        """See `Catalog.close`."""
        self._session.close()


def _find(columns: Sequence[LocalColumn], name: str) -> LocalColumn | None:
    return next((c for c in columns if c.name == name), None)
