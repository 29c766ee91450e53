"""Reads the change stream of the node's database.

One cursor over the database, filtered by the server to the mapped collections and our own. Its replies go
to `StreamDecoder`. Under back-pressure nobody polls and the server keeps the cursor for ten minutes; after
that, as after any lost connection, `poll` says `NodeUnavailable` and a new source resumes from its position.

The log is never skipped. MongoDB itself refuses to go on behind a gap. For servers that would not (known by
the form of their resume tokens) the source asks whether its last verified token can still be resumed from,
before it gives out what it read after a pause.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError

from replication.change import LogEvent
from replication.engines.mongodb.config import MARKER, WATERMARK, Document, connect
from replication.engines.mongodb.connection import Connection
from replication.engines.mongodb.errors import (
    RESNAPSHOT,
    UNAUTHORIZED,
    UNKNOWN_STAGE,
    classify,
    translated,
)
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.position import cluster_time, timestamp, token_time, unpack_token
from replication.engines.mongodb.stream import StreamDecoder
from replication.errors import LogLost, NodeUnavailable, SyncError
from replication.position import LO_BITS, Position
from replication.schema import NodeConfig, Table

_FULL_REPLY = 100
"""A reply with fewer events means that the log is drained."""
_PAUSE, _INTERVAL = 0.1, 1.0
"""Seconds without reading, and at most between two checks, until the log must prove that it has no gap."""
_BEAT = 1.0
"""At least so many seconds between two heartbeats."""


class MongoSource:
    """See `engine.Source`."""

    def __init__(self, node: NodeConfig, group: str, tables: Sequence[Table], start: Position) -> None:
        self.decode_echoes = False
        self._node = node
        self._group = group
        self._layouts = [Layout(table, node) for table in tables]
        self._start = start
        self._decoder = StreamDecoder(group, self._layouts, start, inclusive=not start.token)
        self._connection = Connection()
        self._db = connect(node, self._connection)
        self._session: ClientSession | None = None
        self._cursor = 0
        self._token: Document = {}
        self._verified: Document = {}
        self._verified_at = self._read_at = self._beat_at = 0.0
        self._first: list[Document] = []
        self._moved = False

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """See `engine.Source`."""
        self._decoder.decode_echoes = self.decode_echoes
        try:
            with translated(self._node.name, stream=True):
                if self._session is None:
                    self._open(max_rows)
                self._read(max_rows, wait)
            return self._decoder.drain()
        except SyncError as error:
            error.node = self._node.name
            if error.position is None:
                error.position = self._decoder.end.order
            raise

    def confirm(self, position: Position) -> None:
        """Nothing to do: the oplog is the server's, and the driver keeps the connection alive."""

    def close(self) -> None:
        """See `engine.Source`."""
        with contextlib.suppress(PyMongoError):
            if self._cursor:
                self._db.command("killCursors", "$cmd.aggregate", cursors=[self._cursor])
            if self._session is not None:
                self._session.end_session()
        self._cursor = 0
        self._db.client.close()

    def _open(self, max_rows: int) -> None:
        options: Document = {"fullDocumentBeforeChange": "whenAvailable", "showExpandedEvents": True}
        if self._start.token:
            options["resumeAfter"] = unpack_token(self._start.token)
        else:
            options["startAtOperationTime"] = self._start_time()
        self._session = self._db.client.start_session(causal_consistency=False)
        stages = [{"$changeStream": options}, {"$match": self._filter()}]
        try:
            cursor = self._watch([*stages, {"$changeStreamSplitLargeEvent": {}}], max_rows)
        except OperationFailure as error:
            if error.code not in UNKNOWN_STAGE:
                raise
            cursor = self._watch(stages, max_rows)
        self._cursor = int(cursor["id"])
        self._first = cursor["firstBatch"]
        self._token = self._verified = options.get("resumeAfter") or cursor["postBatchResumeToken"]
        self._verified_at = self._read_at = self._beat_at = time.monotonic()

    def _start_time(self) -> Any:
        """Where to open without a token; only after making sure that the oplog reaches back so far."""
        hi = self._start.order >> LO_BITS
        try:
            oldest = self._db.client["local"]["oplog.rs"].find_one(sort=[("$natural", 1)])
        except OperationFailure as error:
            if error.code != UNAUTHORIZED or not hi:
                raise
            return timestamp(hi)  # the server itself refuses a time that its oplog does not reach
        if oldest is not None and not hi:
            return oldest["ts"]
        if oldest is None or cluster_time(oldest["ts"]) > hi:
            message = "the oplog begins behind our position"
            raise LogLost(message, hint=RESNAPSHOT)
        return timestamp(hi)

    def _filter(self) -> Document:
        collections = [MARKER, WATERMARK, *(layout.collection for layout in self._layouts)]
        return {
            "$or": [
                {"ns.coll": {"$in": collections}},
                {"to.coll": {"$in": collections}},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }

    def _watch(self, pipeline: list[Document], max_rows: int) -> Document:
        return self._run({"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": max_rows}})

    def _read(self, max_rows: int, wait: float) -> None:
        millis = max(1, round(wait * 1000))
        events, self._first = self._first, []
        while True:
            if events:
                self._verify()
            for event in events:
                self._decoder.feed(event)
            if events:
                millis = 1
            left = max_rows - self._decoder.pending
            if left <= 0 or 0 < len(events) < _FULL_REPLY or self._decoder.failed:
                return
            reply = self._more(left, millis)
            events = reply["nextBatch"]
            if not events:
                self._idle(reply["postBatchResumeToken"])
                return

    def _more(self, size: int, millis: int) -> Document:
        if not self._cursor or self._connection.lost:
            message = "the change stream has ended"
            raise NodeUnavailable(message)
        paused = time.monotonic() - self._read_at > _PAUSE
        more = {"collection": "$cmd.aggregate", "batchSize": size, "maxTimeMS": millis}
        cursor = self._run({"getMore": self._cursor, **more})
        self._read_at = time.monotonic()
        if paused:
            self._verified_at = 0.0
        self._cursor = int(cursor["id"])
        if cursor["nextBatch"]:
            self._token = cursor["postBatchResumeToken"]
        return cursor

    def _run(self, command: Document) -> Document:
        reply = self._db.command(command, codec_options=self._db.codec_options, session=self._session)
        cursor: Document = reply["cursor"]
        return cursor

    def _idle(self, token: Document) -> None:
        self._moved |= token != self._token
        self._token = token
        self._decoder.idle(token)
        if token_time(token) is None:
            self._verify()
            self._beat()

    def _verify(self) -> None:
        """Make sure that everything since the last such check was read from a log without a gap."""
        if token_time(self._token) is not None:
            return
        now = time.monotonic()
        if now - self._verified_at < _INTERVAL or self._verified == self._token:
            return
        stage = {"$changeStream": {"resumeAfter": self._verified}}
        try:
            probe = self._db.command({"aggregate": 1, "pipeline": [stage], "cursor": {"batchSize": 0}})
        except OperationFailure as error:
            raise classify(error, self._node.name, stream=True) from error
        self._db.command("killCursors", "$cmd.aggregate", cursors=[probe["cursor"]["id"]])
        self._verified, self._verified_at = self._token, now

    def _beat(self) -> None:
        """Write an event of our own when the log has moved without one, so that our position can follow."""
        now = time.monotonic()
        if self._moved and now - self._beat_at >= _BEAT:
            beat = {"_id": f"{self._group}/beat", "ident": ""}
            self._db[WATERMARK].replace_one({"_id": beat["_id"]}, beat | {"at": now}, upsert=True)
            self._moved, self._beat_at = False, now
