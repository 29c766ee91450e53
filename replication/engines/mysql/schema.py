"""Reads and creates tables."""

from __future__ import annotations

from collections.abc import Sequence

from replication.engine import Finding
from replication.engines.mysql.columns import read_columns
from replication.engines.mysql.config import parse, quoted, table_name
from replication.engines.mysql.connection import Session
from replication.engines.mysql.declare import OPTIONS, declarations
from replication.engines.mysql.preflight import check
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

    def close(self) -> None:
        """See `Catalog.close`."""
        self._session.close()
