"""A place in a MySQL log: what a token holds, and how it compares.

The order of a change is (number of the binlog file and offset of its transaction in it, place in the
transaction). A transaction stands where its GTID event begins; the place in it is that of the event of the
row, in bytes from there, plus two for every row before it in the same event. So a row has the same order
whenever it is read, whatever tables are mapped.

The token names the same place by file and offset, and beside it the set of all GTIDs up to there and the
server:

- after a whole transaction it is the place where that one ends, and its GTID is in the set: it is not sent
  again;
- inside a transaction it is the place where that one begins: it is sent again from its first change, and
  the reader drops changes up to the position's order.

Files and offsets are one server's own. On another one, say a replica that was promoted, the same transaction
has another order, so that neither cuts nor versions of rows would compare any more. A position is therefore
good for the server that it was read from, and no other. `lineage` says when another one can be gone on with;
else the log is lost, and the node comes back with an initial copy."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pymysql

from replication.engines.mysql.errors import SNAPSHOT_HINT
from replication.errors import LogLost, PreflightFailed
from replication.position import Position, order_of, split_order

FIRST_OFFSET = 4
"""Where the first event of a file begins, after its magic number."""
_OFFSET_BITS = 32
_SYNTAX = 1064
_FILE_NUMBER = re.compile(r"\.(\d+)$")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Between two events of the binlog.

    Attributes:
        file: the number of the file, its name's last part, as it counts in orders.
        offset: bytes from its beginning.
    """

    file: int
    offset: int

    @property
    def hi(self) -> int:
        """The place as the upper part of an order."""
        return (self.file << _OFFSET_BITS) | self.offset

    @classmethod
    def of(cls, order: int) -> Self:
        """The place of the transaction that an order lies in."""
        hi, _ = split_order(order)
        return cls(hi >> _OFFSET_BITS, hi & ((1 << _OFFSET_BITS) - 1))


def file_number(name: str) -> int:
    """The number in the name of a binlog file."""
    match = _FILE_NUMBER.search(name)
    if match is None:
        message = f"{name} is no name of a binlog file"
        raise ValueError(message)
    return int(match[1])


class Gtids:
    """A set of GTIDs that grows as a log is read. Text form as in `gtid_executed`.

    A source is a server's UUID, in MySQL 8.3 and later with a tag (`uuid:tag`) where one was given.
    """

    def __init__(self, text: str = "") -> None:
        self._ranges: dict[str, list[list[int]]] = {}
        for part in re.sub(r"\s", "", text).lower().split(","):
            uuid, *items = part.split(":")
            source = uuid
            for item in items:
                if item[0].isdigit():
                    first, _, last = item.partition("-")
                    self._ranges.setdefault(source, []).append([int(first), int(last or first)])
                else:
                    source = f"{uuid}:{item}"

    def add(self, source: str, number: int) -> None:
        """One transaction more."""
        ranges = self._ranges.setdefault(source, [])
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1][1] = number
            return
        at = bisect_left(ranges, [number + 1])
        before = ranges[at - 1] if at else None
        if before is not None and before[1] >= number:
            return
        joins_next = at < len(ranges) and ranges[at][0] == number + 1
        if before is not None and before[1] + 1 == number:
            before[1] = ranges.pop(at)[1] if joins_next else number
        elif joins_next:
            ranges[at][0] = number
        else:
            ranges.insert(at, [number, number])

    @property
    def tagged(self) -> bool:
        """Whether any source has a tag."""
        return any(":" in source for source in self._ranges)

    def __contains__(self, gtid: tuple[str, int]) -> bool:
        source, number = gtid
        return any(first <= number <= last for first, last in self._ranges.get(source, ()))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __str__(self) -> str:
        return ",".join(
            f"{source}:{':'.join(f'{a}-{b}' if b > a else f'{a}' for a, b in ranges)}"
            for source, ranges in self._ranges.items()
        )


@dataclass(frozen=True, slots=True)
class Token:
    """What a position's token holds.

    Attributes:
        file: name of the binlog file.
        offset: where to start in it.
        server: UUID of the server whose log it is.
        gtids: everything up to there; None where that is not known, since the server had no GTIDs.
        rough: `gtids` may lack transactions that were being committed when the server was asked.
        shift: what the number of the file is raised by in orders, see `lineage`.
    """

    file: str
    offset: int
    server: str
    gtids: str | None = None
    rough: bool = False
    shift: int = 0

    @property
    def place(self) -> Place:
        """Where to start, as orders have it."""
        return Place(file_number(self.file) + self.shift, self.offset)

    def pack(self) -> str:
        """As text."""
        fields = {name: value for name, value in asdict(self).items() if value not in (None, False)}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def unpack(cls, text: str) -> Self:
        """Undo `pack`."""
        return cls(**json.loads(text))


def between(token: Token) -> Position:
    """The position between transactions: everything before the token's place is behind it."""
    return Position(order_of(token.place.hi, 0), token.pack())


def position_now(connection: pymysql.Connection[Any], shift: int = 0) -> Position:
    """Where the server's log ends now.

    Args:
        connection: with the privilege `REPLICATION CLIENT`.
        shift: as in `Token`.

    Raises:
        pymysql.MySQLError: the server is away or refuses.
        PreflightFailed: the server keeps no binlog.
    """
    server, mode = _row(connection, "SELECT @@GLOBAL.server_uuid, @@GLOBAL.gtid_mode")
    status = log_status(connection)
    gtids = str(Gtids(status["Executed_Gtid_Set"])) if mode == "ON" else None
    return between(Token(status["File"], int(status["Position"]), server, gtids, True, shift))


def log_status(connection: pymysql.Connection[Any]) -> Mapping[str, Any]:
    """The server's own account of where its binlog ends: `File`, `Position`, `Executed_Gtid_Set`."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SHOW BINARY LOG STATUS")
        except pymysql.ProgrammingError as error:
            if error.args[0] != _SYNTAX:
                raise
            cursor.execute("SHOW MASTER STATUS")  # before MySQL 8.2
        row = cursor.fetchone()
        names = [d[0] for d in cursor.description or ()]
    if row is None:
        message = "the server keeps no binary log"
        raise PreflightFailed(message, hint="start it with log_bin")
    return dict(zip(names, row, strict=True))


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin to read, checked against the server.

    Attributes:
        token: the place.
        by_gtid: ask for what is not in the token's set of GTIDs, rather than by file and offset.
        lower_case: the server compares table names without case.
    """

    token: Token
    by_gtid: bool
    lower_case: bool = field(default=False)


def find_start(connection: pymysql.Connection[Any], position: Position) -> Start:
    """Make sure that the server's log holds everything after a position.

    Raises:
        LogLost: it does not; or it is another server's log, or one that was begun anew.
        pymysql.MySQLError: the server is away or refuses.
        PreflightFailed: the server keeps no binlog.
    """
    server, mode, executed, purged, lower = _row(
        connection,
        "SELECT @@GLOBAL.server_uuid, @@GLOBAL.gtid_mode, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged,"
        " @@GLOBAL.lower_case_table_names",
    )
    log_status(connection)
    files = binlogs(connection)
    token = Token.unpack(position.token) if position.token else _without_token(position, server, files)
    if token.server != server:
        raise _lost(position, f"server {server} answers, and what we have read is of {token.server}")
    by_gtid = mode == "ON" and token.gtids is not None and not Gtids(token.gtids).tagged
    if mode == "ON" and token.gtids is not None:
        known, reached = _row(
            connection,
            "SELECT GTID_SUBSET(%s, %s), GTID_SUBSET(%s, %s)",
            token.gtids,
            executed,
            purged,
            token.gtids,
        )
        if not known:
            raise _lost(position, "the server has not executed all that we have read: its log was begun anew")
        if not reached:
            raise _lost(position, "the server has purged binary logs that we have not read")
    size = files.get(token.file)
    if size is None and not (by_gtid and file_number(token.file) < min(map(file_number, files))):
        raise _lost(position, f"binary log {token.file} is gone")
    if size is not None and token.offset > size:
        raise _lost(position, f"binary log {token.file} ends at {size}, before our position {token.offset}")
    return Start(token, by_gtid, bool(lower))


def what_is_lacking(connection: pymysql.Connection[Any], token: Token) -> str | None:
    """What another server lacks of the log that a token is of; None if it has everything up to there."""
    mode, lacking = _row(
        connection,
        "SELECT @@GLOBAL.gtid_mode, GTID_SUBTRACT(%s, @@GLOBAL.gtid_executed)",
        token.gtids or "",
    )
    if mode != "ON" or token.gtids is None:
        return "without GTIDs nobody can tell what it lacks"
    return f"it lacks transactions that we have read: {Gtids(lacking)}" if lacking else None


def _without_token(position: Position, server: str, files: Mapping[str, int]) -> Token:
    """A bare order: the place of its transaction; 0 is the oldest one that there is."""
    if not position.order:
        return Token(next(iter(files)), FIRST_OFFSET, server)
    place = Place.of(position.order)
    for name in files:
        if file_number(name) == place.file:
            return Token(name, max(place.offset, FIRST_OFFSET), server)
    raise _lost(position, f"binary log number {place.file} is gone")


def server_uuid(connection: pymysql.Connection[Any]) -> str:
    """Which server answers."""
    return str(_row(connection, "SELECT @@GLOBAL.server_uuid")[0])


def binlogs(connection: pymysql.Connection[Any]) -> dict[str, int]:
    """The binlog files by name, oldest first, with their sizes."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        return {row[0]: int(row[1]) for row in cursor.fetchall()}


def _row(connection: pymysql.Connection[Any], query: str, *values: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        row = cursor.fetchone()
    assert row is not None
    return tuple(row)


def _lost(position: Position, message: str) -> LogLost:
    return LogLost(message, position=position.order, hint=SNAPSHOT_HINT)
