"""Builds events of MySQL's binlog byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pymysqlreplication.constants import BINLOG, FIELD_TYPE

from replication.engines.mysql.decode import Event, read_event

NUMERIC = frozenset({1, 2, 3, 4, 5, 8, 9, 13, 246})
UTF8MB4, BINARY = 255, 63
FILE = "binlog.000007"
SERVER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@dataclass(frozen=True)
class Column:
    """A column as a table map has it."""

    name: str
    type: int
    meta: bytes = b""
    unsigned: bool = False
    collation: int = UTF8MB4
    members: tuple[str, ...] = ()


def integer(value: int) -> bytes:
    """A length-encoded integer."""
    if value < 251:
        return bytes([value])
    size, mark = next((s, m) for s, m in ((2, 252), (3, 253), (8, 254)) if value < 1 << 8 * s)
    return bytes([mark]) + value.to_bytes(size, "little")


def sized(data: bytes) -> bytes:
    return integer(len(data)) + data


def bits(flags: Sequence[bool]) -> bytes:
    """A bit per flag, the lowest first."""
    return sum(1 << i for i, f in enumerate(flags) if f).to_bytes((len(flags) + 7) // 8, "little")


class Log:
    """Events one after the other, as a server writes them."""

    def __init__(self, offset: int = 4, *, checksum: bool = True) -> None:
        self.at = offset
        self.checksum = checksum
        self.raw: list[bytes] = []

    def add(self, kind: int, body: bytes, *, flags: int = 0) -> bytes:
        size = 19 + len(body) + 4 * self.checksum
        self.at += size
        data = struct.pack("<IBIIIH", 1_700_000_000, kind, 1, size, self.at, flags) + body
        if self.checksum:
            data += zlib.crc32(data).to_bytes(4, "little")
        self.raw.append(data)
        return data

    @property
    def events(self) -> list[Event]:
        return [read_event(data, self.checksum) for data in self.raw]

    def begin(self, number: int, ts: int = 5) -> None:
        self.gtid(number, ts)
        self.query("BEGIN")

    def gtid(self, number: int, ts: int = 5) -> None:
        sid = bytes.fromhex(SERVER.replace("-", ""))
        times = ts.to_bytes(7, "little") + b"\0" * 5
        self.add(BINLOG.GTID_LOG_EVENT, b"\1" + sid + struct.pack("<qBqq", number, 2, 1, 2) + times)

    def query(self, text: str, database: str = "shop", variables: bytes = b"") -> None:
        head = struct.pack("<IIBHH", 1, 0, len(database), 0, len(variables))
        self.add(BINLOG.QUERY_EVENT, head + variables + database.encode() + b"\0" + text.encode())

    def xid(self) -> None:
        self.add(BINLOG.XID_EVENT, bytes(8))

    def table(self, number: int, name: str, columns: Sequence[Column], database: str = "shop") -> None:
        self.add(BINLOG.TABLE_MAP_EVENT, table_map(number, name, columns, database))

    def rows(
        self, kind: int, number: int, columns: Sequence[Column], images: Iterable[Sequence[Any]]
    ) -> None:
        """Rows; of an update the images before and after, in turn."""
        present = bits([True] * len(columns)) * (2 if kind == BINLOG.UPDATE_ROWS_EVENT_V2 else 1)
        head = number.to_bytes(6, "little") + struct.pack("<HH", 1, 2) + integer(len(columns)) + present
        self.add(kind, head + b"".join(image(columns, row) for row in images))

    def insert(self, number: int, columns: Sequence[Column], *rows: Sequence[Any]) -> None:
        self.rows(BINLOG.WRITE_ROWS_EVENT_V2, number, columns, rows)

    def update(self, number: int, columns: Sequence[Column], *rows: Sequence[Any]) -> None:
        self.rows(BINLOG.UPDATE_ROWS_EVENT_V2, number, columns, rows)

    def delete(self, number: int, columns: Sequence[Column], *rows: Sequence[Any]) -> None:
        self.rows(BINLOG.DELETE_ROWS_EVENT_V2, number, columns, rows)


def table_map(number: int, name: str, columns: Sequence[Column], database: str = "shop") -> bytes:
    text = [c.collation for c in columns if c.type in (15, 252, 253, 254) and not c.members]
    choice = [c.collation for c in columns if c.members]
    numeric = [c.unsigned for c in columns if c.type in NUMERIC]
    signs = bytearray((len(numeric) + 7) // 8)
    for i, unsigned in enumerate(numeric):
        signs[i // 8] |= unsigned << (7 - i % 8)
    enums = [c.members for c in columns if c.members and c.meta[0] == FIELD_TYPE.ENUM]
    sets = [c.members for c in columns if c.members and c.meta[0] == FIELD_TYPE.SET]
    fields = [
        (1, bytes(signs)),
        (3, b"".join(map(integer, text))),
        (4, b"".join(sized(c.name.encode()) for c in columns)),
        (5, b"".join(map(_members, sets))),
        (6, b"".join(map(_members, enums))),
        (8, b"\0"),
        (11, b"".join(map(integer, choice))),
        (13, b""),
    ]
    return b"".join(
        [
            number.to_bytes(6, "little") + b"\1\0",
            bytes([len(database)]) + database.encode() + b"\0",
            bytes([len(name)]) + name.encode() + b"\0",
            sized(bytes(c.type for c in columns)),
            sized(b"".join(c.meta for c in columns)),
            bits([True] * len(columns)),
            *(bytes([kind]) + sized(value) for kind, value in fields if value),
        ]
    )


def _members(members: tuple[str, ...]) -> bytes:
    return integer(len(members)) + b"".join(sized(m.encode()) for m in members)


def image(columns: Sequence[Column], row: Sequence[Any]) -> bytes:
    """A row image; values are bytes as they are stored, or what `stored` takes."""
    nulls = bits([value is None for value in row])
    values = (stored(c, v) for c, v in zip(columns, row, strict=True) if v is not None)
    return nulls + b"".join(values)


def stored(column: Column, value: Any) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    match column.type:
        case FIELD_TYPE.TINY | FIELD_TYPE.SHORT | FIELD_TYPE.INT24 | FIELD_TYPE.LONG | FIELD_TYPE.LONGLONG:
            size = {1: 1, 2: 2, 9: 3, 3: 4, 8: 8}[column.type]
            return int(value).to_bytes(size, "little", signed=not column.unsigned)
        case FIELD_TYPE.DOUBLE:
            return struct.pack("<d", value)
        case FIELD_TYPE.NEWDECIMAL:
            return decimal(value.decode(), *column.meta)
        case FIELD_TYPE.VARCHAR:
            size = 1 if int.from_bytes(column.meta, "little") < 256 else 2
            return len(value).to_bytes(size, "little") + bytes(value)
        case FIELD_TYPE.BLOB | FIELD_TYPE.JSON:
            return len(value).to_bytes(column.meta[0], "little") + bytes(value)
    return bytes(value)


def decimal(text: str, precision: int, scale: int) -> bytes:
    """Groups of nine digits in four bytes, fewer in fewer; all bits flipped if negative."""
    before, _, after = text.removeprefix("-").partition(".")
    whole, fraction = before.lstrip("0").zfill(precision - scale), after.ljust(scale, "0")
    lead = len(whole) % 9
    groups = [whole[:lead]] + [whole[i : i + 9] for i in range(lead, len(whole), 9)]
    groups += [fraction[i : i + 9] for i in range(0, len(fraction), 9)]
    widths = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
    data = bytearray(b"".join(int(g).to_bytes(widths[len(g)], "big") for g in groups if g))
    data[0] |= 0x80
    return bytes(b ^ 0xFF for b in data) if text.startswith("-") else bytes(data)
