"""Which server this is, and where a place in another server's log is in its own.

A replica that is promoted has the same transactions in files of its own, so that a place in the one log says
nothing about the other. GTIDs do: what is not among those that were read comes next. Its files are counted on
from the last one that was read, so that orders never go back: each change that is read from it comes after
every change of the other server. That holds only if nothing is read a second time. A change that was read
and must be read again, since a successor has to know what had become of it, would come back as a new one. So
a replica is gone on with only where all that was read is settled; else the log is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import pymysql

from replication.engine import Reached
from replication.engines.mysql.errors import SNAPSHOT_HINT
from replication.engines.mysql.position import (
    FIRST_OFFSET,
    Gtids,
    Place,
    Token,
    between,
    binlogs,
    file_number,
    server_uuid,
    what_is_lacking,
)
from replication.errors import LogLost
from replication.position import Position, split_order

NAME = "server"
"""Under which name the state is stored."""
_UNSETTLED = "changes that we have read were on their way, and are at places of its log that do not compare"


@dataclass(frozen=True, slots=True)
class Server:
    """The server whose log is read.

    Attributes:
        server: its UUID.
        shift: what the numbers of its files are raised by in orders.
    """

    server: str
    shift: int = 0

    def dump(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Undo `dump`."""
        return cls(**json.loads(text))


def known_as(connection: pymysql.Connection[Any], kept: str | None) -> Server:
    """The server that answers, with what is known of it."""
    server = server_uuid(connection)
    known = Server.load(kept) if kept is not None else Server(server)
    return known if known.server == server else Server(server)


def accept(
    connection: pymysql.Connection[Any], node: str, known: Server, reached: Sequence[Reached]
) -> tuple[Server, list[Position]]:
    """Go on with the server that answers.

    Args:
        connection: to the server.
        node: the node's name.
        known: see `known_as`.
        reached: how far each shard has read.

    Returns:
        the server as it is known from now on, and from where each shard reads on.

    Raises:
        LogLost: it is another server, and cannot go on where that one was left.
    """
    resume = [r.resume for r in reached]
    tokens = {i: Token.unpack(p.token) for i, p in enumerate(resume) if p.token}
    moving = {i: token for i, token in tokens.items() if token.server != known.server}
    if not moving:
        return known, resume
    alike = len({resume[i].order for i in moving}) == 1
    for i, token in moving.items():
        settled = alike and reached[i].order <= resume[i].order and _is_between(token, resume[i])
        why = what_is_lacking(connection, token) or ("" if settled else _UNSETTLED)
        if why:
            message = f"server {known.server} answers, and what we have read is of {token.server}; {why}"
            hint = f"point the dsn at that server if it is still there, or: {SNAPSHOT_HINT}"
            raise LogLost(message, node=node, position=resume[i].order, hint=hint)
    first = next(iter(binlogs(connection)))
    if not known.shift:
        known = shifted(known.server, first, max(max(r.order, r.resume.order) for r in reached))
    for i, token in moving.items():
        resume[i] = between(Token(first, FIRST_OFFSET, known.server, token.gtids, shift=known.shift))
    return known, resume


def shifted(server: str, file: str, above: int) -> Server:
    """The server with its files counted so that every order from `file` on is greater than `above`."""
    return Server(server, max(0, Place.of(above).file + 1 - file_number(file)))


def _is_between(token: Token, position: Position) -> bool:
    """Whether a position is between two transactions, and its token names all those before it."""
    hi, lo = split_order(position.order)
    return not (token.rough or Gtids(token.gtids or "").tagged or (token.place.hi == hi and lo))
