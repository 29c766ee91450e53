"""The binlog without a server: events are built here byte by byte, and read back as rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.constants import FIELD_TYPE

from replication.change import Changes, Echo, Op, SchemaChange, Watermark
from replication.engines.mysql.position import Token
from replication.engines.mysql.rows import BLOCK
from replication.engines.mysql.stream import Packets
from replication.key import encode_key
from replication.types import Kind
from tests.unit.binlog import FILE, SERVER, Column, Log
from tests.unit.binlog_reader import (
    COLUMNS,
    ITEMS,
    MARKER,
    MARKS,
    NAMES,
    OWN,
    STRANGER,
    WATERMARK,
    Row,
    described,
    item,
    marker,
    order,
    read,
    rows_of,
)


def test_rows_of_every_kind() -> None:
    log = Log()
    log.begin(1, ts=77)
    described(log)
    full = (1, "ü", "x" * 300, "-12.50000000001", 0.1, 2**64 - 1, "", -2, b"\x02")
    log.insert(ITEMS, COLUMNS, full, item(2))
    log.update(ITEMS, COLUMNS, full, (*full[:1], "v", *full[2:]), item(2), item(3, "w"))
    log.delete(ITEMS, COLUMNS, item(3, "w"))
    log.xid()
    (changes,) = read(log)
    assert isinstance(changes, Changes)
    rows = rows_of([changes])
    values = {
        "note": "",
        "id": 1,
        "name": "ü",
        "price": "-12.50000000001",
        "ratio": 0.1,
        "big": str(2**64 - 1),
    }
    assert {k: rows[0][k] for k in (*values, "tiny", "pick")} == values | {"tiny": -2, "pick": "ü"}
    assert {rows[1][n] for n in NAMES} == {2, None}
    assert [(Op(r["_op"]).name, r["id"], r["name"]) for r in rows[2:]] == [
        ("UPDATE", 1, "v"), ("DELETE", 2, None), ("INSERT", 3, "w"), ("DELETE", 3, None),
    ]  # fmt: skip
    assert [r["_changed"] for r in rows] == [None, None, b"\x04", None, None, None]
    assert {r["_ts"] for r in rows} == {77}
    assert [r["_key"] for r in rows] == [encode_key([r["id"]], [Kind.INT64]) for r in rows]
    token = Token.unpack(changes.end.token)
    assert (token.file, token.offset, token.gtids) == (FILE, log.at, f"{SERVER}:1")


def spelled(number: int, scale: int) -> str:
    """A number with so many digits after the point."""
    digits = str(abs(number)).zfill(scale + 1)
    point = len(digits) - scale
    return ("-" if number < 0 else "") + digits[:point] + (f".{digits[point:]}" if scale else "")


VALUES = st.tuples(
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.none() | st.text(max_size=3, alphabet="ab"),
    st.none() | st.integers(-(10**30) + 1, 10**30 - 1).map(lambda n: spelled(n, 11)),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | st.text(max_size=30, alphabet="xyzß"),
    st.none() | st.integers(-(2**23), 2**23 - 1),
    st.none() | st.sampled_from([0, 1, 2]).map(lambda n: bytes([n])),
)


@dataclass(frozen=True)
class Write:
    kind: str
    before: Row
    after: Row


def writes() -> st.SearchStrategy[list[list[Write]]]:
    row = st.tuples(st.integers(-(2**63), 2**63 - 1), VALUES).map(lambda r: (r[0], *r[1]))
    write = st.builds(Write, st.sampled_from(["insert", "update", "delete"]), row, row)
    small = st.builds(
        lambda w, same: Write(w.kind, w.before, (w.before[0], *w.after[1:]) if same else w.after),
        write,
        st.booleans(),
    )
    return st.lists(st.lists(small, min_size=1, max_size=6), max_size=6)


def expected(write: Write) -> list[tuple[Op, Row, bytes | None]]:
    """What a reader that goes value by value would make of it: operation, values by name, what changed."""
    if write.kind == "insert":
        return [(Op.INSERT, shown(write.after), None)]
    if write.kind == "delete":
        return [(Op.DELETE, only_key(write.before), None)]
    old, new = shown(write.before), shown(write.after)
    if old[1] != new[1]:
        return [(Op.DELETE, only_key(write.before), None), (Op.INSERT, new, None)]
    differ = (not same(a, b) for a, b in zip(old, new, strict=True))
    return [(Op.UPDATE, new, bytes([sum(1 << i for i, d in enumerate(differ) if d)]))]


def same(a: Any, b: Any) -> bool:
    return bool(a == b) and str(a) == str(b)  # 0.0 and -0.0 have other bytes


def shown(row: Row) -> Row:
    values = dict(zip((c.name for c in COLUMNS), row, strict=True))
    values["big"] = None if values["big"] is None else str(values["big"])
    values["pick"] = None if values["pick"] is None else ("", "a", "ü")[values["pick"][0]]
    return tuple(values[n] for n in NAMES)


def only_key(row: Row) -> Row:
    return tuple(row[0] if n == "id" else None for n in NAMES)


@given(writes(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_rows_are_what_a_reader_value_by_value_makes_of_them(
    transactions: list[list[Write]], each: int, shuffle: random.Random
) -> None:
    log, wanted = Log(), []
    for number, transaction in enumerate(transactions, 1):
        log.begin(number)
        described(log)
        for kind, group in grouped(transaction):
            images = [r for w in group for r in ((w.before, w.after) if kind == "update" else (w.after,))]
            if kind == "delete":
                images = [w.before for w in group]
            getattr(log, kind)(ITEMS, COLUMNS, *images)
            wanted += [e for w in group for e in expected(w)]
        log.xid()
    rows = rows_of(read(log, each=each))
    found = [(Op(r["_op"]), tuple(r[n] for n in NAMES), r["_changed"]) for r in rows]
    assert found == wanted
    for row in shuffle.sample(rows, min(3, len(rows))):
        rest = [r for r in rows if order(r) > order(row)]
        assert rows_of(read(log, order(row), each=each)) == rest


def grouped(transaction: Sequence[Write]) -> list[tuple[str, list[Write]]]:
    """Writes of one kind in a row share an event."""
    groups: list[tuple[str, list[Write]]] = []
    for write in transaction:
        if not groups or groups[-1][0] != write.kind:
            groups.append((write.kind, []))
        groups[-1][1].append(write)
    return groups


def test_more_rows_than_a_block() -> None:
    log = Log()
    log.begin(1)
    described(log)
    for first in range(0, 3 * BLOCK, 1000):
        log.insert(ITEMS, COLUMNS, *(item(i, f"n{i}") for i in range(first, first + 1000)))
    log.xid()
    rows = rows_of(read(log))
    assert [(r["id"], r["name"]) for r in rows] == [
        (i, f"n{i}") for i in range(3 * BLOCK // 1000 * 1000 + 1000)
    ]


def test_echoes_watermarks_and_truncates_cut_in_their_place() -> None:
    log = Log()
    for number, writes_ in enumerate(
        [
            lambda: log.insert(ITEMS, COLUMNS, item(1)),
            lambda: (log.update(MARKER, OWN, marker(1), marker(2)), log.insert(ITEMS, COLUMNS, item(2))),
            lambda: log.insert(ITEMS, COLUMNS, item(3)),
            lambda: log.update(WATERMARK, MARKS, ("g", "old", 1), ("g", "new", 2)),
            lambda: (log.insert(STRANGER, COLUMNS, item(9)), log.insert(ITEMS, COLUMNS, item(4))),
            lambda: (log.insert(MARKER, OWN, marker(3, "other")), log.insert(ITEMS, COLUMNS, item(5))),
            lambda: (log.insert(ITEMS, COLUMNS, item(6)), log.update(MARKER, OWN, marker(3), marker(4))),
        ],
        1,
    ):
        log.begin(number)
        described(log)
        writes_()
        log.xid()
    log.gtid(8)
    log.query("TRUNCATE TABLE items")
    for echoes in (False, True):
        events = read(log, echoes=echoes)
        assert [type(e).__name__ for e in events] == [
            "Changes", "Echo", "Changes", "Watermark", "Changes", "SchemaChange",
        ]  # fmt: skip
        assert [r["id"] for r in rows_of(events)] == [1, 3, 4, 5, 6]
        echo, watermark = events[1], events[3]
        assert isinstance(echo, Echo)
        assert isinstance(watermark, Watermark)
        assert (echo.marker.seq, echo.marker.versions, watermark.ident) == (2, b"\x0a\xff", "new")
        assert [t.rows.column("id").to_pylist() for t in echo.rows] == ([[2]] if echoes else [])
        for event in events:
            rest = read(log, event.end.order, echoes=echoes)
            assert rest == events[events.index(event) + 1 :]


def test_a_changed_table_is_told_once_and_read_by_its_own_columns() -> None:
    renamed = tuple(Column("other", c.type, c.meta) if c.name == "name" else c for c in COLUMNS)
    log = Log()
    for number, columns in enumerate((COLUMNS, renamed, renamed, COLUMNS), 1):
        log.begin(number)
        log.table(10 + number, "items", columns)
        log.insert(10 + number, columns, item(number, "n"))
        log.xid()
    events = read(log)
    (told,) = (e for e in events if isinstance(e, SchemaChange))
    assert (told.table, told.what, told.detail) == ("items", "alter", "column name is gone")
    rows = rows_of(events)
    assert [r["name"] for r in rows] == ["n", None, None, "n"]
    assert [r["_have"] for r in rows] == [None, b"\xfb", b"\xfb", None]
    assert order(rows[0]) < told.end.order < order(rows[1])


def test_foreign_tables_need_not_be_understood() -> None:
    log = Log()
    log.begin(1)
    described(log)
    log.table(STRANGER, "stranger", (Column("x", 99, b""),))
    log.insert(STRANGER, COLUMNS, item(1))
    log.insert(ITEMS, COLUMNS, item(1))
    log.table(ITEMS, "items", COLUMNS, database="elsewhere")
    log.insert(ITEMS, COLUMNS, item(2))
    log.xid()
    assert [r["id"] for r in rows_of(read(log))] == [1]


@given(st.lists(st.binary(max_size=600), max_size=12), st.integers(1, 300))
def test_packets_come_whole_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    data = b"".join(len(p).to_bytes(3, "little") + bytes([i % 256]) + p for i, p in enumerate(payloads))
    packets = Packets()
    found = [p for at in range(0, len(data), size) for p in packets.feed(data[at : at + size])]
    assert found == payloads


def test_a_packet_of_several_parts() -> None:
    largest = (1 << 24) - 1
    for payload in (b"x" * largest, b"y" * (2 * largest + 7)):
        parts = [payload[at : at + largest] for at in range(0, len(payload) + 1, largest)]
        data = b"".join(len(p).to_bytes(3, "little") + b"\0" + p for p in parts) + b"\1\0\0\0z"
        packets = Packets()
        found = [p for at in range(0, len(data), 1 << 20) for p in packets.feed(data[at : at + (1 << 20)])]
        assert found == [payload, b"z"]


@given(st.integers(1, 65).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, min(p, 30)), st.integers())))
def test_decimals_of_any_shape(shape: tuple[int, int, int]) -> None:
    precision, scale, number = shape
    number %= 10**precision
    column = Column("price", FIELD_TYPE.NEWDECIMAL, bytes([precision, scale]))
    columns = (COLUMNS[0], column)
    log = Log()
    log.begin(1)
    log.table(ITEMS, "items", columns)
    values = [spelled(n, scale) for n in (number, -number, 0, 1, 10**precision - 1)]
    log.insert(ITEMS, columns, *enumerate(values))
    log.xid()
    found = [r["price"] for e in read(log) if isinstance(e, Changes) for r in rows_of([e])]
    assert found == values
