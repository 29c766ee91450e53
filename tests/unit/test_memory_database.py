"""The memory database keeps its promises: atomic transactions, a faithful log, a place for each group."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.change import Changes, Op, SchemaChange
from replication.engines.memory import MemoryDatabase, MemoryEngine, drop_database, open_database
from replication.engines.memory.database import names_of_open_databases
from replication.engines.memory.source import MemorySource
from replication.engines.memory.store import TableStore
from replication.errors import ConfigError, LogLost, NodeUnavailable, RowRefused, SchemaChanged
from replication.key import encode_key
from replication.position import START, Position
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

SCHEMA = TableSchema(
    "t",
    (
        Column("id", CanonicalType(Kind.INT64), nullable=False),
        Column("a", CanonicalType(Kind.TEXT)),
        Column("b", CanonicalType(Kind.INT32)),
    ),
    ("id",),
)
TABLE = Table(TableMapping("t", ("id",), {"m": "t"}), SCHEMA)
NODE = NodeConfig("m", "memory", "memory://unit")


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    ticks = iter(range(1_000_000, 2_000_000, 10))
    database = open_database("unit", clock=lambda: next(ticks))
    database.create_table(SCHEMA)
    yield database
    drop_database("unit")


def source(start: Position = START, group: str = "g") -> closing[MemorySource]:
    return closing(MemoryEngine(NODE, group).source([TABLE], start))


def ops(start: Position = START) -> list[tuple[int, int]]:
    """Operation and id of every change after a position."""
    found: list[tuple[int, int]] = []
    with source(start) as reader:
        while events := reader.poll(3, 0):
            for event in events:
                if isinstance(event, Changes):
                    rows = event.tables[0].rows
                    found += zip(rows.column("_op").to_pylist(), rows.column("id").to_pylist(), strict=True)
    return found


def test_a_transaction_that_fails_leaves_no_trace(db: MemoryDatabase) -> None:
    with db.transaction() as tx:
        tx.insert("t", {"id": 1, "a": "x"})
        tx.insert("t", {"id": 2})
    before, end = db.rows("t"), db.log.end

    def fail_in_the_end() -> None:
        with db.transaction() as tx:
            tx.update("t", 1, {"a": "y"})
            tx.update("t", 1, {"id": 3})
            tx.delete("t", 2)
            tx.insert("t", {"id": 2, "a": "again"})
            tx.insert("t", {"id": 4})
            tx.insert("t", {"id": 4})

    with pytest.raises(RowRefused):
        fail_in_the_end()
    assert db.rows("t") == before
    assert db.log.end == end


def test_a_transaction_sees_its_own_writes_and_commits_at_once(db: MemoryDatabase) -> None:
    with db.transaction(at=77) as tx:
        tx.insert("t", {"id": 1, "a": "x"})
        assert tx.update("t", 1, {"b": 2}) == 1
        assert tx.update("t", 9, {"b": 2}) == 0
        assert tx.delete("t", 9) == 0
        tx.insert("t", {"id": 2})
        assert tx.delete("t", 2) == 1
    assert db.rows("t") == [{"id": 1, "a": "x", "b": 2}]
    with source() as reader:
        (changes,) = reader.poll(100, 0)
    assert isinstance(changes, Changes)
    rows = changes.tables[0].rows
    assert rows.column("_op").to_pylist() == [Op.INSERT, Op.UPDATE, Op.INSERT, Op.DELETE]
    assert rows.column("_changed").to_pylist() == [None, b"\x04", None, None]
    assert rows.column("_ts").to_pylist() == [77] * 4
    assert rows.column("b").to_pylist() == [None, 2, None, None]


@pytest.mark.parametrize("row", [{"id": 1}, {"id": None}, {"a": "no key"}, {"id": 2, "nonsense": 1}], ids=str)
def test_a_bad_row_is_refused(db: MemoryDatabase, row: dict) -> None:
    with db.transaction() as tx:
        tx.insert("t", {"id": 1})
    with pytest.raises(RowRefused), db.transaction() as tx:
        tx.insert("t", row)
    assert [r["id"] for r in db.rows("t")] == [1]


def test_a_key_cannot_become_another_rows(db: MemoryDatabase) -> None:
    with db.transaction() as tx:
        tx.insert("t", {"id": 1})
        tx.insert("t", {"id": 2})
    with pytest.raises(RowRefused), db.transaction() as tx:
        tx.update("t", 2, {"id": 1})
    assert [r["id"] for r in db.rows("t")] == [1, 2]


def test_bulk_writes_and_row_writes_share_one_transaction(db: MemoryDatabase) -> None:
    batch = pa.RecordBatch.from_pylist(
        [{"id": i, "a": f"bulk {i}", "b": i} for i in range(5)], schema=SCHEMA.arrow
    )
    with db.transaction() as tx:
        tx.insert("t", {"id": 3})
        tx.write("t", batch)
        tx.update("t", 4, {"b": None})
    assert [(r["id"], r["b"]) for r in db.rows("t")] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, None)]
    assert ops() == [(1, 3), (1, 0), (1, 1), (1, 2), (2, 3), (1, 4), (2, 4)]


def test_a_trimmed_log_is_lost_to_those_who_need_it(db: MemoryDatabase) -> None:
    control = MemoryEngine(NODE, "g").control()
    start = control.prepare([TABLE])
    for i in range(4):
        with db.transaction() as tx:
            tx.insert("t", {"id": i})
    with source(start) as reader:
        positions = [reader.poll(1, 0)[0].end for _ in range(4)]
        reader.confirm(positions[1])
    db.trim_log()
    assert ops(positions[1]) == [(1, 2), (1, 3)]
    assert control.prepare([TABLE]) == positions[1]
    with source(positions[0]) as reader, pytest.raises(LogLost) as caught:
        reader.poll(1, 0)
    assert caught.value.node == "m"
    db.trim_log(positions[3].order)
    assert ops(positions[3]) == []
    with pytest.raises(LogLost):
        ops(positions[2])


def test_confirming_never_goes_back(db: MemoryDatabase) -> None:
    with source() as reader:
        reader.confirm(Position(9, "0.9"))
        reader.confirm(Position(5, "0.5"))
    assert db.slots == {"g": 9}


def test_a_limited_log_rolls_over() -> None:
    database = open_database("unit", log_limit=2)
    try:
        database.create_table(SCHEMA)
        with source() as reader:
            for i in range(3):
                with database.transaction() as tx:
                    tx.insert("t", {"id": i})
            with pytest.raises(LogLost):
                reader.poll(10, 0)
        assert ops(Position(1 << 32, "1.0")) == [(1, 1), (1, 2)]
    finally:
        drop_database("unit")


@pytest.mark.parametrize("token", ["99.0", "nonsense", "1", "-1.0"])
def test_a_position_of_another_log_is_refused(db: MemoryDatabase, token: str) -> None:
    with pytest.raises(LogLost), source(Position(1, token)) as reader:
        reader.poll(1, 0)


def test_statements_on_tables_are_events(db: MemoryDatabase) -> None:
    with db.transaction() as tx:
        tx.insert("t", {"id": 1, "a": "x"})
    db.add_column("t", Column("c", CanonicalType(Kind.TEXT)))
    with db.transaction() as tx:
        tx.update("t", 1, {"c": "new"})
    assert db.rows("t") == [{"id": 1, "a": "x", "b": None, "c": "new"}]
    db.truncate("t")
    assert db.rows("t") == []
    db.drop_table("t")
    with source() as reader:
        events = reader.poll(100, 0)
    assert [e.what for e in events if isinstance(e, SchemaChange)] == ["alter", "truncate", "drop"]
    assert [type(e).__name__ for e in events] == [
        "Changes",
        "SchemaChange",
        "Changes",
        "SchemaChange",
        "SchemaChange",
    ]
    with closing(MemoryEngine(NODE, "g").snapshot()) as snapshot, pytest.raises(SchemaChanged):
        snapshot.read_chunk(TABLE, None, 1)


def test_polling_wakes_with_the_commit(db: MemoryDatabase) -> None:
    waiting = threading.Event()
    found: list[object] = []

    def follow() -> None:
        with source() as reader:
            reader.poll(10, 0)
            waiting.set()
            found.extend(reader.poll(10, 60))

    thread = threading.Thread(target=follow)
    thread.start()
    assert waiting.wait(10)
    with db.transaction() as tx:
        tx.insert("t", {"id": 1})
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(found[0], Changes)


def test_a_cut_wakes_whoever_waits(db: MemoryDatabase) -> None:
    waiting = threading.Event()
    failures: list[NodeUnavailable] = []

    def follow() -> None:
        with source() as reader:
            reader.poll(10, 0)
            waiting.set()
            try:
                reader.poll(10, 60)
            except NodeUnavailable as error:
                failures.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    assert waiting.wait(10)
    db.cut_connections()
    thread.join(10)
    assert not thread.is_alive()
    assert len(failures) == 1


def test_threads_write_one_after_the_other(db: MemoryDatabase) -> None:
    with db.transaction() as tx:
        tx.insert("t", {"id": 1, "b": 0})

    def count_up() -> None:
        for _ in range(50):
            with db.transaction() as tx:
                tx.update("t", 1, {"b": db.rows("t")[0]["b"] + 1})

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.rows("t")[0]["b"] == 200


def test_databases_are_opened_and_dropped_by_name(db: MemoryDatabase) -> None:
    assert "unit" in names_of_open_databases()
    with pytest.raises(ValueError, match="open already"):
        open_database("unit")
    with pytest.raises(ValueError, match="exists"):
        db.create_table(SCHEMA)
    drop_database("unit")
    drop_database("unit")
    with source() as reader, pytest.raises(NodeUnavailable):
        reader.poll(1, 0)


@pytest.mark.parametrize("dsn", ["memory://", "postgresql://x", "x", "memory://user@"])
def test_an_address_must_name_a_database(dsn: str) -> None:
    engine = MemoryEngine(NodeConfig("m", "memory", dsn), "g")
    with closing(engine.control()) as control, pytest.raises(ConfigError):
        control.get_state("x")


@given(st.lists(st.tuples(st.sampled_from(["put", "remove", "read"]), st.integers(0, 20)), max_size=60))
def test_keys_stay_sorted_whatever_happens(steps: list[tuple[str, int]]) -> None:
    store = TableStore(SCHEMA)
    expected: set[int] = set()
    for step, number in steps:
        key = store.key(number)
        if step == "put":
            row = pa.RecordBatch.from_pylist([{"id": number}], schema=SCHEMA.arrow)
            store.put([key], row, store.find([key]))
            expected.add(number)
        elif step == "remove" and number in expected:
            store.remove([key])
            expected.remove(number)
        else:
            after = [n for n in sorted(expected) if n > number]
            assert store.keys_after(key) == [store.key(n) for n in after]
            assert store.keys_after(key, 2) == [store.key(n) for n in after[:2]]
    assert store.keys_after(None) == [encode_key((n,), [Kind.INT64]) for n in sorted(expected)]
