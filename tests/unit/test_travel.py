"""What travels between actors survives pickling, and carries only the rows it shows."""

from __future__ import annotations

import pickle

import pyarrow as pa

from replication.batch import TableRows
from replication.change import TableChanges
from replication.errors import Fenced

ROWS = pa.record_batch({"a": list(range(100_000))})


def test_a_slice_travels_alone() -> None:
    for kind in (TableRows, TableChanges):
        packed = pickle.dumps(kind("t", ROWS.slice(500, 3)), protocol=5)
        assert len(packed) < 2000
        back = pickle.loads(packed)
        assert (back.table, back.rows.column("a").to_pylist()) == ("t", [500, 501, 502])


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(Fenced("replaced", node="pg", position=7, hint="none")))
    assert isinstance(error, Fenced)
    assert (error.node, error.position, str(error)) == ("pg", 7, "pg: replaced (none)")
