"""pgoutput without a server: messages are built here byte by byte, and read back as rows."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.change import Changes, Echo, LogEvent, Op, SchemaChange, Watermark
from replication.engines.postgres.decode import FEW
from replication.engines.postgres.rows import BLOCK
from replication.engines.postgres.transactions import Assembler, Mapped
from replication.errors import SchemaChanged
from replication.key import encode_key
from replication.marker import Marker
from replication.position import order_of
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

INT8, TEXT, JSONB = 20, 25, 3802
UNCHANGED = object()
ITEMS, MARKER, WATERMARK, STRANGER = 1, 2, 3, 4
COLUMNS = (("id", INT8), ("name", TEXT), ("unmapped", TEXT), ("doc", JSONB))
OWN = (
    ("grp", TEXT),
    ("shard", 23),
    ("shards", 23),
    ("epoch", INT8),
    ("seq", INT8),
    ("state", TEXT),
    ("versions", 17),
)
TABLE = Table(
    TableMapping("items", ("id",), {"pg": "public.items"}, exclude=frozenset({"unmapped"})),
    TableSchema(
        "items",
        (
            Column("id", CanonicalType(Kind.INT64), nullable=False),
            Column("doc", CanonicalType(Kind.JSON)),
            Column("name", CanonicalType(Kind.TEXT)),
        ),
        ("id",),
    ),
)
Values = tuple[Any, ...]


def wal(payload: bytes) -> bytes:
    return b"w" + bytes(24) + payload


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def relation(oid: int, name: str, columns: Iterable[tuple[str, int]], identity: str = "d") -> bytes:
    schema, table = name.split(".")
    parts = [struct.pack(">cI", b"R", oid), text(schema), text(table), identity.encode()]
    listed = list(columns)
    parts.append(struct.pack(">H", len(listed)))
    parts += [
        struct.pack(">B", n == 0) + text(c) + struct.pack(">Ii", t, -1) for n, (c, t) in enumerate(listed)
    ]
    return wal(b"".join(parts))


def tuple_of(values: Values) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            data = str(value).encode()
            parts.append(b"t" + struct.pack(">I", len(data)) + data)
    return b"".join(parts)


def insert(oid: int, new: Values) -> bytes:
    return wal(struct.pack(">cI", b"I", oid) + b"N" + tuple_of(new))


def update(oid: int, new: Values, old: Values | None = None, kind: bytes = b"O") -> bytes:
    before = b"" if old is None else kind + tuple_of(old)
    return wal(struct.pack(">cI", b"U", oid) + before + b"N" + tuple_of(new))


def delete(oid: int, old: Values, kind: bytes = b"K") -> bytes:
    return wal(struct.pack(">cI", b"D", oid) + kind + tuple_of(old))


def truncate(*oids: int) -> bytes:
    return wal(struct.pack(f">cIB{len(oids)}I", b"T", len(oids), 0, *oids))


def begin(lsn: int, ts: int = 0) -> bytes:
    return wal(struct.pack(">cQqI", b"B", lsn, ts, 7))


def commit(lsn: int) -> bytes:
    return wal(struct.pack(">cBQQq", b"C", 0, lsn, lsn + 8, 0))


def marker(seq: int, group: str = "g", shard: int = 0) -> bytes:
    made = Marker(group, shard, 1, 3, seq)
    return update(MARKER, (group, shard, 1, 3, seq, made.state(), "\\x0aff"))


SETUP = [
    relation(ITEMS, "public.items", COLUMNS),
    relation(MARKER, "sync_worker.marker", OWN),
    relation(WATERMARK, "sync_worker.watermark", (*OWN[:1], ("ident", TEXT))),
    relation(STRANGER, "public.stranger", COLUMNS),
]


def assembler(resume: int = 0, *, echoes: bool = False) -> Assembler:
    made = Assembler(Mapped("pg", "g", {"public.items": TABLE}, {}), resume)
    made.decode_echoes = echoes
    return made


def read(messages: list[bytes], resume: int = 0, *, echoes: bool = False) -> list[LogEvent]:
    return assembler(resume, echoes=echoes).feed([begin(1), *SETUP, commit(1), *messages])


def rows_of(events: Iterable[LogEvent]) -> list[dict[str, Any]]:
    return [r for e in events if isinstance(e, Changes) for t in e.tables for r in t.rows.to_pylist()]


@dataclass(frozen=True)
class Expected:
    """A row as a decoder that goes byte by byte would give it."""

    op: Op
    order: int
    values: Values
    have: frozenset[int] | None = None
    changed: frozenset[int] | None = None


def decoded(row: dict[str, Any]) -> Expected:
    return Expected(
        Op(row["_op"]),
        order_of(row["_hi"], row["_lo"]),
        (row["id"], row["doc"], row["name"]),
        indexes(row["_have"]),
        indexes(row["_changed"]),
    )


def indexes(bits: bytes | None) -> frozenset[int] | None:
    return None if bits is None else frozenset(i for i in range(3) if bits[0] >> i & 1)


texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
ids = st.integers(-(2**63), 2**63 - 1)
rows = st.tuples(ids, texts, texts, st.none() | st.sampled_from(["{}", '{"a": "long enough to be a view"}']))


@st.composite
def changes(draw: st.DrawFn, lsn: int, index: int) -> tuple[bytes, list[Expected]]:
    """One message for `items`, and the rows it should give."""
    at = order_of(lsn, index * 2 + 1)
    new = draw(rows)
    kind = draw(st.sampled_from(["insert", "update", "moved", "full", "delete", "deleted full"]))
    canonical = (new[0], new[3], new[1])
    if kind == "insert":
        return insert(ITEMS, new), [Expected(Op.INSERT, at, canonical)]
    if kind == "update":
        sent = (
            new[0],
            draw(st.sampled_from([new[1], UNCHANGED])),
            new[2],
            draw(st.sampled_from([new[3], UNCHANGED])),
        )
        shown = tuple(None if v is UNCHANGED else v for v in (sent[0], sent[3], sent[1]))
        have = frozenset(i for i, v in enumerate((sent[0], sent[3], sent[1])) if v is not UNCHANGED)
        return update(ITEMS, sent), [Expected(Op.UPDATE, at, shown, None if len(have) == 3 else have)]
    old = draw(rows)
    if kind.startswith("delete"):
        sent = old if kind == "deleted full" else (old[0], None, None, None)
        message = delete(ITEMS, sent, b"O" if kind == "deleted full" else b"K")
        return message, [Expected(Op.DELETE, at, (old[0], None, None))]
    moved = [Expected(Op.DELETE, at - 1, (old[0], None, None)), Expected(Op.INSERT, at, canonical)]
    if kind == "moved":
        if old[0] == new[0]:
            return update(ITEMS, new), [Expected(Op.UPDATE, at, canonical)]
        return update(ITEMS, new, (old[0], None, None, None), b"K"), moved
    if draw(st.booleans()):
        old = (new[0], *old[1:])
    sent = (new[0], new[1], UNCHANGED, draw(st.sampled_from([new[3], UNCHANGED])))
    doc = old[3] if sent[3] is UNCHANGED else new[3]
    message = update(ITEMS, sent, old)
    if old[0] != new[0]:
        return message, [moved[0], Expected(Op.INSERT, at, (new[0], doc, new[1]))]
    differ = frozenset([1] * (doc != old[3]) + [2] * (new[1] != old[1]))
    return message, [Expected(Op.UPDATE, at, (new[0], doc, new[1]), None, differ)]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[bytes], list[Expected], list[tuple[str, int]]]:
    """Transactions of applications, of strangers and of ours; rows, and what else, in order."""
    messages: list[bytes] = []
    expected: list[Expected] = []
    notices: list[tuple[str, int]] = []
    for number in range(draw(st.integers(1, 5))):
        lsn = 100 + number * 16
        messages.append(begin(lsn, number))
        echo = draw(st.booleans())
        index = 0
        if echo:
            index += 1
            messages.append(marker(number))
            notices.append(("echo", number))
        for _ in range(draw(st.integers(0, 4))):
            index += 1
            kind = draw(st.sampled_from(["row", "row", "row", "stranger", "watermark", "truncate"]))
            if kind == "row":
                message, found = draw(changes(lsn, index))
                messages.append(message)
                expected += [] if echo else found
            elif kind == "stranger":
                messages.append(insert(STRANGER, (1, "x", "y", "{}")))
            elif kind == "watermark":
                messages.append(insert(WATERMARK, (draw(st.sampled_from(["g", "other"])), f"{lsn} {index}")))
                if not echo and messages[-1].find(b"other") < 0:
                    notices.append(("watermark", order_of(lsn, index * 2 + 1)))
            else:
                messages.append(truncate(STRANGER, ITEMS))
                notices += [] if echo else [("truncate", order_of(lsn, index * 2 + 1))]
        messages.append(commit(lsn))
    return messages, expected, notices


def notices_of(events: Iterable[LogEvent]) -> list[tuple[str, int]]:
    found = []
    for event in events:
        if isinstance(event, Echo):
            found.append(("echo", event.marker.seq))
        elif isinstance(event, Watermark):
            found.append(("watermark", event.end.order))
        elif isinstance(event, SchemaChange):
            found.append((event.what, event.end.order))
    return found


@given(logs())
def test_columns_read_what_a_byte_by_byte_reader_would(log: Any) -> None:
    messages, expected, notices = log
    events = read(messages)
    assert [decoded(r) for r in rows_of(events)] == expected
    assert notices_of(events) == notices
    assert all(r["_key"] == encode_key([r["id"]], [Kind.INT64]) for r in rows_of(events))
    ends = [e.end.order for e in events]
    assert ends == sorted(ends)


@given(logs())
def test_few_rows_are_read_as_among_many(log: Any) -> None:
    messages, expected, _ = log
    others = [update(ITEMS, (n, "a", None, "{}"), (n, "b", None, UNCHANGED)) for n in range(FEW)]
    few = rows_of(read(messages))
    many = rows_of(read([*messages, begin(1 << 20), *others, commit(1 << 20)]))
    assert many[: len(few)] == few
    assert [decoded(r) for r in few] == expected
    assert len(many) == len(few) + FEW


def test_more_rows_than_one_step_decodes() -> None:
    messages = [
        update(ITEMS, (n, f"name {n}", None, "{}"), (n - n % 2, None, None, None)) for n in range(BLOCK + 3)
    ]
    found = [decoded(r) for r in rows_of(read([begin(10), *messages, commit(10)]))]
    orders = [order_of(10, (n + 1) * 2 + row) for n in range(BLOCK + 3) for row in range(1 - n % 2, 2)]
    assert [f.order for f in found] == orders
    assert [f.values for f in found if f.op != Op.DELETE] == [
        (n, "{}", f"name {n}") for n in range(BLOCK + 3)
    ]


@given(logs(), st.data())
def test_any_cut_of_the_messages_gives_the_same(log: Any, data: st.DataObject) -> None:
    messages, expected, notices = log
    made = assembler()
    made.feed([begin(1), *SETUP, commit(1)])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)))))
    events = [
        e for a, b in zip([0, *cuts], [*cuts, len(messages)], strict=True) for e in made.feed(messages[a:b])
    ]
    assert [decoded(r) for r in rows_of(events)] == expected
    assert notices_of(events) == notices
    assert not made.inside


@given(logs(), st.data())
def test_resuming_at_any_row_gives_exactly_the_rest(log: Any, data: st.DataObject) -> None:
    messages, expected, _ = log
    resume = data.draw(st.sampled_from([e.order for e in expected] or [0]))
    assert [decoded(r) for r in rows_of(read(messages, resume))] == [e for e in expected if e.order > resume]


@given(logs())
def test_resuming_at_any_event_gives_exactly_the_later_ones(log: Any) -> None:
    messages, expected, _ = log
    events = read(messages)
    for n, event in enumerate(events):
        again = read(messages, event.end.order)
        assert notices_of(again) == notices_of(e for e in events[n + 1 :] if e.end.order > event.end.order)
        assert [decoded(r) for r in rows_of(again)] == [e for e in expected if e.order > event.end.order]


def test_echoes_are_decoded_on_request() -> None:
    messages = [
        begin(10),
        marker(5),
        insert(ITEMS, (1, "a", None, "{}")),
        delete(ITEMS, (2, None, None, None)),
        commit(10),
    ]
    (echo,) = read(messages, echoes=True)
    assert isinstance(echo, Echo)
    assert (echo.marker.seq, echo.marker.versions) == (5, b"\x0a\xff")
    assert echo.end.order == order_of(10, 7)
    assert echo.end.token == "0/12"
    assert [decoded(r).values for t in echo.rows for r in t.rows.to_pylist()] == [
        (1, "{}", "a"),
        (2, None, None),
    ]
    (plain,) = read(messages)
    assert isinstance(plain, Echo)
    assert (plain.marker, plain.end, plain.rows) == (echo.marker, echo.end, ())


def test_another_groups_marker_and_a_raised_epoch_are_no_echo() -> None:
    for first in (marker(1, group="other"), marker(1, shard=-1)):
        (changes_,) = read([begin(10), first, insert(ITEMS, (1, "a", None, None)), commit(10)])
        assert isinstance(changes_, Changes)


def test_a_marker_that_is_not_first_makes_no_echo() -> None:
    events = read([begin(10), insert(ITEMS, (1, "a", None, None)), marker(1), commit(10)])
    assert [type(e) for e in events] == [Changes]


def test_positions_inside_and_after_a_transaction() -> None:
    made = assembler()
    made.feed([begin(1), *SETUP, commit(1)])
    (part,) = made.feed([begin(0x50), insert(ITEMS, (1, "a", None, None))])
    assert (part.end.order, part.end.token) == (order_of(0x50, 3), "0/50")
    assert made.inside
    (rest,) = made.feed([insert(ITEMS, (2, "b", None, None)), commit(0x50)])
    assert (rest.end.order, rest.end.token) == (order_of(0x50, 5), "0/58")
    assert made.end_lsn == 0x58


def test_skipped_echoes_are_bounded() -> None:
    made = assembler()
    made.feed([begin(1), *SETUP, commit(1)])
    assert made.feed([begin(0x50), marker(1)]) == []
    assert made.skipping
    for i in range(3):
        assert made.feed([insert(ITEMS, (i, "a", None, None))]) == []
    (echo,) = made.feed([commit(0x50)])
    assert echo.end.order == order_of(0x50, 9)


def test_layout_changes_between_rows() -> None:
    reordered = relation(ITEMS, "public.items", [*reversed(COLUMNS), ("added", TEXT)])
    messages = [
        begin(10),
        insert(ITEMS, (1, "a", None, "{}")),
        reordered,
        insert(ITEMS, ("[]", None, "b", 2, "new")),
        commit(10),
    ]
    assert [decoded(r).values for r in rows_of(read(messages))] == [(1, "{}", "a"), (2, "[]", "b")]


def test_a_value_of_another_type_stops_after_what_was_before() -> None:
    messages = [begin(10), insert(ITEMS, (1, "a", None, "{}")), commit(10)]
    made = assembler()
    made.feed([begin(1), *SETUP, commit(1)])
    assert len(made.feed(messages)) == 1
    made.feed([begin(20), relation(ITEMS, "public.items", COLUMNS), commit(20)])
    with pytest.raises(SchemaChanged, match=r"items\.id is no int64"):
        made.feed([begin(30), insert(ITEMS, ("x", "a", None, "{}")), commit(30)])
    with pytest.raises(SchemaChanged):
        made.feed([])
