"""Nobody received a node's answer: what became of its batch is put on record by the successor, once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.audit import AuditQueue, Record
from actors.pipeline import Pipeline
from actors.resolver import Resolver
from replication.audit import reader
from replication.audit.holds import open_holds
from replication.audit.writer import AuditWriter
from replication.change import Changes
from replication.engines.memory import MemoryEngine, drop_database, open_database
from replication.position import Position
from replication.schema import NodeConfig, Table, TableMapping, TableSchema
from replication.types import Kind
from tests.fixtures.postgres_node import wait_for
from tests.fixtures.tables import column

COLUMNS = (column("id", Kind.INT64, "bigint", nullable=False), column("qty", Kind.INT64, "bigint"))
SCHEMA = TableSchema("t", COLUMNS, ("id",))
TABLE = Table(TableMapping("t", ("id",), {"a": "t", "b": "t"}), SCHEMA)
REFUSED = 13
NOTHING = Changes((), Position(1, ""))


@pytest.fixture
def databases() -> Iterator[dict[str, Any]]:
    made = {n: open_database(f"lost-{n}") for n in "ab"}
    for database in made.values():
        database.create_table(SCHEMA)
    made["b"].faults.refuse = lambda table, row: "unlucky" if row["qty"] == REFUSED else None
    yield made
    for n in made:
        drop_database(f"lost-{n}")


@contextmanager
def running(folder: Path) -> Iterator[Pipeline]:
    engines = {n: MemoryEngine(NodeConfig(n, "memory", f"memory://lost-{n}"), "g") for n in "ab"}
    writer = AuditWriter(folder, "g", lambda: time.time_ns() // 1000)
    pipeline = Pipeline("g", engines, [TABLE], writer)
    try:
        yield pipeline
    finally:
        pipeline.stop()


def decisions(folder: Path) -> list[tuple[str, int, str]]:
    """Node, number of the write at `a`, and outcome."""
    if "decisions" not in reader.streams(folder):
        return []
    rows = [r for batch in reader.read(folder, "decisions") for r in batch.to_pylist()]
    return sorted((r["_node"], int.from_bytes(r["_key"], "big") & 0xFF, r["outcome"]) for r in rows)


def test_a_batch_whose_answer_was_lost_is_on_record_once(
    databases: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = databases["a"], databases["b"]
    with monkeypatch.context() as deaf:
        deaf.setattr(Resolver, "on_applied", lambda self, batch, answer: None)
        with running(tmp_path):
            with a.transaction() as tx:
                for ident, qty in ((1, 1), (2, REFUSED), (3, 3)):
                    tx.insert("t", {"id": ident, "qty": qty})
            wait_for(lambda: len(b.rows("t")) == 2)
    assert decisions(tmp_path) == []
    expected = [("b", 1, "committed"), ("b", 2, "held"), ("b", 3, "committed")]
    for _ in range(2):
        with running(tmp_path):
            wait_for(lambda: decisions(tmp_path) == expected)
            wait_for(lambda: [h["reason"] for h in open_holds(tmp_path)] == ["unlucky"])
    assert decisions(tmp_path) == expected
    with running(tmp_path):
        with a.transaction() as tx:
            tx.update("t", (2,), {"qty": 2})
        wait_for(lambda: len(b.rows("t")) == 3)
    assert open_holds(tmp_path) == []


def test_records_never_follow_ones_that_are_missing(tmp_path: Path) -> None:
    failing = True
    written: list[Record] = []

    def write(records: list[Record]) -> None:
        if failing:
            message = "no space left"
            raise OSError(message)
        written.extend(records)

    queue = AuditQueue(write, {"t": SCHEMA}, "ab")
    assert isinstance(queue.changes("a", 0, NOTHING).exception(timeout=10), OSError)
    failing = False
    assert isinstance(queue.changes("a", 0, NOTHING).exception(timeout=10), OSError)
    queue.close()
    assert written == []


def test_a_conflict_is_written_at_once_since_batches_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.audit.PAUSE_SECONDS", 3600.0)
    written: list[Record] = []
    queue = AuditQueue(written.extend, {"t": SCHEMA}, "ab")
    queue.changes("a", 0, NOTHING).result(timeout=10)
    waiting = queue.changes("a", 0, NOTHING)  # it has no hurry
    queue.conflicts([]).result(timeout=10)
    assert waiting.done()
    queue.close()
    assert len(written) == 3
