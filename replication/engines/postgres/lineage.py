"""Which server this is, and up to where its log is the one that another server had.

A standby that is promoted goes on with the log of its primary, from the last record that it has received, on
a timeline of its own. What the primary had written after that is not in it, and places behind the fork are
given out again. So the node's own state says which timeline the group has read; it travels with the standby.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import pq

from replication.engines.postgres.config import Connection, Session
from replication.engines.postgres.errors import SNAPSHOT_HINT
from replication.engines.postgres.position import format_lsn, parse_lsn
from replication.errors import LogLost
from replication.position import order_of, split_order
from replication.schema import NodeConfig

NAME = "server"
"""Under which name the state is stored."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server's log.

    Attributes:
        system: what a primary and its standbys have in common.
        timeline: which branch of the log is being written.
    """

    system: str
    timeline: int

    def dump(self) -> str:
        """As JSON text."""
        return json.dumps({"system": self.system, "timeline": self.timeline})

    @classmethod
    def load(cls, text: str) -> Self:
        """Undo `dump`."""
        return cls(**json.loads(text))


def server_of(node: NodeConfig) -> Server:
    """The server that answers for a node now."""
    session = Session(node, replication="database")
    try:
        with session.use() as connection:
            return identify(connection)
    finally:
        session.close()


def accept(node: NodeConfig, before: Server, read: int) -> Server:
    """The server that answers for a node now, if it goes on where our reading of another one has ended.

    Args:
        node: the node.
        before: the server whose log was read.
        read: the order up to which.

    Raises:
        LogLost: it does not.
    """
    session = Session(node, replication="database")
    try:
        with session.use() as connection:
            now = identify(connection)
            if now == before:
                return now
            end = shared(connection, before, now)
    finally:
        session.close()
    if end is not None and read <= order_of(end, 0):
        return now
    lacks = "which never had its log" if end is None else f"which has its log up to {format_lsn(end)}"
    message = (
        f"another server has taken the place of the one that we have read up to "
        f"{format_lsn(split_order(read)[0])}, {lacks}"
    )
    hint = f"point the dsn at one that has all of it, or: {SNAPSHOT_HINT}"
    raise LogLost(message, node=node.name, position=read, hint=hint)


def identify(connection: Connection) -> Server:
    """The server at the other end of a replication connection."""
    (system, timeline, *_), *_ = _ask(connection, "IDENTIFY_SYSTEM")
    return Server(system.decode(), int(timeline))


def shared(connection: Connection, before: Server, now: Server) -> int | None:
    """Up to which LSN a server's log is that of another one.

    Args:
        connection: a replication connection to the server.
        before: the other one.
        now: the server.

    Returns:
        where it has left the other one's timeline; None if it has never been on it.
    """
    if before.system != now.system or now.timeline <= before.timeline:
        return None
    ((_, history),) = _ask(connection, f"TIMELINE_HISTORY {now.timeline}")
    for line in history.decode("utf-8", "replace").splitlines():
        parent, _, rest = line.strip().partition("\t")
        if parent == str(before.timeline):
            return parse_lsn(rest.split("\t")[0])
    return None


def _ask(connection: Connection, command: str) -> list[tuple[Any, ...]]:
    """The rows that a replication command gives; it knows the simple protocol only."""
    result = connection.pgconn.exec_(command.encode())
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result)
    columns = range(result.nfields)
    return [tuple(result.get_value(row, c) for c in columns) for row in range(result.ntuples)]
