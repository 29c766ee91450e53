"""Reading the audit log while it is written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replication.audit import reader, store
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from tests.unit.audit_records import SMALL, changes, clock, conflict, opened


def test_tail_merges_streams_and_filters(tmp_path: Path) -> None:
    with opened(tmp_path, rolling=SMALL) as audit:
        for order in range(1, 30):
            audit.add_changes("pg", 0, "orders", changes([order]))
            audit.add_conflicts([conflict(order, "items" if order % 2 else "orders")])
            audit.flush()
    everything = reader.tail(tmp_path, 1000)
    assert [e["stream"] for e in everything] == ["changes/orders", "conflicts"] * 29
    assert reader.tail(tmp_path, 3) == everything[-3:]
    assert reader.tail(tmp_path, 0) == []
    orders = reader.tail(tmp_path, 5, reader.Filter(table="orders", kind="conflict"))
    assert [e["ident"] for e in orders] == ["c20", "c22", "c24", "c26", "c28"]
    assert [e["id"] for e in reader.tail(tmp_path, 2, reader.Filter(kind="change"))] == [28, 29]
    assert {e["stream"] for e in reader.tail(tmp_path, 9, reader.Filter(table="items"))} == {"conflicts"}


def test_a_follower_sees_each_record_once_across_rolls(tmp_path: Path) -> None:
    audit = AuditWriter(tmp_path, "g", clock(), rolling=SMALL)
    audit.add_changes("pg", 0, "orders", changes([1, 2, 3]))
    audit.flush()
    follower = reader.Follower(tmp_path)
    assert [e["id"] for e in follower.last(2)] == [2, 3]
    assert follower.new() == []
    seen = []
    for order in range(4, 60):
        audit.add_changes("pg", 0, "orders", changes([order]))
        audit.flush()
        if order % 5 == 0:
            seen += [e["id"] for e in follower.new()]
    audit.close()
    seen += [e["id"] for e in follower.new()]
    assert seen == list(range(4, 60))
    assert len(store.segments(store.stream_folder(tmp_path, "changes/orders"))) > 3


def test_a_follower_meets_an_empty_folder(tmp_path: Path) -> None:
    follower = reader.Follower(tmp_path / "nothing")
    assert follower.last(5) == []
    with opened(tmp_path / "nothing") as audit:
        audit.add_operator("started", {})
        audit.flush()
        assert [e["kind"] for e in follower.new()] == ["started"]


def test_a_finished_segment_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ROW_GROUP", 1_000)
    allocated: list[int] = []
    original = pq.ParquetWriter.write_table

    def write_table(self: pq.ParquetWriter, table: pa.Table) -> None:
        allocated.append(pa.total_allocated_bytes())
        original(self, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    with opened(tmp_path, rolling=Rolling(bytes=1 << 30)) as audit:
        for first in range(1, 40_000, 500):
            audit.add_changes("pg", 0, "orders", changes(range(first, first + 500)))
            audit.flush()
    segment = tmp_path / "changes" / "orders" / "00000001.arrow"
    size, before = segment.stat().st_size, pa.total_allocated_bytes()
    store.seal(segment, "changes/orders")
    assert len(allocated) == 40
    assert max(allocated) - before < size / 5
