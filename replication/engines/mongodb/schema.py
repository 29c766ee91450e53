"""Collections: whether they are there, and making them.

MongoDB declares no columns, so a collection's schema is its key alone; the others come from a SQL node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from pymongo.database import Database
from pymongo.errors import OperationFailure

from replication.defaults import literal_value
from replication.engine import Finding
from replication.engines.mongodb import alter, preflight
from replication.engines.mongodb.config import PRE_IMAGES, Document, collection_name, connect
from replication.engines.mongodb.errors import NAMESPACE_EXISTS, UNAUTHORIZED, translated
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.types import Unconvertible, encode_column
from replication.errors import SchemaChanged
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

_KINDS: dict[Kind, type] = {
    Kind.BOOLEAN: bool,
    Kind.INT64: int,
    Kind.NUMERIC: Decimal128,
    Kind.TIMESTAMP: DatetimeMS,
    Kind.UUID: Binary,
    Kind.BYTES: bytes,
}


class MongoCatalog:
    """See `engine.Catalog`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._node = node
        self._group = group
        self._db = connect(node)

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """See `engine.Catalog`: the key alone, of the kind that some document has, else text."""
        name = collection_name(self._node, mapping)
        with translated(self._node.name):
            if collection_options(self._db, name) is None:
                return None
            document = self._db[name].find_one({}, {"_id": 1}) or {"_id": ""}
        key = document["_id"]
        values = list(key.values()) if isinstance(key, dict) else [key]
        columns = tuple(
            Column(column, CanonicalType(_kind(values[i] if i < len(values) else "")), nullable=False)
            for i, column in enumerate(mapping.key)
        )
        return TableSchema(mapping.name, columns, mapping.key)

    def create_table(self, table: Table, source_engine: str) -> None:
        """See `engine.Catalog`. Pre-images are switched on; there are no types to declare."""
        with translated(self._node.name):
            ensure_collection(self._db, collection_name(self._node, table.mapping), pre_images=True)

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """See `engine.Catalog`."""
        layouts = [Layout(table, self._node) for table in tables]
        with translated(self._node.name):
            return preflight.check(self._db, self._node, layouts)

    def filled(self, mapping: TableMapping, column: Column) -> str | None:
        """See `engine.SchemaEditor`. Documents get nothing by themselves."""
        return None

    def add_column(self, table: Table, column: Column, source_engine: str, fill: str | None) -> None:
        """See `engine.SchemaEditor`. Nothing is declared; documents that are there get the value."""
        if fill is None:
            return
        (value,) = encode_column(literal_value(fill, column.type), column.type)
        if isinstance(value, Unconvertible):
            message = f"{column.name} = {fill}: {value}"
            raise SchemaChanged(message, node=self._node.name)
        path = table.mapping.local(self._node.name, column.name)
        with translated(self._node.name):
            alter.fill(self._db, self._group, collection_name(self._node, table.mapping), path, value)

    def widen_column(self, table: Table, column: Column, source_engine: str) -> None:
        """See `engine.SchemaEditor`. There is nothing to widen."""

    def rest_has(self, table: Table, field: str) -> bool:
        """See `engine.SchemaEditor`. Documents have their fields, and no column for the rest of them."""
        return False

    def close(self) -> None:
        """See `engine.Catalog`."""
        self._db.client.close()


def _kind(value: Any) -> Kind:
    return next((kind for kind, known in _KINDS.items() if isinstance(value, known)), Kind.TEXT)


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
