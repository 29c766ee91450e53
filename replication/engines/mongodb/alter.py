"""A column that was added on another node: what its rows got there, for the documents that are here.

Documents declare nothing, so only a value that existing rows got has to be written. It is no application's
write: each transaction writes our marker first, as it stands, so that the log shows it as one of ours.
"""

from __future__ import annotations

from typing import Any

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure

from replication.engines.mongodb.config import MAJORITY, MARKER, SNAPSHOT, Document
from replication.engines.mongodb.errors import classify
from replication.engines.mongodb.marker import marker_id
from replication.errors import Contention

_AT_ONCE = 500
_ATTEMPTS = 20


def fill(db: Database[Document], group: str, collection: str, path: str, value: Any) -> None:
    """Give every document without `path` a value there.

    Args:
        db: the node's database.
        group: whose marker to write.
        collection: the mapped collection.
        path: where, dotted.
        value: as BSON.
    """
    lacking: Document = {path: {"$exists": False}}
    with db.client.start_session() as session:
        attempt = 1
        while True:
            try:
                if not _fill_some(db, session, group, collection, lacking, {"$set": {path: value}}):
                    return
                attempt = 1
            except OperationFailure as error:
                # An application, or an applier that has not heard of its end, writes to the same documents.
                if attempt == _ATTEMPTS or not isinstance(classify(error, ""), Contention):
                    raise
                attempt += 1


def _fill_some(
    db: Database[Document],
    session: ClientSession,
    group: str,
    collection: str,
    lacking: Document,
    update: Document,
) -> bool:
    with session.start_transaction(read_concern=SNAPSHOT, write_concern=MAJORITY):
        found = db[collection].find(lacking, {"_id": 1}, limit=_AT_ONCE, session=session)
        ids = [document["_id"] for document in found]
        if not ids:
            return False
        key = {"_id": marker_id(group, 0)}
        marker = db[MARKER].find_one(key, session=session)
        if marker is not None:
            # As a whole, see `marker`; the number makes an event of it although nothing else may be new.
            told = {"events": len(ids), "versions": b"", "filled": marker.get("filled", 0) + 1}
            db[MARKER].replace_one(key, marker | told, session=session)
        db[collection].update_many({"_id": {"$in": ids}}, update, session=session)
    return True
