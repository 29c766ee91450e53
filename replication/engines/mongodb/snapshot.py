"""Reads whole rows in key order.

MongoDB orders `_id` by type first, then as our canonical keys do: numbers by value, strings bytewise,
booleans, dates, and embedded documents field by field. Two exceptions are put in canonical order here: binary
data, which MongoDB orders by length first, and dates outside the years 1 to 9999, which are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from replication.engines.mongodb.config import WATERMARK, Document, connect
from replication.engines.mongodb.errors import translated
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.preflight import stray_id
from replication.engines.mongodb.types import DATES, YEAR_1, Unconvertible
from replication.errors import RowRefused
from replication.key import encode_key
from replication.paging import MAX_ROWS, ChunkSize, read_chunks
from replication.schema import NodeConfig, Table
from replication.types import Kind

IDS_PER_FIND = 50
_EPOCH = encode_key([0], [Kind.INT64])
"""The canonical key of 1970: text before it is before the year 1, text behind it behind 9999."""


class MongoSnapshot:
    """See `engine.Snapshot`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._node = node
        self._group = group
        self._db = connect(node)

    def read_chunk(self, table: Table, after: bytes | None, limit: int) -> pa.RecordBatch:
        """See `engine.Snapshot`.

        Raises:
            RowRefused: a document cannot be read as a row of this table.
        """
        layout = Layout(table, self._node)
        with translated(self._node.name):
            if _has_text_dates(layout):
                documents = self._dates(layout, after, limit)
            elif Kind.BYTES in layout.kinds:
                documents = self._sorted(layout, after, limit)
            else:
                documents = list(self._find(layout, _greater(layout, after), limit))
        if len(documents) < limit:
            self._refuse_strays(layout)
        return self._batch(layout, documents)

    def read_all(self, table: Table, size: ChunkSize) -> Iterator[pa.RecordBatch]:
        """See `paging.Streaming`: one cursor, so a server that sorts a range by reading all reads it once.

        Without the read concern "snapshot", whose history a long read would outlive.

        Raises:
            RowRefused: a document cannot be read as a row of this table.
        """
        layout = Layout(table, self._node)
        if _has_text_dates(layout) or Kind.BYTES in layout.kinds:
            yield from read_chunks(self, table, size)
            return
        collection = self._db[layout.collection].with_options(read_concern=ReadConcern("majority"))
        with translated(self._node.name):
            cursor = collection.find({}, layout.projection, sort=[("_id", 1)], batch_size=MAX_ROWS)
        with cursor:
            while True:
                with translated(self._node.name):
                    documents = list(islice(cursor, size.rows))
                if not documents:
                    break
                chunk = self._batch(layout, documents)
                size.learn(chunk)
                yield chunk
        self._refuse_strays(layout)

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """See `engine.Snapshot`; in key order."""
        layout = Layout(table, self._node)
        with translated(self._node.name):
            documents = self._by_keys(layout, keys)
        batch = self._batch(layout, documents).sort_by("_key")
        wanted = set(keys)
        # A timestamp in a key loses its microseconds on the way here; that finds another row.
        return batch.filter(pa.array([key in wanted for key in batch.column("_key").to_pylist()], pa.bool_()))

    def write_watermark(self, ident: str) -> None:
        """See `engine.Snapshot`."""
        watermarks = self._db[WATERMARK].with_options(write_concern=WriteConcern(w="majority"))
        document = {"_id": self._group, "ident": ident}
        with translated(self._node.name):
            watermarks.replace_one({"_id": self._group}, document, upsert=True)

    def estimate_rows(self, table: Table) -> int:
        """See `engine.Snapshot`."""
        with translated(self._node.name):
            return self._db[Layout(table, self._node).collection].estimated_document_count()

    def close(self) -> None:
        """See `engine.Snapshot`."""
        self._db.client.close()

    def _by_keys(self, layout: Layout, keys: Sequence[bytes]) -> list[Document]:
        ids = [v for v in layout.encode_ids(pa.array(keys, pa.binary())) if not isinstance(v, Unconvertible)]
        return list(find_ids(self._view(layout), ids, layout.projection))

    def _view(self, layout: Layout) -> Collection[Document]:
        return self._db[layout.collection].with_options(read_concern=ReadConcern("snapshot"))

    def _find(self, layout: Layout, query: Document, limit: int) -> Iterator[Document]:
        if limit <= 0:
            return iter(())
        return iter(
            self._view(layout).find(
                query, layout.projection, sort=[("_id", 1)], limit=limit, batch_size=limit
            )
        )

    def _dates(self, layout: Layout, after: bytes | None, limit: int) -> list[Document]:
        """Dates, and among them those that are text; of these there are few."""
        documents = list(self._view(layout).find({"_id": {"$type": "string"}}, layout.projection))
        if after is None:
            documents += self._find(layout, {"_id": {"$type": "date"}}, limit)
        else:
            bound = layout.encode_ids(pa.array([after], pa.binary()))[0]
            if isinstance(bound, DatetimeMS):
                documents += self._find(layout, {"_id": {"$gt": bound}}, limit)
            elif after < _EPOCH:
                documents += self._find(layout, {"_id": {"$gte": DatetimeMS(YEAR_1)}}, limit)
        return _in_order(layout, documents, after)[:limit]

    def _sorted(self, layout: Layout, after: bytes | None, limit: int) -> list[Document]:
        """The next documents in the order of their canonical keys, found by reading every `_id`."""
        ids = [d["_id"] for d in self._view(layout).find({}, {"_id": 1})]
        keys = layout.decode_ids(ids).to_pylist()
        chosen = sorted((k, i) for i, k in enumerate(keys) if k is not None and (after is None or k > after))
        found = find_ids(self._view(layout), [ids[i] for _, i in chosen[:limit]], layout.projection)
        return _in_order(layout, list(found), after)

    def _batch(self, layout: Layout, documents: list[Document]) -> pa.RecordBatch:
        if documents:
            keys, columns, errors = layout.decode(documents, documents)
        else:
            keys, columns, errors = (
                pa.array([], pa.binary()),
                [pa.array([], f.type) for f in layout.arrow],
                {},
            )
        if errors:
            at, reason = next(iter(errors.items()))
            self._refuse(layout, f"_id {documents[at]['_id']!r:.60}: {reason}")
        schema = pa.schema([("_key", pa.binary()), *layout.arrow])
        return pa.RecordBatch.from_arrays([keys, *columns], schema=schema)

    def _refuse_strays(self, layout: Layout) -> None:
        with translated(self._node.name):
            stray = stray_id(self._db, layout)
        if stray is not None:
            self._refuse(layout, f"_id {stray!r:.60} is no key of this table")

    def _refuse(self, layout: Layout, why: str) -> None:
        message = f"a document of {layout.collection} cannot be read as a row of {layout.name}: {why}"
        raise RowRefused(message, node=self._node.name, hint="correct or remove the document")


def find_ids(
    collection: Collection[Document], ids: Sequence[Any], projection: Document, **options: Any
) -> Iterator[Document]:
    """The documents with these `_id` values, some at a time."""
    for at in range(0, len(ids), IDS_PER_FIND):
        query = {"_id": {"$in": list(ids[at : at + IDS_PER_FIND])}}
        yield from collection.find(query, projection, batch_size=IDS_PER_FIND + 1, **options)


def _has_text_dates(layout: Layout) -> bool:
    return len(layout.kinds) == 1 and layout.kinds[0] in DATES


def _greater(layout: Layout, after: bytes | None) -> Document:
    if after is None:
        return {}
    return {"_id": {"$gt": layout.encode_ids(pa.array([after], pa.binary()))[0]}}


def _in_order(layout: Layout, documents: list[Document], after: bytes | None) -> list[Document]:
    """Those behind `after`, by canonical key; first of all those without one, which nobody may overlook."""
    keys = [key or b"" for key in layout.decode_ids([d["_id"] for d in documents]).to_pylist()]
    chosen = [i for i, key in enumerate(keys) if not key or after is None or key > after]
    return [documents[i] for i in sorted(chosen, key=keys.__getitem__)]
