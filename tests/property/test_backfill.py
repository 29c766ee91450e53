"""The initial copy against a simulated database whose applications write at every moment of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import backfill as reader
from actors.backfill import Backfill, Surroundings
from replication.backfill import Chunk, ChunkIdent, ChunkWindow
from replication.batch import TableRows, apply_schema, pack_versions
from replication.change import (
    Changes,
    Echo,
    LogEvent,
    Op,
    SchemaChange,
    TableChanges,
    Watermark,
    change_schema,
)
from replication.key import encode_keys
from replication.marker import Marker
from replication.paging import ChunkSize
from replication.position import Position, order_of
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind
from tests.property.crew import Crew, Killed
from tests.property.mutations_copy import (
    AnyLowOpens,
    DeafToBareEchoes,
    DeafToChanges,
    DeafToEchoes,
    DeafToTruncate,
    InAnyOrder,
    NeverWaits,
    OneWindow,
    RemembersWhatIsLost,
    StopsAtTheLimit,
)

SCHEMA = TableSchema(
    "t", (Column("id", CanonicalType(Kind.INT64)), Column("v", CanonicalType(Kind.TEXT))), ("id",)
)
TABLE = Table(TableMapping("t", ("id",), {}), SCHEMA)
KEYS = st.integers(0, 11)
Action = tuple[str, int]

# A chunk takes about twelve `go`; kills and their like are rare enough for chunks to get through.
WEIGHTS = {
    "go": 80,
    "capture": 30,
    "flush": 5,
    "write": 6,
    "delete": 3,
    "echo": 3,
    "bare echo": 4,
    "echoed delete": 2,
    "rewind": 4,
    "kill": 2,
    "read": 12,
    "kill reader": 1,
    "truncate": 1,
}
# What a part is for shows soonest where much is written, or much ends early.
BUSY = WEIGHTS | {"write": 25, "read": 30, "capture": 15}
ROUGH = WEIGHTS | {"rewind": 8, "read": 30}
moves = st.tuples(st.sampled_from([what for what, weight in WEIGHTS.items() for _ in range(weight)]), KEYS)
# Without a smallest size most schedules end before the first chunk was read.
actions = st.lists(moves, max_size=20) | st.lists(moves, min_size=60, max_size=200)
initial = st.sets(KEYS) | st.sets(KEYS, min_size=6)


class World:
    """A database with its log, a capture, and a replica that applies what the capture emits.

    Every call of the copy first and last lets the world move on, up to the next `go` of the schedule, and so
    does every call of its readers, of which others may be in the middle of a chunk.
    """

    def __init__(self, rows: set[int], schedule: Sequence[Action], window: type[ChunkWindow]) -> None:
        self.rows = {id: f"initial {id}" for id in rows}
        self.log: list[LogEvent] = []
        self.echoed: dict[int, TableChanges] = {}  # what the echo at this order wrote
        self.schedule = list(reversed(schedule))
        self.made = 0
        self.window = window(piece_rows=2)
        self.read_to = 0
        self.flushed_to = 0
        self.pending: list[LogEvent] = []
        self.replica: dict[int, str] = {}
        self.applied = 0  # order of the last row that the replica applied
        self.released_order = 0
        self.states: dict[str, str] = {}
        self.crew = Crew(self)

    # -- the world moves ---------------------------------------------------------------

    def move(self) -> None:
        while self.schedule:
            what, key = self.schedule.pop()
            match what:
                case "go":
                    return
                case "kill":
                    raise Killed
                case "capture":
                    self.capture_next()
                    self.capture_next()
                case "flush":
                    self.flush()
                case "rewind":
                    self.rewind()
                case "read" | "kill reader":
                    self.crew.step(key, kill=what == "kill reader")
                case _:
                    self.change(what, key)

    def position(self) -> Position:
        return Position(order_of(len(self.log) + 1, 7))

    def change(self, what: str, key: int) -> None:
        end = self.position()
        if what == "truncate":
            self.rows.clear()
            self.log.append(SchemaChange("t", "truncate", "", end))
            return
        self.made += 1
        value = f"{what} {self.made}"
        delete = what in ("delete", "echoed delete")
        if delete:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
        changes = change_batch(Op.DELETE if delete else Op.UPDATE, key, value, end.order)
        if what in ("write", "delete"):
            self.log.append(Changes((changes,), end))
        else:
            marker = Marker("g", 0, 1, 1, 1, versions=versions_of(changes.rows))
            self.log.append(Echo(marker, end, () if what == "bare echo" else (changes,)))
            self.echoed[end.order] = changes

    def capture_next(self) -> None:
        if self.read_to == len(self.log):
            return
        event = self.log[self.read_to]
        self.read_to += 1
        match event:
            case Changes():
                self.window.on_changes(event)
            case Echo():
                self.window.on_echo(event)
                event = Changes((self.echoed[event.end.order],), event.end)
            case SchemaChange():
                self.window.on_truncate(event.table)
            case Watermark():
                self.pending += self.window.on_watermark(event)
                return
        self.pending.append(event)

    def flush(self) -> None:
        """What was emitted becomes durable everywhere, and so the log is released up to it."""
        for event in self.pending:
            if isinstance(event, SchemaChange):
                self.replica.clear()
            elif isinstance(event, Changes):
                self.apply(event)
            assert event.end.order > self.released_order
            self.released_order = event.end.order
        self.pending.clear()
        self.flushed_to = self.read_to

    def apply(self, event: Changes) -> None:
        for row in event.tables[0].rows.to_pylist():
            order = order_of(row["_hi"], row["_lo"])
            assert self.applied < order <= event.end.order
            self.applied = order
            if row["_op"] == Op.DELETE:
                self.replica.pop(row["id"], None)
            else:
                self.replica[row["id"]] = row["v"]

    def rewind(self) -> None:
        """The group restarts: what was not durable is lost, and the log is read again from there."""
        self.pending.clear()
        self.read_to = self.flushed_to
        self.window.reset()

    def drain(self) -> None:
        while self.read_to < len(self.log):
            self.capture_next()
        self.flush()

    # -- what the reader asks of it ----------------------------------------------------

    def write_watermark(self, ident: str) -> None:
        self.move()
        self.log.append(Watermark(ident, self.position()))
        self.move()

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        self.move()
        rows = chunk(self.rows)
        keys = rows.column("_key").to_pylist()
        start = sum(k <= after for k in keys) if after is not None else 0
        end = sum(k <= until for k in keys) if until is not None else len(keys)
        rows = rows.slice(start, max(end - start, 0)).slice(skip, limit)
        self.move()
        return rows

    def estimate_rows(self, table: Table) -> int:
        return len(self.rows)

    def get_state(self, name: str) -> str | None:
        return self.states.get(name)

    def put_state(self, name: str, value: str) -> None:
        self.move()
        self.states[name] = value
        self.move()

    def begin(self, run: str, table: str) -> None:
        self.move()
        self.window.begin(run, table)

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        self.move()
        self.window.offer(ident, chunk)

    def emitted(self, ident: ChunkIdent) -> int | None:
        self.move()
        return self.window.emitted(ident)

    def end(self, table: str) -> None:
        self.window.end(table)

    def released(self) -> int:
        released = self.released_order
        self.move()
        return released

    def wait(self, seconds: float) -> None:
        self.move()
        self.crew.step(0)
        if not self.schedule:
            for number in range(len(self.crew.at_work)):
                self.crew.step(number)
            self.drain()


def chunk(rows: dict[int, str]) -> pa.RecordBatch:
    ids = pa.array(sorted(rows), pa.int64())
    values = pa.array([rows[id] for id in sorted(rows)], pa.utf8())
    return pa.RecordBatch.from_arrays([encode_keys([ids], [Kind.INT64]), ids, values], ["_key", "id", "v"])


def change_batch(op: Op, key: int, value: str, order: int) -> TableChanges:
    row = {
        "_op": op,
        "_hi": order >> 32,
        "_lo": order & 0xFFFFFFFF,
        "_ts": 1,
        "_key": chunk({key: ""}).column("_key")[0].as_py(),
        "id": key,
        "v": None if op is Op.DELETE else value,
    }
    return TableChanges("t", pa.RecordBatch.from_pylist([row], change_schema(SCHEMA.arrow)))


def versions_of(changes: pa.RecordBatch) -> bytes:
    schema = apply_schema(SCHEMA.arrow)
    rows = pa.RecordBatch.from_pylist(
        [{name: row.get(name) for name in schema.names} for row in changes.to_pylist()], schema
    )
    return pack_versions([TableRows("t", rows)])


def copy(
    rows: set[int], schedule: Sequence[Action], workers: int, window: type[ChunkWindow], kind: type[Backfill]
) -> None:
    """Copy with restarts until the copy is finished; the replica must end up equal."""
    world = World(rows, schedule, window)
    world.crew.workers = workers
    around = Surroundings(world, world.released, world.wait, lambda: 0.0)
    for attempt in range(len(schedule) + 1):
        try:
            copier = kind(TABLE, f"run{attempt}", world, world, around, ChunkSize(3, max_rows=3), world.crew)
            progress = copier.run()
        except Killed:
            continue
        break
    assert progress.finished
    assert progress.left() == []
    while world.schedule:
        try:
            world.move()
        except Killed:
            continue
    world.drain()
    assert world.replica == world.rows


@settings(max_examples=200)
@given(initial, actions, st.integers(1, 4))
def test_the_copy_equals_the_database_whatever_the_interleaving(rows, schedule, workers):
    copy(rows, schedule, workers, ChunkWindow, Backfill)


@pytest.mark.mutation
@pytest.mark.parametrize(
    ("window", "kind", "first"),  # the first seed to try
    [
        (DeafToChanges, Backfill, 0),
        (DeafToEchoes, Backfill, 350),
        (DeafToBareEchoes, Backfill, 350),
        (DeafToTruncate, Backfill, 0),
        (RemembersWhatIsLost, Backfill, 0),
        (AnyLowOpens, Backfill, 0),
        (ChunkWindow, NeverWaits, 0),
        (OneWindow, Backfill, 0),
        (ChunkWindow, StopsAtTheLimit, 0),
        (ChunkWindow, InAnyOrder, 0),
    ],
)
def test_the_property_notices_when_a_part_is_taken_away(window, kind, first):
    def broken(seed: int) -> bool:
        rng = random.Random(seed)
        weights = (BUSY, ROUGH)[seed % 2]
        moves = rng.choices(list(weights), list(weights.values()), k=rng.randrange(400))
        schedule = [(what, rng.randrange(12)) for what in moves]
        rows = set(rng.sample(range(12), rng.randrange(13)))
        try:
            copy(rows, schedule, rng.randrange(1, 5), window, kind)
        except AssertionError:
            return True
        return False

    assert any(broken(seed) for seed in range(first, first + 3_000))


def test_the_reader_bounds_what_is_on_its_way():
    """A group that emits nothing: the reader stops after a few chunks and waits."""
    world = World(set(range(10)), [], ChunkWindow)
    offered = []

    def wait(seconds: float) -> None:
        if len(offered) > reader.AHEAD and seconds == reader.POLL_SECONDS:
            copier.stop()

    world.offer = lambda ident, rows: (offered.append(ident), world.window.offer(ident, rows))  # type: ignore[method-assign]
    around = Surroundings(world, world.released, wait, lambda: 0.0)
    copier = Backfill(TABLE, "run", world, world, around, ChunkSize(1, max_rows=1))
    assert not copier.run().finished
    assert len(offered) == 1 + reader.AHEAD
