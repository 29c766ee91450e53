"""Rows for the audit log's tests, and a child process that writes until it is killed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pyarrow as pa

from replication.audit import reader
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.records import ConflictRecord
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.change import Op, change_schema

DATA = pa.schema([("id", pa.int64()), ("note", pa.utf8())])
SMALL = Rolling(bytes=6_000, seconds=3600)
"""Rolls after a few flushes."""


def changes(orders: list[int] | range, op: Op = Op.INSERT, data: pa.Schema = DATA) -> pa.RecordBatch:
    """One change per order; `id` is the order."""
    columns = {
        "_op": [int(op)] * len(orders),
        "_hi": [o >> 32 for o in orders],
        "_lo": [o & 0xFFFFFFFF for o in orders],
        "_ts": list(orders),
        "_key": [o.to_bytes(12, "big") for o in orders],
        "id": list(orders),
        "note": [f"note {o}" for o in orders],
    }
    schema = change_schema(data)
    return pa.RecordBatch.from_arrays(
        [pa.array(columns.get(f.name, [None] * len(orders)), f.type) for f in schema], schema=schema
    )


def conflict(number: int, table: str = "orders") -> ConflictRecord:
    return ConflictRecord(
        f"c{number}",
        table,
        b"k",
        "k",
        "update_update",
        "pg",
        number,
        0,
        1,
        "mongo",
        2,
        0,
        2,
        "pg",
        "last_write_wins",
    )


def recorded(path: Path, stream: str = "changes/orders", column: str = "id") -> list:
    return [value for batch in reader.read(path, stream) for value in batch.column(column).to_pylist()]


def counted(path: Path, node: str) -> dict[str, Counter[int]]:
    """How often each change of a node is on record, by table."""
    found: dict[str, Counter[int]] = {}
    for stream in reader.streams(path):
        kind, _, table = stream.partition("/")
        for batch in reader.read(path, stream) if kind == "changes" else ():
            rows = zip(batch.column("_node").to_pylist(), batch.column("id").to_pylist(), strict=True)
            found.setdefault(table, Counter()).update(i for n, i in rows if n == node)
    return found


def write_until_killed(path: Path, start: int, mode: str = "", key: str = "") -> None:
    """Flush transactions over two tables for ever; a line `order` on standard output acknowledges each.

    With the mode `heads` a head is signed with every flush, and with a key the log is encrypted.
    """
    clock = time.time_ns
    keys = Keyring(path, SoftwareMasterKey(key)) if key else None
    rolling = replace(SMALL, head_seconds=0) if mode == "heads" else SMALL
    writer = AuditWriter(path, "g", lambda: clock() // 1000, rolling=rolling, keys=keys)
    order = start
    while True:
        rows = 1 + order % 7
        span = range(order, order + rows)
        writer.add_changes("pg", 0, "orders", changes(span))
        writer.add_changes("pg", 0, "items", changes(span))
        writer.add_conflicts([conflict(o) for o in span])
        writer.flush()
        order += rows
        sys.stdout.write(f"{order}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])


def clock() -> Callable[[], int]:
    return count(1_000_000).__next__


def opened(path: Path, **options) -> closing[AuditWriter]:
    return closing(AuditWriter(path, "g", clock(), **options))
