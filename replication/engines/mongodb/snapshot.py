"""Reads whole rows in key order.

MongoDB orders `_id` by type first, then as our canonical keys do: numbers by value, strings bytewise,
booleans, dates, and embedded documents field by field. Two exceptions are put in canonical order here: binary
data, which MongoDB orders by length first, and dates outside the years 1 to 9999, which are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from replication.engines.mongodb.config import WATERMARK, Document, connect
from replication.engines.mongodb.errors import translated
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.preflight import stray_id
from replication.engines.mongodb.types import DATES, YEAR_1, Unconvertible
from replication.errors import RowsUnreadable
from replication.key import encode_key
from replication.paging import MAX_ROWS, Aside, ChunkSize, read_chunks, readable
from replication.schema import NodeConfig, Table
from replication.types import Kind

IDS_PER_FIND = 50
ABSENT_PER_FIND = 2_000
"""Where nothing is found, more are asked for at a time: a server that compares each document with the whole
list has little to do there."""
_EPOCH = encode_key([0], [Kind.INT64])
"""The canonical key of 1970: text before it is before the year 1, text behind it behind 9999."""


class MongoSnapshot:
    """See `engine.Snapshot`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._node = node
        self._group = group
        # A secondary may not have yet what the log has shown before a watermark.
        self._db = connect(node).with_options(read_preference=ReadPreference.PRIMARY)

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        """See `engine.Snapshot`.

        Raises:
            RowsUnreadable: documents cannot be read as rows of this table.
        """
        layout = Layout(table, self._node)
        with translated(self._node.name):
            if _has_text_dates(layout):
                documents = self._dates(layout, after, limit + skip)[skip:]
            elif Kind.BYTES in layout.kinds:
                documents = self._sorted(layout, after, limit, skip)
            else:
                documents = list(self._find(layout, _between(layout, after, until), limit, skip))
        last = until is None and len(documents) < limit
        rows = self._batch(layout, documents, self._stray(layout) if last else "")
        return rows if until is None else rows.filter(pc.less_equal(rows.column("_key"), until))

    def read_all(self, table: Table, size: ChunkSize, aside: Aside | None = None) -> Iterator[pa.RecordBatch]:
        """See `paging.Streaming`: one cursor, so a server that sorts a range by reading all reads it once.

        Without the read concern "snapshot", whose history a long read would outlive. What has no key of this
        table as its `_id` is among what is read.
        """
        layout = Layout(table, self._node)
        if _has_text_dates(layout) or Kind.BYTES in layout.kinds:
            yield from read_chunks(self, table, size, aside)
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
                chunk, _ = readable(partial(self._batch, layout, documents), aside)
                size.learn(chunk)
                if chunk.num_rows:
                    yield chunk

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """See `engine.Snapshot`; in key order."""
        layout = Layout(table, self._node)
        with translated(self._node.name):
            documents = self._by_keys(layout, keys)
        return self._batch(layout, documents, wanted=set(keys))

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

    def _find(self, layout: Layout, query: Document, limit: int, skip: int = 0) -> Iterator[Document]:
        if limit <= 0:
            return iter(())
        found = self._view(layout).find(query, layout.projection, sort=[("_id", 1)], batch_size=limit)
        return iter(found.skip(skip).limit(limit))

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

    def _sorted(self, layout: Layout, after: bytes | None, limit: int, skip: int) -> list[Document]:
        """The next documents in the order of their canonical keys, found by reading every `_id`."""
        ids = [d["_id"] for d in self._view(layout).find({}, {"_id": 1})]
        keys = layout.decode_ids(ids).to_pylist()
        chosen = sorted((k, i) for i, k in enumerate(keys) if k is not None and (after is None or k > after))
        wanted = [ids[i] for _, i in chosen[skip : skip + limit]]
        found = find_ids(self._view(layout), wanted, layout.projection)
        return _in_order(layout, list(found), after)

    def _batch(
        self, layout: Layout, documents: list[Document], stray: str = "", wanted: set[bytes] | None = None
    ) -> pa.RecordBatch:
        """The documents as rows; only those of the `wanted` keys, in key order, if there are such.

        Raises:
            RowsUnreadable: some are none, or there is a `stray`.
        """
        schema = pa.schema([("_key", pa.binary()), *layout.arrow])
        errors: dict[int, str] = {}
        rows = pa.RecordBatch.from_pylist([], schema)
        if documents:
            keys, columns, errors = layout.decode(documents, documents)
            rows = pa.RecordBatch.from_arrays([keys, *columns], schema=schema)
        unreadable = [(rows.column("_key")[at].as_py() or b"", why) for at, why in errors.items()]
        if errors:
            rows = rows.filter(pa.array([i not in errors for i in range(len(documents))], pa.bool_()))
        if wanted is not None:
            rows = rows.sort_by("_key")
            # A timestamp in a key loses its microseconds on the way here; that finds another row.
            rows = rows.filter(pa.array([k in wanted for k in rows.column("_key").to_pylist()], pa.bool_()))
            unreadable = [(k, why) for k, why in unreadable if k in wanted]
        if stray and all(key for key, _ in unreadable):
            unreadable.append((b"", stray))
        if not unreadable:
            return rows
        first = next((f"_id {documents[at]['_id']!r:.60}: {why}" for at, why in errors.items()), stray)
        message = f"a document of {layout.collection} cannot be read as a row of {layout.name}: {first}"
        raise RowsUnreadable.of(message, self._node.name, rows, unreadable, len(documents))

    def _stray(self, layout: Layout) -> str:
        with translated(self._node.name):
            stray = stray_id(self._db, layout)
        return "" if stray is None else f"_id {stray!r:.60} is no key of this table"


def find_ids(
    collection: Collection[Document], ids: Sequence[Any], projection: Document | None, **options: Any
) -> Iterator[Document]:
    """The documents with these `_id` values, some at a time."""
    at, count = 0, IDS_PER_FIND
    while at < len(ids):
        query = {"_id": {"$in": list(ids[at : at + count])}}
        found = list(collection.find(query, projection, batch_size=count + 1, **options))
        yield from found
        at += count
        count = IDS_PER_FIND if found else min(count * 8, ABSENT_PER_FIND)


def _has_text_dates(layout: Layout) -> bool:
    return len(layout.kinds) == 1 and layout.kinds[0] in DATES


def _between(layout: Layout, after: bytes | None, until: bytes | None) -> Document:
    edges = [(sign, key) for sign, key in (("$gt", after), ("$lte", until)) if key is not None]
    return {"_id": {s: layout.encode_ids(pa.array([k], pa.binary()))[0] for s, k in edges}} if edges else {}


def _in_order(layout: Layout, documents: list[Document], after: bytes | None) -> list[Document]:
    """Those behind `after`, by canonical key; first of all those without one, which nobody may overlook."""
    keys = [key or b"" for key in layout.decode_ids([d["_id"] for d in documents]).to_pylist()]
    chosen = [i for i, key in enumerate(keys) if not key or after is None or key > after]
    return [documents[i] for i in sorted(chosen, key=keys.__getitem__)]
