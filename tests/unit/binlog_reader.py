"""A small group whose binlog tests write by hand, and the part of the engine that reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymysqlreplication.constants import FIELD_TYPE

from replication.change import Changes, LogEvent
from replication.engines.mysql.charsets import UTF8, Charset
from replication.engines.mysql.position import Start, Token
from replication.engines.mysql.tables import Mapped
from replication.engines.mysql.transactions import Assembler
from replication.marker import Marker
from replication.position import order_of
from replication.schema import Column as Canonical
from replication.schema import Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind
from tests.unit.binlog import FILE, SERVER, Column, Log

ITEMS, MARKER, WATERMARK, STRANGER = 1, 2, 3, 4
COLUMNS = (
    Column("id", FIELD_TYPE.LONGLONG),
    Column("name", FIELD_TYPE.VARCHAR, (200).to_bytes(2, "little")),
    Column("unmapped", FIELD_TYPE.VARCHAR, (1000).to_bytes(2, "little")),
    Column("price", FIELD_TYPE.NEWDECIMAL, bytes([30, 11])),
    Column("ratio", FIELD_TYPE.DOUBLE, b"\x08"),
    Column("big", FIELD_TYPE.LONGLONG, unsigned=True),
    Column("note", FIELD_TYPE.BLOB, b"\x02"),
    Column("tiny", FIELD_TYPE.INT24),
    Column("pick", FIELD_TYPE.STRING, bytes([FIELD_TYPE.ENUM, 1]), members=("a", "ü")),
)
OWN = (
    Column("grp", FIELD_TYPE.VARCHAR, (256).to_bytes(2, "little")),
    Column("shard", FIELD_TYPE.LONG),
    Column("shards", FIELD_TYPE.LONG),
    Column("epoch", FIELD_TYPE.LONGLONG),
    Column("seq", FIELD_TYPE.LONGLONG),
    Column("state", FIELD_TYPE.BLOB, b"\x04"),
    Column("versions", FIELD_TYPE.BLOB, b"\x04", collation=63),
)
MARKS = (
    OWN[0],
    Column("ident", FIELD_TYPE.VARCHAR, (512).to_bytes(2, "little")),
    Column("n", FIELD_TYPE.LONGLONG),
)
NAMES = ("note", "id", "name", "price", "ratio", "big", "tiny", "pick")
KINDS = {
    "id": Kind.INT64,
    "price": Kind.NUMERIC,
    "ratio": Kind.FLOAT64,
    "big": Kind.NUMERIC,
    "tiny": Kind.INT32,
}
TABLE = Table(
    TableMapping("items", ("id",), {"my": "items"}, exclude=frozenset({"unmapped"})),
    TableSchema(
        "items",
        tuple(Canonical(n, CanonicalType(KINDS.get(n, Kind.TEXT)), n != "id") for n in NAMES),
        ("id",),
    ),
)
CHARSETS = {255: Charset("utf8mb4", UTF8), 63: Charset("binary")}
Row = tuple[Any, ...]


def assembler(resume: int = 0, *, echoes: bool = False, file: str = FILE) -> Assembler:
    mapped = Mapped("my", "g", "shop", {"items": TABLE}, CHARSETS)
    made = Assembler(mapped, Start(Token(file, 4, SERVER, ""), by_gtid=True), resume)
    made.decode_echoes = echoes
    return made


def read(log: Log, resume: int = 0, *, echoes: bool = False, each: int = 1000) -> list[LogEvent]:
    """Everything in a log, drained after so many events."""
    made = assembler(resume, echoes=echoes)
    found: list[LogEvent] = []
    for i, event in enumerate(log.events):
        made.feed(event)
        if i % each == each - 1:
            found += made.drain(partial=True)
    return found + made.drain(partial=False)


def described(log: Log) -> Log:
    log.table(ITEMS, "items", COLUMNS)
    log.table(MARKER, "sync_worker_marker", OWN)
    log.table(WATERMARK, "sync_worker_watermark", MARKS)
    log.table(STRANGER, "stranger", COLUMNS)
    return log


def rows_of(events: Iterable[LogEvent]) -> list[dict[str, Any]]:
    rows = [r for e in events if isinstance(e, Changes) for t in e.tables for r in t.rows.to_pylist()]
    assert [order(r) for r in rows] == sorted({order(r) for r in rows})
    return rows


def order(row: dict[str, Any]) -> int:
    return order_of(row["_hi"], row["_lo"])


def marker(seq: int, group: str = "g", shard: int = 0) -> Row:
    made = Marker(group, shard, 1, 3, seq)
    return (group, shard, 1, 3, seq, made.state(), b"\x0a\xff")


def item(ident: int, *rest: Any) -> Row:
    return (ident, *rest, *[None] * (len(COLUMNS) - 1 - len(rest)))
