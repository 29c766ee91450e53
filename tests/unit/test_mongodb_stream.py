"""What becomes of recorded change-stream events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.timestamp import Timestamp

from replication.change import Changes, Echo, Progress, SchemaChange, Unreadable, Watermark
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.marker import to_document
from replication.engines.mongodb.position import Counter, pack_token, token_time, unpack_token
from replication.engines.mongodb.stream import StreamDecoder
from replication.errors import SchemaChanged, Terminal
from replication.marker import Marker
from replication.position import START, Position, order_of, split_order
from replication.schema import NodeConfig
from tests.fixtures.mongodb_node import GROUP, NODE, ORDERS, change_rows, of_type

LAYOUT = Layout(ORDERS, NodeConfig(NODE, "mongodb", "mongodb://h/shop"))
HI = (1000 << 32) | 1


def event(
    kind: str, at: int, ident: Any = 1, coll: str = "orders", tx: int | None = None, **more: Any
) -> dict:
    made = {
        "_id": {"_data": f"token-{at}-{ident}-{kind}"},
        "operationType": kind,
        "clusterTime": Timestamp(1000, at),
        "wallTime": DatetimeMS(1_000_000 + at),
        "ns": {"db": "shop", "coll": coll},
    }
    if kind in ("insert", "update", "replace", "delete"):
        made["documentKey"] = {"_id": ident}
    if tx is not None:
        made |= {"lsid": {"id": b"s" * 16}, "txnNumber": tx}
    return made | more


def insert(at: int, ident: Any, tx: int | None = None, **document: Any) -> dict:
    return event("insert", at, ident, tx=tx, fullDocument={"_id": ident, **document})


def marker_event(at: int, tx: int, events: int | None, group: str = GROUP, seq: int = 5) -> dict:
    document = to_document(Marker(group, 0, 1, 1, seq), events)
    return event("replace", at, document["_id"], "sync_worker.marker", tx, fullDocument=document)


def decoder(start: Position = START, *, inclusive: bool = False, echoes: bool = False) -> StreamDecoder:
    made = StreamDecoder(GROUP, [LAYOUT], start, inclusive=inclusive)
    made.decode_echoes = echoes
    return made


def run(events: Sequence[dict], made: StreamDecoder | None = None) -> list:
    made = made or decoder()
    for one in events:
        made.feed(one)
    return made.drain()


TRANSACTION = [insert(1, 1), insert(2, 2, tx=9), insert(2, 3, tx=9), insert(2, 4, tx=9), insert(5, 5)]


def test_orders_count_the_events_of_a_cluster_time() -> None:
    rows = change_rows(run(TRANSACTION))
    assert [(row["_hi"] & 0xFF, row["_lo"]) for row in rows] == [(1, 1), (2, 1), (2, 2), (2, 3), (5, 1)]


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("place", range(5))
def test_orders_are_the_same_when_reading_resumes_in_a_transaction(place: int, by_token: bool) -> None:
    whole = change_rows(run(TRANSACTION))
    order = order_of(whole[place]["_hi"], whole[place]["_lo"])
    start = Position(order, "token" if by_token else "")
    seconds = TRANSACTION[place]["clusterTime"]
    again = TRANSACTION[place + 1 :] if by_token else [e for e in TRANSACTION if e["clusterTime"] >= seconds]
    assert change_rows(run(again, decoder(start, inclusive=not by_token))) == whole[place + 1 :]


def test_orders_never_fall_although_cluster_times_do() -> None:
    counter = Counter(START)
    orders = [counter.next(Timestamp(10, at)) for at in (5, 7, 6, 7, 8)]
    assert orders == sorted(set(orders))
    assert [split_order(o) for o in orders[1:4]] == [((10 << 32) | 7, n) for n in (1, 2, 3)]


def test_an_echo_comes_out_when_its_last_event_has_been_seen() -> None:
    made = decoder()
    for one in (insert(1, 1), marker_event(2, 9, 2), insert(2, 2, tx=9)):
        made.feed(one)
    first = made.drain()
    assert [type(e) for e in first] == [Changes]
    assert made.drain() == []
    made.feed(insert(2, 3, tx=9))
    (echo,) = made.drain()
    assert isinstance(echo, Echo)
    assert (echo.marker.seq, echo.rows, split_order(echo.end.order)[1]) == (5, [], 3)
    assert echo.end.token == "token-2-3-insert"


def test_decoded_echoes_hold_their_rows() -> None:
    (echo,) = run(
        [marker_event(2, 9, 2), insert(2, 2, tx=9, qty=4), event("delete", 2, 3, tx=9)], decoder(echoes=True)
    )
    (rows,) = echo.rows
    assert rows.table == "orders"
    assert [(r["_op"], r["id"], r["qty"]) for r in rows.rows.to_pylist()] == [(1, 2, 4), (3, 3, None)]


def test_an_echo_short_of_events_ends_with_the_next_transaction() -> None:
    """One of its tables is no longer mapped, so the stream does not show all it wrote."""
    events = run([marker_event(2, 9, 3), insert(2, 2, tx=9), insert(3, 7, tx=10)])
    assert [type(e) for e in events] == [Echo, Changes]
    assert events[0].end.token == "token-2-2-insert"  # behind all that the stream shows of it
    assert [r["id"] for r in change_rows(events)] == [7]


@pytest.mark.parametrize("tokens", [["8200000400000000FF"], ["opaque", "opaque"]])
def test_an_echo_short_of_events_ends_when_the_stream_is_past_it(tokens: list[str]) -> None:
    made = decoder()
    for one in (marker_event(2, 9, 3), insert(2, 2, tx=9)):
        made.feed(one)
    for token in tokens:
        assert made.drain() == []
        made.idle({"_data": token})
    (echo, *_) = made.drain()
    assert isinstance(echo, Echo)
    assert echo.end.token == "token-2-2-insert"


def test_other_groups_markers_and_raised_epochs_are_no_echo() -> None:
    events = run([marker_event(2, 9, 1, group="other"), insert(2, 2, tx=9)])
    assert [type(e) for e in events] == [Changes]
    made = decoder()
    assert [type(e) for e in run([marker_event(3, 10, None)], made)] == [Progress]


def test_an_application_in_the_same_session_is_no_echo() -> None:
    events = run([marker_event(2, 9, 0), insert(3, 2, tx=10), insert(4, 3)])
    assert [type(e) for e in events] == [Echo, Changes]
    assert [r["id"] for r in change_rows(events)] == [2, 3]


def test_watermarks_keep_their_place_among_changes() -> None:
    mark = event("replace", 2, GROUP, "sync_worker.watermark", fullDocument={"_id": GROUP, "ident": "low"})
    foreign = event("insert", 3, "x", "sync_worker.watermark", fullDocument={"_id": "x", "ident": "other"})
    events = run([insert(1, 1), mark, foreign, insert(4, 2)])
    assert [type(e) for e in events] == [Changes, Watermark, Changes]
    assert events[1].ident == "low"
    ends = [e.end.order for e in events]
    assert ends == sorted(ends)


def test_event_over_16mb() -> None:
    """Fragments, as the server splits an event beyond the BSON limit, become one event again."""
    big = "x" * 100
    update = event(
        "update",
        3,
        updateDescription={"updatedFields": {"tags.0": 9}, "removedFields": []},
        fullDocumentBeforeChange={"_id": 1, "tags": [1, big]},
    )
    parts = [
        {k: update[k] for k in ("_id", "operationType", "clusterTime", "ns", "documentKey")},
        {"fullDocumentBeforeChange": update["fullDocumentBeforeChange"], "wallTime": update["wallTime"]},
        {"updateDescription": update["updateDescription"]},
    ]
    fragments = [
        p | {"_id": {"_data": f"fragment-{i}"}, "splitEvent": {"fragment": i, "of": 3}}
        for i, p in enumerate(parts, 1)
    ]
    made = decoder()
    for fragment in fragments[:2]:
        made.feed(fragment)
        assert made.drain() == []
    made.feed(fragments[2])
    made.feed(insert(4, 2) | {"splitEvent": {"fragment": 1, "of": 1}})
    (changes,) = made.drain()
    first, second = change_rows([changes])
    assert (first["tags"], first["_lo"], second["_lo"]) == (f'[9,"{big}"]', 1, 1)
    resumed = decoder()
    for one in (*fragments, fragments[2]):
        resumed.feed(one)
    (again,) = resumed.drain()
    assert again.end.token == "fragment-3"


def test_an_unreadable_row_is_named_and_the_others_pass() -> None:
    events = run([insert(1, 1), insert(2, 2, qty="many"), insert(3, 3), insert(4, "no key"), insert(5, 5)])
    assert [type(e) for e in events] == [Changes, Unreadable, Changes, Unreadable, Changes]
    assert [r["id"] for r in change_rows(events)] == [1, 3, 5]
    bad = of_type(events, Unreadable)
    assert [(b.table, b.key != b"") for b in bad] == [("orders", True), ("orders", False)]
    assert "qty" in bad[0].reason
    assert "many" in bad[0].reason
    ends = [e.end.order for e in events]
    assert ends == sorted(ends)


def test_what_changed_is_told_column_by_column() -> None:
    before = {"_id": 1, "qty": 1, "address": {"city": "Ulm", "zip": 1}, "tags": {"a": 1}}
    update = event(
        "update",
        1,
        fullDocumentBeforeChange=before,
        updateDescription={"updatedFields": {"address.zip": 2, "tags.a": 1.0, "qty": 2}, "removedFields": []},
    )
    same = event("replace", 2, fullDocumentBeforeChange=before, fullDocument=dict(before))
    changed, unchanged = change_rows(run([update, same]))
    assert changed["_changed"] == bytes([0b01010])
    assert changed["_have"] is None
    assert unchanged["_changed"] == bytes([0])


def test_without_a_before_image_only_what_is_known_is_sent() -> None:
    description = {"updatedFields": {"address.city": "Ulm"}, "removedFields": ["qty"]}
    (row,) = change_rows(run([event("update", 1, updateDescription=description)]))
    assert row["_have"] == bytes([0b00111])
    assert row["_changed"] == bytes([0b00110])
    assert (row["id"], row["city"], row["qty"]) == (1, "Ulm", None)


def test_a_hidden_change_inside_a_value_stops_the_node_after_what_came_before() -> None:
    made = decoder()
    hidden = event("update", 2, updateDescription={"updatedFields": {"tags.0": 1}, "removedFields": []})
    events = run([insert(1, 1), hidden, insert(3, 3)], made)
    assert [r["id"] for r in change_rows(events)] == [1]
    for _ in range(2):
        with pytest.raises(Terminal, match="before-image") as caught:
            made.drain()
        assert "pre-images" in caught.value.hint


LOOSE = Layout(
    replace(ORDERS, mapping=replace(ORDERS.mapping, rest="tags", exclude=frozenset({"secret"}))),
    NodeConfig(NODE, "mongodb", "mongodb://h/shop"),
)
"""With the column `tags` for all fields that no other column has a part in."""


def loose() -> StreamDecoder:
    return StreamDecoder(GROUP, [LOOSE], START)


def test_the_rest_of_a_document_is_a_column() -> None:
    before = {"_id": 1, "qty": 1, "address": {"city": "Ulm", "zip": 1}, "x": [1], "secret": 1}
    inside = {"updatedFields": {"x.0": 2, "address.zip": 2, "secret": 2}, "removedFields": []}
    beside = {"updatedFields": {"qty": 2, "address.zip": 3, "secret": 3}, "removedFields": []}
    last = {"updatedFields": {}, "removedFields": ["x"]}
    rows = change_rows(
        run(
            [
                insert(1, 1, qty=1, address={"city": "Ulm"}, x=[1], y=None, secret=1),
                insert(2, 2, qty=1, tags="not the column's own name"),
                event("update", 3, fullDocumentBeforeChange=before, updateDescription=inside),
                event("update", 4, fullDocumentBeforeChange=before, updateDescription=beside),
                event("update", 5, fullDocumentBeforeChange=before, updateDescription=last),
            ],
            loose(),
        )
    )
    texts = [row["tags"] for row in rows]
    assert texts == [
        '{"x":[1],"y":null}', '{"tags":"not the column\'s own name"}', '{"x":[2]}', '{"x":[1]}', None,
    ]  # fmt: skip
    assert [row["_changed"] for row in rows[2:]] == [bytes([0b01000]), bytes([0b00010]), bytes([0b01000])]


def test_the_rest_needs_a_before_image_only_if_it_changed() -> None:
    beside = {"updatedFields": {"qty": 2, "address.zip": 3, "secret": 3}, "removedFields": []}
    (row,) = change_rows(run([event("update", 1, updateDescription=beside)], loose()))
    assert row["_have"] == bytes([0b00011])
    made = loose()
    inside = {"updatedFields": {"x.0": 2}, "removedFields": []}
    made.feed(event("update", 1, updateDescription=inside))
    with pytest.raises(Terminal, match="an update changed x in orders"):
        made.drain()


def test_ddl_is_told_where_it_matters() -> None:
    off = {"changeStreamPreAndPostImages": {"enabled": False}}
    on = {"changeStreamPreAndPostImages": {"enabled": True}}
    events = run(
        [
            event("create", 1),
            event("createIndexes", 2),
            event("modify", 3, operationDescription=on),
            event("modify", 4, operationDescription=off),
            event("rename", 5, to={"db": "shop", "coll": "old_orders"}),
            event("rename", 6, coll="new", to={"db": "shop", "coll": "orders"}),
            event("drop", 7),
            event("drop", 8, coll="other"),
        ]
    )
    changes = of_type(events, SchemaChange)
    assert [(c.table, c.what) for c in changes] == [
        ("orders", "alter"),
        ("orders", "rename"),
        ("orders", "rename"),
        ("orders", "drop"),
    ]


def test_a_dropped_database_stops_the_node() -> None:
    made = decoder()
    events = run([event("dropDatabase", 3, coll="")], made)
    assert [(e.table, e.what) for e in events] == [("orders", "drop")]
    assert made.failed
    with pytest.raises(SchemaChanged):
        made.drain()


def test_an_idle_stream_moves_by_the_time_in_its_token() -> None:
    made = decoder(Position(order_of(HI, 3), "x"))
    made.idle({"_data": "82000003E800000001FF"})
    assert made.drain() == []
    made.idle({"_data": "82000003E80000000AFF"})
    (progress,) = made.drain()
    assert progress == Progress(Position(order_of((1000 << 32) | 10, 0), "82000003E80000000AFF"))
    assert made.drain() == []
    made.idle({"_data": "opaque"})
    assert made.drain() == []


def test_tokens_keep_their_form() -> None:
    plain = {"_data": "82636A9B8C000000022B0429296E1404"}
    assert token_time(plain) == (0x636A9B8C << 32) | 2
    assert pack_token(plain) == plain["_data"]
    bits = {"_data": "82AB", "_typeBits": b"\x40"}
    for token in (plain, bits):
        assert unpack_token(pack_token(token)) == token
    assert token_time(bits) is None


def test_a_document_without_a_late_column_says_nothing_of_it() -> None:
    """It may be older than the column, whose value its node got by another way."""
    layout = Layout(replace(ORDERS, late=frozenset({"qty"})), NodeConfig(NODE, "mongodb", "mongodb://h/shop"))
    made = StreamDecoder(GROUP, [layout], START)
    before = {"_id": 3, "qty": 1}
    events = [
        insert(1, 1),
        insert(2, 2, qty=5),
        event("replace", 3, 3, fullDocument={"_id": 3}, fullDocumentBeforeChange=before),
        event("delete", 4, 1, fullDocumentBeforeChange={"_id": 1}),
    ]
    bit = 1 << ORDERS.schema.index("qty")
    every = (1 << len(ORDERS.schema.columns)) - 1
    masks = [row["_have"] for row in change_rows(run(events, made))]
    assert [every if m is None else int.from_bytes(m, "little") for m in masks] == [
        every & ~bit,
        every,
        every,
        every,
    ]
