"""How many records a second the audit log takes: encrypted, with its tree and heads, each flush durable."""

from __future__ import annotations

import secrets
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from load.bench_bed import Line, Sizes
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.change import Op, change_schema

GOAL = 50_000
FLUSH_ROWS = 1_000
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


def measure(sizes: Sizes) -> list[Line]:
    """Record `sizes.rows` changes of seven columns, a flush for every thousand, and close the log."""
    batches = [_changes(first, FLUSH_ROWS) for first in range(1, max(sizes.rows, 2), FLUSH_ROWS)]
    rate = {}
    for is_encrypted in (False, True):
        with tempfile.TemporaryDirectory(prefix="sync-bench-audit-") as folder:
            path = Path(folder)
            keys = Keyring(path, SoftwareMasterKey(secrets.token_hex(32))) if is_encrypted else None
            began = time.perf_counter()
            with closing(_writer(path, keys)) as audit:
                for batch in batches:
                    audit.add_changes("a", 0, "orders", batch)
                    audit.flush()
            rate[is_encrypted] = len(batches) * FLUSH_ROWS / (time.perf_counter() - began)
    return [
        Line(
            "audit records",
            f"{rate[True]:,.0f} records/s (in clear {rate[False]:,.0f})",
            f"{rate[True] / rate[False]:.2f}",
            f">= {GOAL // 1000} k/s",
            rate[True] >= GOAL,
            f"a durable flush every {FLUSH_ROWS:,} records",
        )
    ]


def _writer(path: Path, keys: Keyring | None) -> AuditWriter:
    rolling = Rolling(bytes=16 * 1024 * 1024, head_seconds=1)
    return AuditWriter(path, "bench", lambda: time.time_ns() // 1000, rolling=rolling, keys=keys)


def _changes(first: int, count: int) -> pa.RecordBatch:
    numbers = range(first, first + count)
    schema = change_schema(_DATA)
    columns = {
        "_op": [int(Op.INSERT)] * count,
        "_hi": numbers,
        "_lo": [0] * count,
        "_ts": numbers,
        "_key": [n.to_bytes(9, "big") for n in numbers],
        "id": numbers,
        "customer": [n % 1000 for n in numbers],
        "amount": [f"{n}.95" for n in numbers],
        "status": ["open"] * count,
        "note": [f"left at the door of number {n}" for n in numbers],
        "at": numbers,
        "paid": [n % 2 == 0 for n in numbers],
    }
    arrays = [pa.array(columns[f.name] if f.name in columns else [None] * count, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
