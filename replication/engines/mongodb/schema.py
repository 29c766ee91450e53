"""Collections: whether they are there, and making them.

MongoDB declares no columns, so a collection's schema is its key alone; the columns come from a SQL node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure

from replication.engine import Finding
from replication.engines.mongodb import preflight
from replication.engines.mongodb.config import PRE_IMAGES, Document, collection_name, connect
from replication.engines.mongodb.errors import NAMESPACE_EXISTS, UNAUTHORIZED, translated
from replication.engines.mongodb.layout import Layout
from replication.schema import NodeConfig, Table, TableMapping, TableSchema


class MongoCatalog:
    """See `engine.Catalog`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._node = node
        self._group = group
        self._db = connect(node)

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """See `engine.Catalog`: a schema without columns if the collection exists."""
        with translated(self._node.name):
            options = collection_options(self._db, collection_name(self._node, mapping))
        return None if options is None else TableSchema(mapping.name, (), mapping.key)

    def create_table(self, table: Table, source_engine: str) -> None:
        """See `engine.Catalog`. Pre-images are switched on; there are no types to declare."""
        with translated(self._node.name):
            ensure_collection(self._db, collection_name(self._node, table.mapping), pre_images=True)

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """See `engine.Catalog`."""
        layouts = [Layout(table, self._node) for table in tables]
        with translated(self._node.name):
            return preflight.check(self._db, self._node, layouts)

    def close(self) -> None:
        """See `engine.Catalog`."""
        self._db.client.close()


def collection_options(db: Database[Document], name: str) -> dict[str, Any] | None:
    """The collection's options, or None if it does not exist."""
    for info in db.list_collections(filter={"name": name}):
        return dict(info.get("options", {}))
    return None


def has_pre_images(options: dict[str, Any]) -> bool:
    """Whether a collection with these options keeps before-images."""
    return bool(options.get("changeStreamPreAndPostImages", {}).get("enabled"))


def ensure_collection(db: Database[Document], name: str, *, pre_images: bool) -> None:
    """Create the collection if it is missing, and switch its pre-images on if they are off.

    Who may not change the collection is left to preflight's finding.
    """
    options = collection_options(db, name)
    if options is None:
        try:
            db.command({"create": name, **(PRE_IMAGES if pre_images else {})})
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS:
                raise
        else:
            return
        options = collection_options(db, name) or {}
    if pre_images and not has_pre_images(options):
        try:
            db.command({"collMod": name, **PRE_IMAGES})
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
