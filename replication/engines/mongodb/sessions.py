"""Sessions of ours that lost their process in the middle of a transaction.

The server keeps such a transaction open for a minute (`transactionLifetimeLimitSeconds`), and with it the
lock on our marker, which every successor needs. So each applier writes down its session before it uses it,
and whoever comes after ends that session first.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from bson.binary import Binary
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure

from replication.engines.mongodb.config import STATE, Document, state_id


def open_session(db: Database[Document], group: str, shard: int) -> ClientSession:
    """The session of the one applier of a shard; ends the one before it."""
    end_session(db, group, shard)
    session = db.client.start_session(causal_consistency=False)
    ident: Any = session.session_id["id"]
    document = {"group": group, "name": _name(shard), "value": json.dumps(bytes(ident).hex())}
    db[STATE].update_one({"_id": state_id(group, _name(shard))}, {"$set": document}, upsert=True)
    return session


def end_session(db: Database[Document], group: str, shard: int) -> None:
    """End the session that was written down last, and so its transaction. Where we may not, it runs out."""
    stored = db[STATE].find_one({"_id": state_id(group, _name(shard))})
    if stored is not None:
        ident = Binary(bytes.fromhex(json.loads(stored["value"])), 4)
        with contextlib.suppress(OperationFailure):
            db.command("killSessions", [{"id": ident}])


def _name(shard: int) -> str:
    return f"session/{shard}"
