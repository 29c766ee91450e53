"""Our collections, and the node's place in the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from replication.engine import Reached
from replication.engines.mongodb.config import (
    MAJORITY,
    MARKER,
    SNAPSHOT,
    STATE,
    WATERMARK,
    collection_name,
    connect,
    get_state,
    put_state,
    state_id,
)
from replication.engines.mongodb.errors import classify, translated
from replication.engines.mongodb.marker import load_marker, to_document
from replication.engines.mongodb.position import cluster_time, pack_token, token_time
from replication.engines.mongodb.schema import ensure_collection
from replication.engines.mongodb.sessions import end_session
from replication.errors import Contention
from replication.formats import FORMAT, FORMAT_NAME, must_be_made
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import NodeConfig, Table

_START = "start"
_ATTEMPTS = 10
_FORMAT = FORMAT_NAME.removeprefix("/")


class MongoControl:
    """See `engine.Control`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self._node = node
        self._group = group
        self._db = connect(node)

    def stored_format(self) -> int:
        """See `engine.Control`."""
        with translated(self._node.name):
            return self._format()

    def _format(self) -> int:
        return int(get_state(self._db, "", _FORMAT) or 0)

    def prepare(self, tables: Sequence[Table]) -> Position:
        """See `engine.Control`. Creates missing collections and switches pre-images on.

        The first call's position is kept among our states, so that a start that failed before the first
        marker loses nothing.
        """
        with translated(self._node.name):
            if must_be_made(self._format(), self._node.name):
                for name in (MARKER, WATERMARK, STATE):
                    ensure_collection(self._db, name, pre_images=False)
                put_state(self._db, "", _FORMAT, json.dumps(FORMAT))
            for table in tables:
                ensure_collection(self._db, collection_name(self._node, table.mapping), pre_images=True)
            if (kept := self.get_state(_START)) is not None:
                order, token = json.loads(kept)
                return Position(int(order, 16), token)
            reply = self._db.command({"aggregate": 1, "pipeline": [{"$changeStream": {}}], "cursor": {}})
            cursor = reply["cursor"]
            self._db.command("killCursors", "$cmd.aggregate", cursors=[cursor["id"]])
        token = cursor["postBatchResumeToken"]
        hi = token_time(token) or cluster_time(reply["operationTime"])
        position = Position(order_of(hi, 0), pack_token(token))
        self.put_state(_START, json.dumps([f"{position.order:x}", position.token]))
        return position

    def raise_epoch(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        """See `engine.Control`."""
        with translated(self._node.name), self._db.client.start_session() as session:
            attempt = 1
            while True:
                try:
                    with session.start_transaction(read_concern=SNAPSHOT, write_concern=MAJORITY):
                        return self._raise(session, shards, at_least, initial)
                except OperationFailure as error:
                    # An applier of the older incarnation may be committing right now, or have died doing so.
                    if attempt == _ATTEMPTS or not isinstance(classify(error, ""), Contention):
                        raise
                    attempt += 1
                    for shard in range(shards):
                        end_session(self._db, self._group, shard)

    def _raise(self, session: ClientSession, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        markers = self._db[MARKER]
        stored = list(markers.find({"group": self._group}, session=session))
        epoch = max([at_least, *(int(d["epoch"]) + 1 for d in stored)])
        found = {int(d["shard"]): load_marker(d, self._group) for d in stored}
        raised = []
        for shard in sorted({*found, *range(shards)}):
            marker = replace(found.get(shard) or replace(initial, shard=shard), epoch=epoch)
            document = to_document(marker, None)
            markers.replace_one({"_id": document["_id"]}, document, upsert=True, session=session)
            raised.append(marker)
        return raised

    def accept_server(self, reached: Sequence[Reached]) -> list[Position]:
        """Nothing to do: what is read is on a majority, and a replica set is one server to us."""
        return [r.resume for r in reached]

    def begin_log(self, tables: Sequence[Table], above: int = 0) -> Position:
        """See `engine.Control`."""
        with translated(self._node.name):
            self._db[STATE].delete_one({"_id": state_id(self._group, _START)})
        return self.prepare(tables)

    def replace_markers(self, markers: Sequence[Marker]) -> None:
        """See `engine.Control`."""
        with (
            translated(self._node.name),
            self._db.client.start_session() as session,
            session.start_transaction(read_concern=SNAPSHOT, write_concern=MAJORITY),
        ):
            shards = [marker.shard for marker in markers]
            others = {"group": self._group, "shard": {"$nin": shards}}
            self._db[MARKER].delete_many(others, session=session)
            for marker in markers:
                document = to_document(marker, None)
                self._db[MARKER].replace_one({"_id": document["_id"]}, document, upsert=True, session=session)

    def drop(self) -> None:
        """See `engine.Control`. Other groups' documents in our collections stay."""
        with translated(self._node.name):
            self._db[MARKER].delete_many({"group": self._group})
            self._db[WATERMARK].delete_many({"_id": {"$in": [self._group, f"{self._group}/beat"]}})
            self._db[STATE].delete_many({"group": self._group})
            for name in (MARKER, WATERMARK, STATE):
                if self._db[name].find_one({"_id": {"$ne": FORMAT_NAME}}, {"_id": 1}) is None:
                    self._db.drop_collection(name)

    def get_state(self, name: str) -> str | None:
        """See `engine.StateStore`."""
        with translated(self._node.name):
            return get_state(self._db, self._group, name)

    def put_state(self, name: str, value: str) -> None:
        """See `engine.StateStore`."""
        with translated(self._node.name):
            put_state(self._db, self._group, name, value)

    def close(self) -> None:
        """See `engine.Control`."""
        self._db.client.close()
