"""Events of the binlog, one by one: bytes in, fields out; no connection anywhere near.

Wire formats: "Replication Protocol" and the classes of namespace `mysql::binlog::event` in the documentation
of MySQL's source. All integers are little-endian. An event is

    uint32 time  uint8 type  uint32 server  uint32 size  uint32 end  uint16 flags  body  [uint32 CRC-32]

`end` is the offset behind it in the file, 0 for an event that is in none. A length-encoded integer is one
byte up to 250, or one byte that says how many follow."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import pyarrow as pa
from pymysqlreplication.constants import BINLOG

HEADER = 19
CHECKSUM = 4
XA_PREPARE, PAYLOAD, HEARTBEAT_V2, TAGGED_GTID = 38, 40, 41, 42  # most are newer than the library's list
ENDS = frozenset({BINLOG.XID_EVENT, BINLOG.QUERY_EVENT, XA_PREPARE})
"""Events that may end a transaction."""
IGNORABLE = 0x80
"""Flag of events that a reader which does not know them may skip."""
ROWS = frozenset({BINLOG.WRITE_ROWS_EVENT_V2, BINLOG.UPDATE_ROWS_EVENT_V2, BINLOG.DELETE_ROWS_EVENT_V2})
OLD_ROWS = frozenset({BINLOG.WRITE_ROWS_EVENT_V1, BINLOG.UPDATE_ROWS_EVENT_V1, BINLOG.DELETE_ROWS_EVENT_V1})
_HEADER = struct.Struct("<IBIIIH")
_GTID_TIMES = 42
"""Where the commit times begin in a GTID event's body."""
_CRC32 = 1
_ZSTD = 0
_DATABASES = 12
_TOO_MANY = 254


class Malformed(ValueError):
    """The bytes are not what the format says."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event without its checksum.

    Attributes:
        type: see `BINLOG`.
        time: seconds since 1970.
        size: bytes in the file, checksum included.
        end: offset behind it, 0 if it is in no file.
        flags: bits.
        data: header and body.
        inside: where it begins in a compressed transaction, if it comes from one.
    """

    type: int
    time: int
    size: int
    end: int
    flags: int
    data: bytes
    inside: int = 0


def read_event(data: bytes, checksum: bool) -> Event:
    """Take an event apart.

    Args:
        data: the event.
        checksum: it ends with one, which is compared.

    Raises:
        Malformed: it was cut off or altered.
    """
    if len(data) < HEADER + (CHECKSUM if checksum else 0):
        message = f"an event of {len(data)} bytes"
        raise Malformed(message)
    time, kind, _, size, end, flags = _HEADER.unpack_from(data)
    if size != len(data):
        message = f"an event of {size} bytes came as {len(data)}"
        raise Malformed(message)
    if checksum:
        if not is_checksum(data):
            message = f"the checksum of an event of type {kind} is wrong"
            raise Malformed(message)
        data = data[:-CHECKSUM]
    return Event(kind, time, size, end, flags, data)


def is_checksum(data: bytes) -> bool:
    """Whether the last four bytes are the CRC-32 of those before."""
    return zlib.crc32(memoryview(data)[:-CHECKSUM]) == int.from_bytes(data[-CHECKSUM:], "little")


def has_checksums(description: bytes) -> bool:
    """Whether events have checksums, by the format description event that comes first in every file."""
    return description[-CHECKSUM - 1] == _CRC32


def read_rotate(event: Event) -> tuple[str, int]:
    """Name of the next file, and where to go on in it."""
    (offset,) = struct.unpack_from("<Q", event.data, HEADER)
    return event.data[HEADER + 8 :].decode(), offset


@dataclass(frozen=True, slots=True)
class Gtid:
    """The event before every transaction.

    Attributes:
        source: UUID, with `:tag` if there is one; empty for an anonymous transaction.
        number: the source's number of it.
        ts: commit time on this server, microseconds since 1970.
    """

    source: str
    number: int
    ts: int


def read_gtid(event: Event) -> Gtid:
    """Read a GTID event, tagged, plain or anonymous."""
    if event.type == TAGGED_GTID:
        return _read_tagged(event)
    body = event.data[HEADER:]
    if len(body) < 25:
        message = "a GTID event was cut off"
        raise Malformed(message)
    ts = event.time * 1_000_000
    if len(body) >= _GTID_TIMES + 7:
        # The highest bit says that the original server's time follows.
        ts = int.from_bytes(body[_GTID_TIMES : _GTID_TIMES + 7], "little") & ((1 << 55) - 1)
    if event.type == BINLOG.ANONYMOUS_GTID_LOG_EVENT:
        return Gtid("", 0, ts)
    (number,) = struct.unpack_from("<q", body, 17)
    return Gtid(_uuid(body[1:17]), number, ts)


@lru_cache(maxsize=64)
def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data))


def _read_tagged(event: Event) -> Gtid:
    """Read a message of `mysql::serialization`: fields with numbers, every integer of variable length."""
    reader = Reader(event.data, HEADER)
    reader.varlen(), reader.varlen(), reader.varlen()  # version, size, last field that must be known
    source = tag = ""
    number, ts = 0, event.time * 1_000_000
    while reader.at < len(event.data):
        match reader.varlen():
            case 0:  # flags
                reader.varlen()
            case 1:
                source = _uuid(bytes(reader.varlen() for _ in range(16)))
            case 2:
                number = reader.varlen_signed()
            case 3:
                tag = reader.take(reader.varlen()).decode()
            case 4 | 5:  # last committed, sequence number
                reader.varlen_signed()
            case 6:
                ts = reader.varlen()
            case _:
                break
    if not source:
        message = "a GTID event names no source"
        raise Malformed(message)
    return Gtid(f"{source}:{tag}" if tag else source, number, ts)


@dataclass(frozen=True, slots=True)
class Query:
    """A statement in the log.

    Attributes:
        database: the default one.
        text: the statement.
        variables: what else the server says of it, see `databases`.
    """

    database: str
    text: str
    variables: bytes = b""

    @property
    def databases(self) -> frozenset[str] | None:
        """The databases that the statement wrote to; None if the server does not say."""
        return _databases(self.variables)


def read_query(event: Event) -> Query:
    """Read a query event."""
    data = event.data
    if len(data) < HEADER + 13:
        message = "a query event was cut off"
        raise Malformed(message)
    length = data[HEADER + 8]
    (variables,) = struct.unpack_from("<H", data, HEADER + 11)
    at = HEADER + 13 + variables
    database = data[at : at + length].decode("utf-8", "replace")
    text = data[at + length + 1 :].decode("utf-8", "replace")
    return Query(database, text, data[HEADER + 13 : at])


_FIXED_VARIABLES = {0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, 17: 8, 18: 2, 19: 1, 20: 1}
_TEXT_VARIABLES = {5: 1, 6: 1, 11: 2}


def _databases(variables: bytes) -> frozenset[str] | None:
    """The databases in the status variables of a query event."""
    at = 0
    while at < len(variables):
        code = variables[at]
        at += 1
        if code == _DATABASES:
            count = variables[at]
            names = variables[at + 1 :].split(b"\0")[:count]
            return None if count == _TOO_MANY else frozenset(n.decode("utf-8", "replace") for n in names)
        if code in _FIXED_VARIABLES:
            at += _FIXED_VARIABLES[code]
        elif code in _TEXT_VARIABLES:
            for _ in range(_TEXT_VARIABLES[code]):
                at += 1 + variables[at]
        else:
            return None
    return None


def read_load_query(event: Event) -> Query:
    """Read the event of a `LOAD DATA` that was logged as a statement: a query event with four fields more."""
    extra = 13
    data = event.data
    at = HEADER + 13
    plain = data[:at] + data[at + extra :]
    return read_query(Event(event.type, event.time, event.size, event.end, event.flags, plain))


@dataclass(frozen=True, slots=True)
class Rows:
    """The event of rows of one table, up to its row images.

    Attributes:
        table_id: which table, see `table_map`.
        width: how many columns.
        full: the images have all columns.
        at: where the first row image begins.
    """

    table_id: int
    width: int
    full: bool
    at: int


def table_id(event: Event) -> int:
    """The number by which row events name a table, in a row or table map event."""
    return int.from_bytes(event.data[HEADER : HEADER + 6], "little")


def read_rows(event: Event) -> Rows:
    """Read the part of a row event before its row images."""
    data = event.data
    if len(data) < HEADER + 11:
        message = "a row event was cut off"
        raise Malformed(message)
    (extra,) = struct.unpack_from("<H", data, HEADER + 8)
    reader = Reader(data, HEADER + 8 + extra)
    width = reader.integer()
    size = (width + 7) // 8
    whole = (1 << width) - 1
    # What is left of the last byte may be anything.
    full = int.from_bytes(reader.take(size), "little") & whole == whole
    if event.type == BINLOG.UPDATE_ROWS_EVENT_V2:
        full &= int.from_bytes(reader.take(size), "little") & whole == whole
    return Rows(table_id(event), width, full, reader.at)


def unpacked(event: Event) -> Iterator[Event]:
    """The events inside a compressed transaction, one after the other; without checksums.

    Raises:
        Malformed: the compression is unknown, or the bytes are damaged.
    """
    reader = Reader(event.data, HEADER)
    size, compression = 0, _ZSTD
    while field := reader.integer():
        length = reader.integer()
        value = Reader(reader.take(length), 0)
        match field:
            case 1:
                size = value.integer()
            case 2:
                compression = value.integer()
    packed = pa.py_buffer(event.data)[reader.at : reader.at + size]
    if compression == _ZSTD:
        source = pa.CompressedInputStream(pa.BufferReader(packed), "zstd")
    else:
        source = pa.BufferReader(packed)
    try:
        with source:
            at = HEADER
            while header := source.read(HEADER):
                length = int.from_bytes(header[9:13], "little")
                found = read_event(header + source.read(max(0, length - HEADER)), checksum=False)
                yield replace(found, end=event.end, inside=at)
                at += length
    except OSError as error:
        message = f"a compressed transaction cannot be read: {error}"
        raise Malformed(message) from error


class Reader:
    """Reads fields one after the other; `at` is the place of the next one."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        """So many bytes."""
        found = self.data[self.at : self.at + size]
        if len(found) != size or size < 0:
            message = f"{size} bytes wanted, {len(found)} there"
            raise Malformed(message)
        self.at += size
        return found

    def byte(self) -> int:
        """An unsigned byte."""
        return self.take(1)[0]

    def integer(self) -> int:
        """A length-encoded integer."""
        first = self.byte()
        if first < 251:
            return first
        size = {252: 2, 253: 3, 254: 8}.get(first)
        if size is None:
            message = f"no length begins with {first}"
            raise Malformed(message)
        return int.from_bytes(self.take(size), "little")

    def text(self) -> bytes:
        """Bytes with their length before them."""
        return self.take(self.integer())

    def varlen(self) -> int:
        """An integer of `mysql::serialization`: as many more bytes as the first one has low bits set in a
        row."""
        first = self.byte()
        more = 0
        while more < 8 and first >> more & 1:
            more += 1
        rest = int.from_bytes(self.take(more), "little")
        return rest if more == 8 else (first | rest << 8) >> (more + 1)

    def varlen_signed(self) -> int:
        """The same with a sign: it is the lowest bit."""
        value = self.varlen()
        return -(value >> 1) - 1 if value & 1 else value >> 1
