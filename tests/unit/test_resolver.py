"""The resolver's shell: what it does with answers, and whose events it takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import pyarrow as pa
import pytest

from actors.limits import FIRST_ROWS, MOST_BYTES, UNRECORDED_BYTES, Limits
from actors.resolver import Resolver
from actors.shards import make_shard
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome
from replication.change import SYSTEM_COLUMNS, Changes, Echo, Op, TableChanges, Unreadable
from replication.conflict.decide import Conflict
from replication.engines.memory import MemoryEngine
from replication.errors import Fenced, Superseded
from replication.key import encode_key
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import NodeConfig, Table, TableMapping, TableSchema
from replication.types import Kind
from tests.fixtures.tables import column

COLUMNS = column("id", Kind.INT64, "bigint", nullable=False), column("note", Kind.TEXT, "text")
SCHEMA = TableSchema("t", COLUMNS, ("id",))
TABLE = Table(TableMapping("t", ("id",), {"a": "t", "b": "t"}), SCHEMA)
EPOCH = 3


class Target:
    """An applier whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[ApplyBatch, Future[Applied]]] = []

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        self.asked.append((batch, Future()))
        return self.asked[-1][1]


class Durable:
    """An audit log that is done at once."""

    def changes(self, node: str, shard: int, changes: Changes) -> Future[None]:
        return self._done()

    def decisions(self, batch: ApplyBatch, applied: Applied) -> Future[None]:
        return self._done()

    def conflicts(self, conflicts: Sequence[Conflict]) -> Future[None]:
        return self._done()

    def unreadable(self, node: str, event: Unreadable) -> Future[None]:
        return self._done()

    def echoed(self, node: str, marker: Marker, held: Sequence[HeldRow]) -> Future[None]:
        return self._done()

    def _done(self) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done


class Bed:
    def __init__(self, read: int | None = None) -> None:
        """With `read`, the predecessor had read so far in both logs."""
        engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://{n}"), "g") for n in "ab"}
        start = Position(order_of(1, 0), "")
        cut = {} if read is None else dict.fromkeys("ab", read)
        resume = dict.fromkeys("ab", start)
        markers = {n: Marker("g", 0, 1, EPOCH, 0, cut=cut, resume=resume) for n in "ab"}
        self.errors: list[BaseException] = []
        self.target = Target()
        shard = make_shard("g", 0, 1, engines, [TABLE], markers)
        shard.config = replace(shard.config, pipeline=2)
        self.resolver = Resolver(
            shard,
            {"t": SCHEMA},
            dict.fromkeys("ab", self.target),
            Durable(),
            Limits(),
            self.errors.append,
        )

    def write(self, at: int, epoch: int | None = EPOCH) -> None:
        self.resolver.feed("a", [insert(at)], epoch)


def insert(*at: int, op: Op = Op.INSERT, ident: int | None = None) -> Changes:
    """Changes at these places; each of the row of that number, or all of `ident`."""
    key = [encode_key((ident or a,), [Kind.INT64]) for a in at]
    values = {"_op": [op] * len(at), "_hi": at, "_lo": [0] * len(at), "_ts": at, "_key": key}
    columns = [pa.array(values.get(name, [None] * len(at)), kind) for name, kind in SYSTEM_COLUMNS]
    names = [name for name, _ in SYSTEM_COLUMNS]
    data = pa.array(at, pa.int64()), pa.nulls(len(at), pa.utf8())
    rows = pa.RecordBatch.from_arrays([*columns, *data], [*names, "id", "note"])
    return Changes((TableChanges("t", rows),), Position(order_of(at[-1], 0), ""))


def long_row(at: int, size: int) -> Changes:
    """A change at this place whose note has so many bytes."""
    changes = insert(at)
    rows = changes.tables[0].rows
    note = pa.array(["x" * size], pa.utf8())
    long = rows.set_column(rows.schema.get_field_index("note"), "note", note)
    return replace(changes, tables=(TableChanges("t", long),))


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_a_batch_that_came_too_early_is_sent_again(bed: Bed) -> None:
    bed.write(2)
    bed.write(3)
    (first, done), (second, early) = bed.target.asked
    assert second.marker.after == first.marker.seq
    early.set_result(Applied(Outcome.EARLY))
    done.set_result(Applied(Outcome.COMMITTED))
    again, answer = bed.target.asked[2]
    assert again is second
    answer.set_result(Applied(Outcome.COMMITTED))
    assert len(bed.target.asked) == 3
    assert bed.resolver.status().applied == 2
    assert not bed.errors


def test_changes_that_are_read_again_are_taken_once(bed: Bed) -> None:
    """A log that is read again after a reconnect need not come in the same pieces."""
    bed.resolver.feed("a", [insert(2), insert(3)], EPOCH)
    bed.resolver.feed("a", [insert(2, 3, 4)], EPOCH)
    for _, answer in bed.target.asked:
        answer.set_result(Applied(Outcome.COMMITTED))
    sent = [key for batch, _ in bed.target.asked for t in batch.tables for key in t.rows["id"].to_pylist()]
    assert sent == [2, 3, 4]
    assert bed.resolver.status().changes == 3


def test_a_node_that_lost_a_committed_batch_ends_the_incarnation(bed: Bed) -> None:
    bed.write(2)
    bed.write(3)
    (first, done), (_, early) = bed.target.asked
    done.set_result(Applied(Outcome.COMMITTED))
    early.set_result(Applied(Outcome.EARLY))  # it may have been answered before the first was committed
    _, answer = bed.target.asked[2]
    answer.set_result(Applied(Outcome.EARLY))
    assert [type(e) for e in bed.errors] == [Fenced]
    assert f"lost batch {first.marker.seq}" in str(bed.errors[0])


def test_a_batch_waits_for_the_record_of_what_it_settles_and_for_no_later_one(bed: Bed) -> None:
    """Where conflicts come one after the other, there is always one that is not on record yet."""
    records: list[Future[None]] = []

    def record(conflicts: Sequence[Conflict]) -> Future[None]:
        records.append(Future())
        return records[-1]

    bed.resolver.auditor.conflicts = record  # type: ignore[method-assign]
    bed.write(2)
    bed.resolver.feed("b", [insert(2)], EPOCH)
    bed.write(3)
    assert (len(records), len(bed.target.asked)) == (1, 1)
    bed.resolver.feed("b", [insert(3)], EPOCH)
    assert (len(records), len(bed.target.asked)) == (2, 1)
    records[0].set_result(None)
    sent = len(bed.target.asked)
    assert sent > 1
    for _, answer in list(bed.target.asked):
        answer.set_result(Applied(Outcome.COMMITTED))
    assert len(bed.target.asked) == sent  # what settles the second conflict waits for its record
    records[1].set_result(None)
    assert len(bed.target.asked) > sent
    assert not bed.errors


def test_nothing_is_sent_after_a_record_that_failed(bed: Bed) -> None:
    record: Future[None] = Future()
    bed.resolver.auditor.conflicts = lambda conflicts: record  # type: ignore[method-assign]
    bed.write(2)
    bed.resolver.feed("b", [insert(2)], EPOCH)
    record.set_exception(OSError("the disk is full"))
    assert len(bed.target.asked) == 1
    assert [type(e) for e in bed.errors] == [OSError]


def test_there_is_less_room_after_write_conflicts(bed: Bed) -> None:
    assert bed.resolver.feed("a", [], EPOCH).room == FIRST_ROWS
    bed.write(2)
    bed.target.asked[0][1].set_result(Applied(Outcome.COMMITTED, conflicts=1))
    assert bed.resolver.feed("a", [], EPOCH).room == FIRST_ROWS // 2


def test_a_log_is_held_back_once_the_next_batch_is_full(bed: Bed) -> None:
    bed.write(2)
    bed.write(3)
    ack = bed.resolver.feed("a", [insert(*range(4, 4 + FIRST_ROWS - 1))], EPOCH)
    assert (ack.paused, ack.room) == (False, 1)
    ack = bed.resolver.feed("a", [insert(9_999)], EPOCH)
    assert ack.paused


def test_no_log_is_read_on_while_too_much_is_not_on_record(bed: Bed) -> None:
    """What waits to be recorded is kept in memory, however fast the nodes take it."""
    records: list[Future[None]] = []

    def record(node: str, shard: int, changes: Changes) -> Future[None]:
        records.append(Future())
        return records[-1]

    bed.resolver.auditor.changes = record  # type: ignore[method-assign]
    bed.resolver.feed("a", [long_row(2, UNRECORDED_BYTES // 2)], EPOCH)
    assert not bed.resolver.feed("b", [], EPOCH).paused
    bed.resolver.feed("a", [long_row(3, UNRECORDED_BYTES // 2)], EPOCH)
    for _, answer in bed.target.asked:
        answer.set_result(Applied(Outcome.COMMITTED))
    assert [bed.resolver.feed(n, [], EPOCH).paused for n in "ab"] == [True, True]
    records[0].set_result(None)
    assert [bed.resolver.feed(n, [], EPOCH).paused for n in "ab"] == [False, False]


def test_a_batch_of_long_rows_leaves_less_room_for_the_next(bed: Bed) -> None:
    bed.resolver.feed("a", [long_row(2, MOST_BYTES // 100)], EPOCH)
    bed.target.asked[0][1].set_result(Applied(Outcome.COMMITTED))
    assert bed.resolver.feed("a", [], EPOCH).room == 99  # besides the note it has other columns


def test_a_replay_is_never_held_back() -> None:
    """Nothing is sent before it is over, so waiting for room would last for ever."""
    bed = Bed(read=order_of(9_999, 0))
    ack = bed.resolver.feed("a", [insert(*range(2, 2 + 2 * FIRST_ROWS))], EPOCH)
    assert ack.replaying
    assert not ack.paused
    assert not bed.target.asked


def test_a_resolver_that_stops_sends_nothing_more(bed: Bed) -> None:
    bed.write(2)
    bed.write(3)
    bed.write(4)
    (_, first), (_, second) = bed.target.asked
    bed.resolver.stop()
    for answer in (first, second):
        answer.set_result(Applied(Outcome.COMMITTED))
    assert len(bed.target.asked) == 2
    assert not bed.errors


def test_a_refused_batch_ends_the_incarnation(bed: Bed) -> None:
    bed.write(2)
    bed.target.asked[0][1].set_result(Applied(Outcome.FENCED))
    assert [type(e) for e in bed.errors] == [Fenced]


def test_events_of_another_incarnation_are_not_taken(bed: Bed) -> None:
    """They need not follow what this one has read: a capture must begin again from its position."""
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(Superseded):
            bed.write(2, epoch)
    ack = bed.resolver.feed("a", [], None)
    assert (ack.epoch, ack.released.order) == (EPOCH, order_of(1, 0))
    assert not bed.target.asked
    bed.write(2)
    assert len(bed.target.asked) == 1


def test_what_follows_a_refused_row_is_sent_whole(bed: Bed) -> None:
    """A part of it would be taken, and what was refused would be missing with nobody to know."""
    bed.write(2)
    (batch, answer), at = bed.target.asked[0], order_of(2, 0)
    key = encode_key((2,), [Kind.INT64])
    answer.set_result(Applied(Outcome.COMMITTED, [HeldRow("t", key, "no")]))
    bed.resolver.feed("b", [Echo(batch.marker, Position(at))], EPOCH)
    assert bed.resolver.shard.idle
    bed.resolver.feed("a", [partial_update(2, at=3)], EPOCH)
    (batch, answer) = bed.target.asked[1]
    assert batch.tables[0].rows.column("_have").to_pylist() == [b"\0"], "to be read where it was written"
    answer.set_result(Applied(Outcome.COMMITTED))
    bed.resolver.feed("b", [Echo(batch.marker, Position(order_of(3, 0)))], EPOCH)
    bed.resolver.feed("a", [partial_update(2, at=4)], EPOCH)
    assert bed.target.asked[2][0].tables[0].rows.column("_have").to_pylist() == [b"\2"], "it is over"


def partial_update(ident: int, at: int) -> Changes:
    """One that holds the second of two columns only."""
    changes = insert(ident)
    rows = changes.tables[0].rows
    new = {"_op": Op.UPDATE, "_hi": at, "_ts": at, "_have": b"\2", "_changed": b"\2"}
    for name, value in new.items():
        place = rows.schema.get_field_index(name)
        kind = rows.schema.field(place)
        rows = rows.set_column(place, kind, pa.array([value], kind.type))
    return Changes((TableChanges("t", rows),), Position(order_of(at, 0)))


def test_the_logs_learn_how_late_changes_are(bed: Bed) -> None:
    assert bed.resolver.feed("a", [], EPOCH).load.lag == 0.0
    bed.write(2)  # whose commit was microseconds after 1970 began
    ((_, answer),) = bed.target.asked
    assert bed.resolver.feed("a", [], EPOCH).load.lag == 0.0
    answer.set_result(Applied(Outcome.COMMITTED))
    load = bed.resolver.feed("a", [], EPOCH).load
    assert (load.lag > 1e9, load.lag_node) == (True, "b")


@pytest.mark.parametrize("again", [True, False], ids=["inserted-anew", "only-deleted"])
def test_the_delete_of_a_row_that_came_back_takes_only_that_row(bed: Bed, *, again: bool) -> None:
    """It came back with a copy; if the application has not inserted it anew, any row there has to go."""
    feed, asked = bed.resolver.feed, bed.target.asked
    feed("a", [insert(2, op=Op.READ)], EPOCH)
    (copied, answer), *_ = asked
    feed("b", [insert(3, op=Op.DELETE, ident=2)], EPOCH)
    answer.set_result(Applied(Outcome.COMMITTED))
    feed("b", [Echo(copied.marker, Position(order_of(4, 0), ""))], EPOCH)
    delete, answer = next((b, done) for b, done in asked if b is not copied and b.node == "b")
    (row,) = delete.tables[0].rows.to_pylist()
    assert (row["_op"], row["_have"], row["id"]) == (Op.DELETE, b"\x03", 2)

    if again:
        feed("b", [insert(5, ident=2)], EPOCH)
    answer.set_result(Applied(Outcome.COMMITTED, kept={("t", row["_key"]): True}))
    feed("b", [Echo(delete.marker, Position(order_of(6, 0), ""))], EPOCH)
    sent = [b for b, _ in asked[asked.index((delete, answer)) + 1 :] if b.node == "b"]
    later = [r for b in sent for r in b.tables[0].rows.to_pylist()]
    assert [(r["_op"], r["_have"]) for r in later] == ([] if again else [(Op.DELETE, None)])
