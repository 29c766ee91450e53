"""What we wrote ourselves is recognised in the log, and never taken for a change."""

from __future__ import annotations

from contextlib import closing

from replication.change import Changes, Echo, Op, SchemaChange
from replication.position import Position
from tests.conformance.samples import item
from tests.conformance.tools import INITIAL, OTHER, Peer, Write, changes_in, events_of, rows_of
from tests.fixtures.engines import NODE, EngineHarness


def test_an_apply_comes_back_as_its_marker(harness: EngineHarness, peer: Peer) -> None:
    batch = peer.batch(
        Write("items", (1,), item(1)),
        Write("words", ("a",), {"meaning": "b"}),
        resume={NODE: Position(3, "token"), OTHER: Position(1 << 95, "0/ABC'\"")},
        absorbed={NODE: {OTHER: 1 << 90}, OTHER: {}},
        echoed={NODE: 1, OTHER: 2},
        versions=bytes(range(256)),
    )
    peer.applier.apply(batch)
    events = peer.read()
    (echo,) = events_of(events, Echo)
    assert echo.marker == batch.marker
    assert list(echo.rows) == []
    assert changes_in(events, harness) == []


def test_a_batch_without_rows_has_an_echo(harness: EngineHarness, peer: Peer) -> None:
    peer.apply()
    peer.apply(Write("items", (1,), None))
    assert [e.marker.seq for e in events_of(peer.read(), Echo)] == [1, 2]


def test_echoes_are_decoded_on_request(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1) | {"secret": "top"})
    harness.insert("items", item(2))
    peer.apply(
        Write("items", (1,), {"qty": 77}),
        Write("items", (2,)),
        Write("items", (3,), item(3)),
        Write("pairs", (4, "ü"), {"value": "v"}),
    )
    (echo,) = events_of(peer.read(echoes=True), Echo)
    rows = rows_of(echo.rows, harness)
    assert sorted((r.table, r.key, r.op is Op.DELETE) for r in rows) == [
        ("items", (1,), False),
        ("items", (2,), True),
        ("items", (3,), False),
        ("pairs", (4, "ü"), False),
    ]
    by_key = {r.key: r for r in rows}
    assert by_key[1,].row == item(1, qty=77)
    assert by_key[2,].row == {"id": 2}
    assert by_key[3,].row == item(3)
    assert by_key[4, "ü"].row == {"num": 4, "code": "ü", "value": "v"}
    assert max(r.order for r in rows) <= echo.end.order


def test_decoding_can_be_switched_while_running(harness: EngineHarness, peer: Peer) -> None:
    with closing(peer.source()) as source:
        peer.apply(Write("items", (1,), item(1)))
        (off,) = events_of(peer.drain(source), Echo)
        source.decode_echoes = True
        peer.apply(Write("items", (2,), item(2)))
        (on,) = events_of(peer.drain(source), Echo)
        source.decode_echoes = False
        peer.apply(Write("items", (3,), item(3)))
        (off_again,) = events_of(peer.drain(source), Echo)
    assert list(off.rows) == list(off_again.rows) == []
    assert [r.key for r in rows_of(on.rows, harness)] == [(2,)]


def test_applications_are_heard_right_before_and_after_an_echo(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    peer.apply(Write("items", (1,), item(1, qty=5)), Write("items", (2,), item(2)))
    harness.update("items", (2,), {"qty": 9})
    peer.apply(Write("items", (2,)))
    peer.apply(Write("items", (1,)))
    harness.insert("items", item(2, qty=10))
    events = peer.read()
    story: list[object] = []
    for event in events:
        if isinstance(event, Echo):
            story.append(event.marker.seq)
        elif isinstance(event, Changes):
            story += [(r.key, r.row["qty"]) for r in rows_of(event.tables, harness)]
    assert story == [((1,), 1), 1, ((2,), 9), 2, 3, ((2,), 10)]
    ends = [e.end.order for e in events]
    assert ends == sorted(ends)


def test_resuming_around_an_echo(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    peer.apply(*(Write("items", (ident,), item(ident)) for ident in range(10, 20)))
    harness.insert("items", item(2))
    events = peer.read()
    (echo,) = events_of(events, Echo)
    assert len(events_of(events, Changes)) == 2
    before = events_of(events, Changes)[0].end
    assert [e.marker for e in events_of(peer.read(before), Echo)] == [echo.marker]
    after = peer.read(echo.end)
    assert events_of(after, Echo) == []
    assert [c.key for c in changes_in(after, harness)] == [(2,)]


def test_each_shard_has_its_own_marker(harness: EngineHarness, peer: Peer) -> None:
    markers = peer.control.raise_epoch(2, 1, INITIAL)
    for marker in (*markers, *markers):
        batch = peer.batch(
            Write("items", (marker.shard,), item(marker.shard)),
            shard=marker.shard,
            shards=2,
            epoch=marker.epoch,
            seq=marker.seq + 1,
            after=marker.seq,
        )
        peer.applier.apply(batch)
    echoes = events_of(peer.read(), Echo)
    found = [(e.marker.shard, e.marker.seq) for e in echoes if e.marker.seq]
    assert found == [(0, 1), (1, 1)]


def test_own_tables_stay_home(harness: EngineHarness, peer: Peer) -> None:
    peer.control.put_state("progress", '{"chunk": 1}')
    peer.snapshot.write_watermark("low")
    peer.control.raise_epoch(2, 5, INITIAL)
    peer.control.put_state("progress", '{"chunk": 2}')
    events = peer.read()
    assert changes_in(events, harness) == []
    assert events_of(events, SchemaChange) == []
