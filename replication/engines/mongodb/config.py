"""Where the database is, and what our own collections in it are called."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.monitoring import ConnectionPoolListener
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from replication.errors import ConfigError
from replication.schema import NodeConfig, TableMapping

Document = dict[str, Any]

OWN = "sync_worker."
"""Our collections' common prefix; nothing with it is ever replicated."""
MARKER = OWN + "marker"
WATERMARK = OWN + "watermark"
STATE = OWN + "state"
MAJORITY = WriteConcern(w="majority")
SNAPSHOT = ReadConcern("snapshot")
_PATIENCE_MS = 5000
PRE_IMAGES = {"changeStreamPreAndPostImages": {"enabled": True}}


def connect(node: NodeConfig, listener: ConnectionPoolListener | None = None) -> Database[Document]:
    """The node's database on a client of its own; connects on first use. Close `database.client`.

    Args:
        node: whose DSN names the database.
        listener: hears of the connections' beginnings and ends.

    Raises:
        ConfigError: the DSN is not one, or names no database.
    """
    try:
        parsed = parse_uri(node.dsn, validate=False, warn=False)
        name = parsed["database"]
        if not name:
            message = "the DSN names no database"
            raise ConfigError(
                message, node=node.name, hint="end it with the database, as in mongodb://host:27017/shop"
            )
        client: MongoClient[Document] = MongoClient(
            node.dsn,
            appname="sync-worker",
            event_listeners=[] if listener is None else [listener],
            tz_aware=False,
            datetime_conversion="DATETIME_MS",
            serverSelectionTimeoutMS=parsed["options"].get("serverSelectionTimeoutMS", _PATIENCE_MS),
        )
    except (ConfigurationError, PyMongoError, ValueError) as error:
        # The error's own text may repeat the DSN, and with it a password.
        message = f"the DSN is not valid: {type(error).__name__}"
        raise ConfigError(message, node=node.name, hint="see MongoDB's connection string format") from None
    return client[name]


def collection_name(node: NodeConfig, mapping: TableMapping) -> str:
    """The table's collection on this node."""
    return mapping.names[node.name]


def state_id(group: str, name: str) -> str:
    """The `_id` of a state document."""
    return f"{group}/{name}"


def get_state(db: Database[Document], group: str, name: str) -> str | None:
    """A state document's value; see `engine.StateStore`."""
    document = db[STATE].find_one({"_id": state_id(group, name)})
    return None if document is None else str(document["value"])


def put_state(
    db: Database[Document], group: str, name: str, value: str, session: ClientSession | None = None
) -> None:
    """Store a state document, in a transaction if there is one."""
    key = state_id(group, name)
    document = {"_id": key, "group": group, "name": name, "value": value}
    states = db[STATE] if session else db[STATE].with_options(write_concern=MAJORITY)
    states.replace_one({"_id": key}, document, upsert=True, session=session)
