"""The connection that the server sends its log over: it takes us for a replica.

`mysql-replication` signs on and asks for the log. From then on this module reads packets on its own: the
library's reader would decode every row one by one, and after a lost connection it would begin where it first
did."""

from __future__ import annotations

import select
import ssl
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.constants import BINLOG

from replication.engines.mysql.charsets import Charset, read_charsets
from replication.engines.mysql.config import MysqlConfig
from replication.engines.mysql.connection import connect
from replication.engines.mysql.decode import Event, has_checksums, is_checksum, read_event
from replication.engines.mysql.position import Start, find_start
from replication.errors import NodeUnavailable
from replication.position import Position

HEARTBEAT_SECONDS = 1
_READ_SIZE = 1 << 18
_HEADER = 4
_LARGEST = (1 << 24) - 1
"""A packet of this size goes on in the next one."""
_TYPE, _ROTATE, _FORMAT = 4, bytes([BINLOG.ROTATE_EVENT]), bytes([BINLOG.FORMAT_DESCRIPTION_EVENT])
"""Where an event's type is; the last one's events say whether the others have checksums."""
_OK, _EOF, _ERROR = 0x00, 0xFE, 0xFF
_TAKEN_OVER = b"same server_uuid/server_id as this"


class Packets:
    """Splits what a socket gives into packets of the client/server protocol. Owns no socket."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = _HEADER
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Bytes as they came; returns the payloads that are complete now."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return []  # a large packet is joined once, not with each of its parts
        data = b"".join(self._parts)
        at, end, found = 0, len(data), []
        while end - at >= _HEADER:
            size = int.from_bytes(data[at : at + 3], "little")
            if end - at - _HEADER < size:
                break
            payload = data[at + _HEADER : at + _HEADER + size]
            at += _HEADER + size
            if size == _LARGEST:
                self._begun.append(payload)
            elif self._begun:
                found.append(b"".join([*self._begun, payload]))
                self._begun = []
            else:
                found.append(payload)
        rest = data[at:]
        self._parts, self._size = [rest], len(rest)
        self._wanted = _HEADER + (int.from_bytes(rest[:3], "little") if len(rest) >= _HEADER else 0)
        return found


class _Replica(BinLogStreamReader):  # type: ignore[misc, unused-ignore]
    def sign_on(self) -> None:
        """Ask for the log; the library has no public method that does only this."""
        self._BinLogStreamReader__connect_to_stream()


class BinlogStream:
    """Reads events from a server, from one place on.

    Args:
        config: where the server is.
        group: our replica's name in the server's eyes, with the node's.
        server_id: its number there, which no other replica may have; by default made from these names.

    A reader that signs on under the same name makes the server cut off the one before: the newest is right.
    """

    def __init__(self, config: MysqlConfig, group: str, server_id: int | None = None) -> None:
        self._config = config
        name = f"sync-worker/{group}/{config.node}"
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        # Above what people give their servers.
        self._server_id = server_id or zlib.crc32(name.encode()) | 1 << 31
        self._connection: Any = None
        self._packets = Packets()
        self._checksums = False
        self.charsets: Mapping[int, Charset] = {}
        """By the numbers of the server's collations."""

    def open(self, position: Position) -> Start:
        """Connect, and ask for everything after a position.

        Raises:
            LogLost: the server's log does not hold that any more.
            pymysql.MySQLError: the server is away or refuses.
        """
        connection: Any = connect(self._config, read_timeout=None)
        try:
            start = find_start(connection, position)
            self.charsets = read_charsets(connection)
            # We take events with checksums, whether the log has them now or later.
            connection.query("SET @master_binlog_checksum = 'CRC32'")
            self._request(connection, start)
        except BaseException:
            connection.close()
            raise
        connection._sock.setblocking(False)
        self._connection, self._packets = connection, Packets()
        return start

    def _request(self, connection: Any, start: Start) -> None:
        place: dict[str, Any] = {
            "log_file": start.token.file,
            "log_pos": start.token.offset,
            "resume_stream": True,
        }
        if start.by_gtid:
            place = {"auto_position": start.token.gtids}
        _Replica(
            {},
            self._server_id,
            blocking=True,
            slave_uuid=self._uuid,
            slave_heartbeat=HEARTBEAT_SECONDS,
            pymysql_wrapper=lambda **_: connection,
            enable_logging=False,
            **place,
        ).sign_on()

    def read(self) -> list[Event] | None:
        """The events that have come, without waiting; None if nothing has.

        Raises:
            NodeUnavailable: the connection is gone.
            pymysql.MySQLError: the server ended the stream, and says why.
            Malformed: the bytes are no events.
        """
        try:
            data = self._connection._sock.recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            message = f"the connection broke: {error}"
            raise NodeUnavailable(message, node=self._config.node) from error
        if not data:
            message = "the server closed the connection"
            raise NodeUnavailable(message, node=self._config.node)
        return [self._event(packet) for packet in self._packets.feed(data)]

    def wait(self, seconds: float) -> bool:
        """Wait until something has come; whether it has."""
        sock = self._connection._sock
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        return bool(select.select([sock], [], [], max(0.0, seconds))[0])

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection._force_close()  # the server is sending; it waits for no farewell

    def _event(self, packet: bytes) -> Event:
        status = packet[0] if packet else _EOF
        if status == _ERROR:
            if _TAKEN_OVER in packet:
                message = "another reader of this node and group has signed on"
                raise NodeUnavailable(message, node=self._config.node)
            pymysql.err.raise_mysql_exception(packet)
        if status != _OK:
            message = "the server ended the stream"
            raise NodeUnavailable(message, node=self._config.node)
        data = packet[1:]
        if data[_TYPE : _TYPE + 1] == _FORMAT:
            self._checksums = has_checksums(data)
        elif data[_TYPE : _TYPE + 1] == _ROTATE:
            # It comes before the event that would say.
            return read_event(data, is_checksum(data))
        return read_event(data, self._checksums)
