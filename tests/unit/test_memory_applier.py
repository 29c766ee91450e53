"""The memory applier merges whole columns as a row by row model would, and fails when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.batch import Applied, ApplyBatch, Outcome, TableRows, apply_schema
from replication.change import Changes, Op, Progress
from replication.engines.memory import MemoryDatabase, MemoryEngine, drop_database, open_database
from replication.engines.memory.applier import MemoryApplier
from replication.errors import NodeUnavailable, SchemaChanged
from replication.key import encode_key
from replication.marker import Marker
from replication.position import START, Position
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

MAPPED = TableSchema(
    "t",
    (
        Column("id", CanonicalType(Kind.INT64), nullable=False),
        Column("a", CanonicalType(Kind.TEXT)),
        Column("b", CanonicalType(Kind.INT32)),
    ),
    ("id",),
)
LOCAL = TableSchema(
    "local",
    (
        Column("extra", CanonicalType(Kind.TEXT)),
        Column("bee", CanonicalType(Kind.INT32)),
        Column("id", CanonicalType(Kind.INT64), nullable=False),
        Column("a", CanonicalType(Kind.TEXT)),
    ),
    ("id",),
)
TABLE = Table(TableMapping("t", ("id",), {"m": "local"}, {"b": {"m": "bee"}}), MAPPED)
ENGINE = MemoryEngine(NodeConfig("m", "memory", "memory://applier"), "g")
DELETE = {"delete": True}


def batch_of(rows: Sequence[dict[str, Any]], seq: int = 1, epoch: int = 1, group: str = "g") -> ApplyBatch:
    """A batch; a row that lacks columns is partial, one with `delete` a deletion."""
    names = MAPPED.arrow.names
    columns = [
        pa.array([Op.DELETE if "delete" in r else Op.UPDATE for r in rows], pa.int8()),
        pa.array([encode_key((r["id"],), [Kind.INT64]) for r in rows], pa.binary()),
        pa.array([_have(r) for r in rows], pa.binary()),
        *(pa.array([0] * len(rows), t) for t in (pa.int16(), pa.uint64(), pa.uint32(), pa.int64())),
        *(pa.array([r.get(n) for r in rows], MAPPED.arrow.field(n).type) for n in names),
    ]
    data = pa.RecordBatch.from_arrays(columns, schema=apply_schema(MAPPED.arrow))
    return ApplyBatch("m", Marker(group, 0, 1, epoch, seq, seq - 1), [TableRows("t", data)])


def _have(row: dict[str, Any]) -> bytes | None:
    names = MAPPED.arrow.names
    if "delete" in row or all(n in row for n in names):
        return None
    return bytes([sum(1 << i for i, n in enumerate(names) if n in row)])


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    yield opened()
    drop_database("applier")


def opened() -> MemoryDatabase:
    database = open_database("applier")
    database.create_table(LOCAL)
    with closing(ENGINE.control()) as control:
        control.raise_epoch(1, 1, Marker("g", 0, 1, 0, 0))
    return database


@pytest.fixture
def applier(db: MemoryDatabase) -> Iterator[MemoryApplier]:
    with closing(ENGINE.applier([TABLE], [])) as made:
        yield made


VALUES = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from([None, "x", "y"]), "b": st.sampled_from([None, 0, 1, 13])}
)
BATCH = st.dictionaries(st.integers(0, 6), st.one_of(st.just(DELETE), VALUES), max_size=7)


@given(st.dictionaries(st.integers(0, 6), st.just("local"), max_size=4), st.lists(BATCH, max_size=4))
def test_batches_do_what_a_row_by_row_model_does(
    initial: dict[int, str], batches: list[dict[int, dict[str, Any]]]
) -> None:
    db = opened()
    db.faults.refuse = lambda table, row: "unlucky" if row["bee"] == 13 else None
    try:
        with db.transaction() as tx:
            for ident, extra in initial.items():
                tx.insert("local", {"id": ident, "extra": extra})
        model: dict[int, dict[str, Any]] = {
            i: {"id": i, "a": None, "bee": None, "extra": e} for i, e in initial.items()
        }
        with closing(ENGINE.applier([TABLE], [])) as applier:
            for seq, rows in enumerate(batches, 1):
                applied = applier.apply(batch_of([{"id": i} | r for i, r in rows.items()], seq))
                assert applied.outcome is Outcome.COMMITTED
                assert outcome(applied) == expect(model, rows)
        assert db.rows("local") == [
            {n: model[i][n] for n in ("extra", "bee", "id", "a")} for i in sorted(model)
        ]
    finally:
        drop_database("applier")


def outcome(applied: Applied) -> tuple[set[bytes], set[bytes]]:
    return {h.key for h in applied.held}, {key for _, key in applied.missing}


def expect(
    model: dict[int, dict[str, Any]], rows: dict[int, dict[str, Any]]
) -> tuple[set[bytes], set[bytes]]:
    """Apply a batch to the model, row by row; the keys that are held, and those that are missing."""
    held, missing = set(), set()
    for ident, row in rows.items():
        key = encode_key((ident,), [Kind.INT64])
        if row is DELETE:
            model.pop(ident, None)
        elif ident not in model and not {"a", "b"} <= row.keys():
            missing.add(key)
        else:
            after = {"extra": None} | model.get(ident, {}) | {"id": ident}
            after |= {"a": row["a"]} if "a" in row else {}
            after |= {"bee": row["b"]} if "b" in row else {}
            if after["bee"] == 13:
                held.add(key)
            else:
                model[ident] = after
    return held, missing


def test_an_apply_fails_before_its_commit(db: MemoryDatabase, applier: MemoryApplier) -> None:
    db.faults.fail_applies(2)
    batch = batch_of([{"id": 1, "a": "x", "b": 1}])
    for _ in range(2):
        with pytest.raises(NodeUnavailable):
            applier.apply(batch)
        assert db.rows("local") == []
    assert applier.apply(batch).outcome is Outcome.COMMITTED


def test_an_apply_fails_after_its_commit(db: MemoryDatabase, applier: MemoryApplier) -> None:
    db.faults.fail_applies(1, after_commit=True)
    batch = batch_of([{"id": 1, "a": "x", "b": 1}])
    with pytest.raises(NodeUnavailable):
        applier.apply(batch)
    assert len(db.rows("local")) == 1
    assert applier.apply(batch).outcome is Outcome.ALREADY


def test_a_paused_applier_that_wakes_after_its_successor_cannot_commit(
    db: MemoryDatabase, applier: MemoryApplier
) -> None:
    db.faults.pause()
    outcomes: list[Outcome] = []
    batch = batch_of([{"id": 1, "a": "x", "b": 1}])
    zombie = threading.Thread(target=lambda: outcomes.append(applier.apply(batch).outcome))
    zombie.start()
    assert db.faults.wait_for_held_apply(10)
    with closing(ENGINE.control()) as control:
        control.raise_epoch(1, 1, Marker("g", 0, 1, 0, 0))
    db.faults.resume()
    zombie.join(10)
    assert outcomes == [Outcome.FENCED]
    assert db.rows("local") == []


def test_a_paused_database_shows_sources_nothing(db: MemoryDatabase) -> None:
    with closing(ENGINE.source([TABLE], START)) as source:
        source.poll(1, 0)
        db.faults.pause()
        with db.transaction() as tx:
            tx.insert("local", {"id": 1})
        assert source.poll(1, 0.01) == []
        db.faults.resume()
        (event,) = source.poll(1, 0)
    assert isinstance(event, Changes)


def test_an_applier_stops_when_its_table_has_changed(db: MemoryDatabase, applier: MemoryApplier) -> None:
    db.drop_table("local")
    with pytest.raises(SchemaChanged):
        applier.apply(batch_of([{"id": 1, "a": "x", "b": 1}]))
    assert db.markers["g", 0].seq == 0


def test_a_stopped_database_is_unavailable_until_it_starts(
    db: MemoryDatabase, applier: MemoryApplier
) -> None:
    batch = batch_of([{"id": 1, "a": "x", "b": 1}])
    db.stop()
    with pytest.raises(NodeUnavailable):
        applier.apply(batch)
    db.start()
    assert applier.apply(batch).outcome is Outcome.COMMITTED


def test_another_groups_applies_are_changes_to_us(db: MemoryDatabase) -> None:
    theirs = MemoryEngine(ENGINE.node, "theirs")
    with closing(theirs.control()) as control, closing(theirs.applier([TABLE], [])) as applier:
        control.raise_epoch(1, 1, Marker("theirs", 0, 1, 0, 0))
        applier.apply(batch_of([{"id": 1, "a": "x", "b": 1}], group="theirs"))
    with closing(ENGINE.source([TABLE], START)) as source:
        (event,) = source.poll(10, 0)
    assert isinstance(event, Changes)
    assert event.tables[0].rows.column("id").to_pylist() == [1]


def test_what_is_left_of_an_echo_is_no_change(db: MemoryDatabase, applier: MemoryApplier) -> None:
    applier.apply(batch_of([{"id": i, "a": "x", "b": 1} for i in range(3)]))
    number = db.log.end >> 32
    for index in range(4):
        start = Position(0, f"{number}.{index}")
        with closing(ENGINE.source([TABLE], start)) as source:
            assert [type(e) for e in source.poll(10, 0)] == [Progress]
