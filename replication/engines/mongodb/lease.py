"""The right to run the group: a document that says who has it and since when nobody has said so again.

The server's clock alone is asked, on both sides.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from replication.engines.mongodb.config import STATE, Document, connect, state_id
from replication.engines.mongodb.errors import translated
from replication.errors import SyncError
from replication.schema import NodeConfig

LAPSE_MS = 8_000
"""So long after its holder was heard last, anybody may take it."""


class MongoLease:
    """See `engine.Lease`."""

    def __init__(self, node: NodeConfig, group: str, holder: str) -> None:
        self._node = node.name
        self._db = connect(node)
        self._group = group
        self._holder = holder
        self._key = state_id(group, "lease")
        self._token = uuid.uuid4().hex
        self._documents = self._db[STATE].with_options(write_concern=WriteConcern(w="majority"))

    def hold(self) -> str | None:
        """See `engine.Lease`."""
        with translated(self._node):
            if self._take({"token": self._token}):
                return None
            found = self._documents.find_one({"_id": self._key})
            if found is None:
                return self._begin()
            if int(self._now()) - int(found["at"]) < LAPSE_MS:
                return str(found["holder"])
            if self._take({"token": found["token"], "at": found["at"]}):
                return None
            return "another process"

    def close(self) -> None:
        """See `engine.Lease`."""
        with suppress(SyncError), translated(self._node):
            self._documents.delete_one({"_id": self._key, "token": self._token})
        self._db.client.close()

    def _take(self, condition: Document) -> bool:
        change = {"$set": self._mine(), "$currentDate": {"at": True}}
        return self._documents.update_one({"_id": self._key, **condition}, change).matched_count == 1

    def _begin(self) -> str | None:
        new = {"_id": self._key, "at": self._now(), **self._mine()}
        try:
            self._documents.insert_one(new)
        except DuplicateKeyError:
            return "another process"
        return None

    def _now(self) -> Any:
        return self._db.command("hello", codec_options=self._db.codec_options)["localTime"]

    def _mine(self) -> Document:
        return {"token": self._token, "holder": self._holder, "group": self._group, "name": "lease"}
