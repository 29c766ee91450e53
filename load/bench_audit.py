"""How many records a second the audit log takes: encrypted, with its tree and heads, each flush durable."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from actors.audit import AuditLog, ChangeRecords, DecisionRecords
from load.bench_bed import Line, Sizes
from replication.audit import evidence, store
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.records import DECISION_SCHEMA
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.change import Op, TableChanges, change_schema

GOAL = 50_000
FLUSH_ROWS = 1_000
"""Changes of one flush; what became of them at the other node comes on top."""
SEGMENT_BYTES = 16 << 20
_DATA = pa.schema(
    [
        ("id", pa.int64()),
        ("customer", pa.int64()),
        ("amount", pa.utf8()),
        ("status", pa.utf8()),
        ("note", pa.utf8()),
        ("at", pa.timestamp("us", "UTC")),
        ("paid", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Written:
    """A log that was written.

    Attributes:
        rate: records per second, from the first to a log that is closed and sealed.
        processor: microseconds of it that each took.
        sealed: how many segments became Parquet meanwhile.
        heads: how many heads were signed.
    """

    rate: float
    processor: float
    sealed: int
    heads: int


def measure(sizes: Sizes) -> list[Line]:
    """Record `sizes.rows` changes of seven columns, and what became of each, and close the log."""
    numbers = range(1, max(sizes.rows, 2), FLUSH_ROWS)
    batches = [(_changes(first, FLUSH_ROWS), _decisions(first, FLUSH_ROWS)) for first in numbers]
    clear, encrypted = _write(batches, is_encrypted=False), _write(batches, is_encrypted=True)
    return [
        Line(
            "audit records",
            f"{encrypted.rate:,.0f} records/s (in clear {clear.rate:,.0f})",
            f"{encrypted.rate / clear.rate:.2f}",
            f">= {GOAL // 1000} k/s",
            encrypted.rate >= GOAL,
            f"{encrypted.processor:.1f} us of processor for each of {2 * FLUSH_ROWS * len(batches):,}, "
            f"a durable flush every {2 * FLUSH_ROWS:,}; {encrypted.sealed} segments became Parquet, "
            f"{encrypted.heads} heads were signed",
        )
    ]


def _write(batches: list[tuple[ChangeRecords, DecisionRecords]], *, is_encrypted: bool) -> Written:
    """Write a log as the audit part of a group does, and count that all of it is there."""
    with tempfile.TemporaryDirectory(prefix="sync-bench-audit-") as folder:
        path = Path(folder)
        keys = Keyring(path, SoftwareMasterKey(secrets.token_hex(32))) if is_encrypted else None
        began, used = time.perf_counter(), time.process_time()
        with closing(_writer(path, keys)) as writer:
            log = AuditLog(writer)
            for batch in batches:
                log.write(batch)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        files = [f for s in store.streams(path) for f in store.segments(store.stream_folder(path, s))]
        stored = (evidence.stored_segment(file) for file in files)
        found = sum(segment.rows for segment in stored if segment)
        heads = sum(1 for _ in evidence.head_lines(path))
    records = 2 * FLUSH_ROWS * len(batches)
    assert found == records, f"{found:,} of {records:,} records are in the log"
    return Written(records / seconds, used / records * 1e6, sum(file.sealed for file in files), heads)


def _writer(path: Path, keys: Keyring | None) -> AuditWriter:
    rolling = Rolling(bytes=SEGMENT_BYTES, head_seconds=1)
    return AuditWriter(path, "bench", lambda: time.time_ns() // 1000, rolling=rolling, keys=keys)


def _changes(first: int, count: int) -> ChangeRecords:
    """Changes at the node `a`."""
    numbers = range(first, first + count)
    columns: dict[str, Sequence[object]] = {
        "_op": [int(Op.INSERT)] * count,
        "_hi": numbers,
        "_lo": [0] * count,
        "_ts": numbers,
        "_key": _keys(numbers),
        "id": numbers,
        "customer": [n % 1000 for n in numbers],
        "amount": [f"{n}.95" for n in numbers],
        "status": ["open"] * count,
        "note": [f"left at the door of number {n}" for n in numbers],
        "at": numbers,
        "paid": [n % 2 == 0 for n in numbers],
    }
    return ChangeRecords("a", 0, [TableChanges("orders", _batch(change_schema(_DATA), columns, count))])


def _decisions(first: int, count: int) -> DecisionRecords:
    """What became of them at the node `b`."""
    numbers = range(first, first + count)
    columns: dict[str, Sequence[object]] = {
        "_node": ["b"] * count,
        "_shard": [0] * count,
        "_epoch": [1] * count,
        "_seq": [first] * count,
        "_table": ["orders"] * count,
        "_op": [int(Op.UPDATE)] * count,
        "_key": _keys(numbers),
        "_origin": ["a"] * count,
        "_hi": numbers,
        "_lo": [0] * count,
        "_hlc": numbers,
        "outcome": ["committed"] * count,
    }
    return DecisionRecords(_batch(DECISION_SCHEMA, columns, count))


def _keys(numbers: range) -> list[bytes]:
    return [n.to_bytes(9, "big") for n in numbers]


def _batch(schema: pa.Schema, columns: Mapping[str, Sequence[object]], count: int) -> pa.RecordBatch:
    arrays = [pa.array(columns[f.name] if f.name in columns else [None] * count, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
