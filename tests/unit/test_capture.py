"""Capture: what it makes of changes of the tables themselves, with sinks that only remember."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from actors.capture import ECHO_SECONDS, ECHOES, Ack, Capture
from actors.promptness import Heed
from actors.truncate import deletes
from replication.change import (
    Changes,
    Echo,
    LogEvent,
    Op,
    Progress,
    SchemaChange,
    TableChanges,
    change_schema,
)
from replication.errors import SchemaChanged
from replication.key import encode_key
from replication.marker import Marker
from replication.pacing import CALM, Load
from replication.position import Position
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

SCHEMA = TableSchema(
    "orders",
    (Column("id", CanonicalType(Kind.INT32), nullable=False), Column("name", CanonicalType(Kind.TEXT))),
    ("id",),
)


class Log:
    """A source that gives what it was made with."""

    def __init__(self, events: Sequence[LogEvent]) -> None:
        self.events = list(events)
        self.decode_echoes = False

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        found, self.events = self.events, []
        return found

    def confirm(self, position: Position) -> None:
        pass

    def close(self) -> None:
        pass


class Sink:
    """A shard that remembers what it was fed, with room for so many rows."""

    def __init__(self, room: int = 1000) -> None:
        self.fed: list[LogEvent] = []
        self.room = room
        self.load = CALM

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        self.fed += events
        self.room -= sum(e.rows for e in events if isinstance(e, Changes))
        released, paused = Position(0), self.room <= 0
        return Ack(False, paused, released, epoch=1, room=self.room, load=self.load)

    def orders(self) -> list[int]:
        return [e.end.order for e in self.fed]

    def on_their_way(self, table: str) -> list[bytes]:
        return []


def capture(
    events: Sequence[LogEvent], sinks: Sequence[Sink], on_alter: str = "ignore", on_truncate: str = "halt"
) -> Capture:
    mapping = TableMapping("orders", ("id",), {"pg": "orders"}, on_alter=on_alter, on_truncate=on_truncate)
    table = Table(mapping, SCHEMA)

    def carry(event: SchemaChange) -> TableChanges:
        keys = [encode_key((i,), [Kind.INT32]) for i in range(6)]
        return TableChanges("orders", deletes(table, keys, event))

    return Capture("pg", lambda _: Log(events), sinks, [table], carry)


def rows(order: int, count: int) -> Changes:
    whole = {"_op": 1, "_hi": 0, "_lo": order, "_ts": 0}
    made = [whole | {"_key": encode_key((i,), [Kind.INT32]), "id": i} for i in range(count)]
    batch = pa.RecordBatch.from_pylist(made, schema=change_schema(SCHEMA.arrow))
    return Changes([TableChanges("orders", batch)], Position(order))


def copied(first: int, count: int) -> Changes:
    """Rows of a chunk: each has an order of its own."""
    made = [
        {"_op": int(Op.READ), "_hi": 0, "_lo": first + i, "_ts": 0}
        | {"_key": encode_key((i,), [Kind.INT32]), "id": i}
        for i in range(count)
    ]
    batch = pa.RecordBatch.from_pylist(made, schema=change_schema(SCHEMA.arrow))
    return Changes([TableChanges("orders", batch)], Position(first + count - 1))


def echo(order: int) -> Echo:
    return Echo(Marker("g", 0, 1, 1, order), Position(order))


class Clock:
    """Stands still until the test says otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(order: int) -> Changes:
    empty = change_schema(SCHEMA.arrow).empty_table().to_batches()
    rows = empty[0] if empty else pa.RecordBatch.from_pylist([], schema=change_schema(SCHEMA.arrow))
    return Changes([TableChanges("orders", rows)], Position(order))


def test_shards_get_what_they_have_room_for_and_the_rest_in_its_order_later() -> None:
    sink = Sink(room=25)
    read = [*(rows(order, 10) for order in range(1, 6)), Progress(Position(6)), rows(7, 10)]
    made = capture(read, [sink])
    assert made.step(100, 0)
    assert made.paused
    assert sink.orders() == [1, 2, 3]  # what did not fit into the first two parts went alone
    assert not made.step(100, 0)
    assert sink.orders() == [1, 2, 3]
    sink.room = 25
    made.step(100, 0)  # it only learns that there is room
    made.step(100, 0)
    assert sink.orders() == [1, 2, 3, 4, 5, 6, 7]


def test_copied_rows_are_handed_on_up_to_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.backfill.LEAST_ROWS", 1)
    sink = Sink(room=4)
    made = capture([copied(1, 10), rows(11, 10)], [sink])
    made.step(100, 0)
    assert sink.orders() == [4]
    for _ in range(2):
        sink.room = 20
        made.step(100, 0)
        made.step(100, 0)
    assert sink.orders() == [4, 10, 11]
    assert [e.rows for e in sink.fed if isinstance(e, Changes)] == [4, 6, 10]


def test_nothing_is_read_while_a_part_of_what_was_read_waits() -> None:
    sink = Sink(room=10)
    made = capture([rows(1, 10), rows(2, 10)], [sink])
    made.step(100, 0)
    log = made.source
    assert isinstance(log, Log)
    log.events = [rows(3, 10)]
    sink.room = 10
    for _ in range(4):
        made.step(100, 0)
    assert sink.orders() == [1, 2]
    assert log.events


def test_a_change_waits_until_what_came_before_it_was_taken() -> None:
    sink = Sink(room=10)
    made = capture([rows(1, 10), rows(2, 10), SchemaChange("orders", "drop", "", Position(3))], [sink])
    made.step(100, 0)
    assert sink.orders() == [1]
    sink.room = 100
    made.step(100, 0)
    with pytest.raises(SchemaChanged):
        made.step(100, 0)
    assert sink.orders() == [1, 2]


def test_what_came_before_a_change_is_fed_before_it_stops() -> None:
    sink = Sink()
    made = capture([row(1), SchemaChange("orders", "drop", "DROP TABLE orders", Position(2)), row(3)], [sink])
    with pytest.raises(SchemaChanged, match="orders: DROP TABLE orders") as caught:
        made.step(10, 0)
    assert [e.end.order for e in sink.fed] == [1]
    assert (caught.value.node, caught.value.table, caught.value.position) == ("pg", "orders", 2)
    assert "up --accept orders" in caught.value.hint
    assert not caught.value.fits


def test_a_change_that_is_passed_over_goes_on_record_once() -> None:
    sinks = [Sink(), Sink()]
    change = SchemaChange("orders", "alter", "column a was added", Position(2), fits=True)
    capture([row(1), change, row(3)], sinks).step(10, 0)
    assert [e for e in sinks[0].fed if isinstance(e, SchemaChange)] == [change]
    assert Progress(Position(2)) in sinks[1].fed


def test_a_carried_truncate_is_deletes_in_its_place() -> None:
    sinks = [Sink(), Sink()]
    change = SchemaChange("orders", "truncate", "TRUNCATE orders", Position((7 << 32) + 3), ts=5)
    capture([row(1), change, row(8 << 32)], sinks, on_truncate="carry").step(10, 0)
    found = [e for sink in sinks for e in sink.fed if isinstance(e, Changes) and e.end == change.end]
    rows = [r for e in found for t in e.tables for r in t.rows.to_pylist()]
    assert sorted(r["id"] for r in rows) == list(range(6))
    assert {(r["_op"], r["_hi"], r["_lo"], r["_ts"], r["name"]) for r in rows} == {(3, 7, 3, 5, None)}
    assert [e for e in sinks[0].fed if isinstance(e, SchemaChange)] == [change]


def test_a_truncate_of_a_node_that_is_being_copied_stops() -> None:
    made = capture([SchemaChange("orders", "truncate", "", Position(2))], [Sink()], on_truncate="carry")
    made.begin("run", "orders")
    with pytest.raises(SchemaChanged):
        made.step(10, 0)


def test_a_copy_heeds_the_worst_of_all_shards_and_the_readers_that_it_is_told_of() -> None:
    sinks = [Sink(), Sink()]
    made = capture([], sinks)
    assert made.heed("orders") == Heed()
    for sink, load in zip(sinks, [Load(2.0, "my", 1.0, "my"), Load(1.0, "mongo", 3.0, "mongo")], strict=True):
        sink.load = load
    made.step(100, 0)
    assert made.heed("orders") == Heed(Load(2.0, "my", 3.0, "mongo"))
    assert not made.resize("orders", 4)  # nobody copies it
    made.begin("run", "orders")
    assert not made.resize("orders", 4)  # rows are sent again, by whoever does not ask
    assert made.heed("orders").workers is None
    assert made.resize("orders", 4)
    assert made.heed("orders").workers == 4
    made.begin("run", "orders")  # it goes on from what is durable
    assert made.heed("orders").workers == 4
    made.begin("another", "orders")
    assert made.heed("orders").workers is None
    made.end("orders")
    assert not made.resize("orders", 4)


@pytest.fixture
def quiet() -> tuple[Capture, Log, Sink, Clock]:
    """A capture whose log has nothing yet."""
    log, sink, clock = Log([]), Sink(), Clock()
    table = Table(TableMapping("orders", ("id",), {"pg": "orders"}), SCHEMA)
    made = Capture("pg", lambda _: log, [sink], [table], clock=clock)
    made.step(100, 0)
    return made, log, sink, clock


def test_echoes_wait_for_each_other(quiet: tuple[Capture, Log, Sink, Clock]) -> None:
    at_work, log, sink, clock = quiet
    for order in range(1, 4):
        log.events = [echo(order)]
        assert at_work.step(100, 0)
    assert not at_work.step(100, 0)
    assert sink.orders() == []
    clock.now += ECHO_SECONDS
    at_work.step(100, 0)
    assert sink.orders() == [1, 2, 3]
    log.events = [echo(4)]
    at_work.step(100, 0)
    assert sink.orders() == [1, 2, 3]


def test_a_change_takes_the_echoes_before_it_along(quiet: tuple[Capture, Log, Sink, Clock]) -> None:
    at_work, log, sink, _ = quiet
    log.events = [echo(1)]
    at_work.step(100, 0)
    log.events = [row(2), echo(3)]
    at_work.step(100, 0)
    assert sink.orders() == [1, 2, 3]


def test_many_echoes_do_not_wait(quiet: tuple[Capture, Log, Sink, Clock]) -> None:
    at_work, log, sink, _ = quiet
    log.events = [echo(n) for n in range(1, ECHOES + 1)]
    at_work.step(100, 0)
    assert len(sink.fed) == ECHOES


def test_echoes_do_not_wait_while_a_copy_is_at_work(quiet: tuple[Capture, Log, Sink, Clock]) -> None:
    at_work, log, sink, _ = quiet
    log.events = [echo(1)]
    at_work.step(100, 0)
    at_work.begin("run", "orders")
    at_work.step(100, 0)
    assert sink.orders() == [1]
