"""Conflicts that await a person's decision (policy `manual`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from replication.audit.reader import read, streams
from replication.audit.records import CONFLICTS, OPERATOR
from replication.audit.stored import DataKeys
from replication.conflict.policy import MANUAL
from replication.position import order_of

RESOLVED = "conflict_resolved"
"""Kind of the operator record that ends conflicts; its detail names their `idents`, and what was done."""
Record = dict[str, Any]


def undecided(path: Path, keys: DataKeys | None = None) -> dict[str, Record]:
    """The conflicts that put a key on hold and that nobody has resolved.

    Args:
        path: the audit log's folder.
        keys: for a log that is encrypted.

    Returns:
        the fields of `ConflictRecord` and `_recorded` by ident, oldest first.
    """
    found: dict[str, Record] = {}
    known = streams(path) if path.is_dir() else []
    for batch in read(path, CONFLICTS, keys) if CONFLICTS in known else ():
        awaits = pc.and_(pc.equal(batch.column("policy"), MANUAL), pc.equal(batch.column("winner"), ""))
        found |= {row["ident"]: row for row in batch.filter(awaits).to_pylist()}
    for resolution in resolutions(path, keys) if found else ():
        for ident in resolution["idents"]:
            found.pop(ident, None)
    return found


def resolutions(path: Path, keys: DataKeys | None = None) -> Iterable[Record]:
    """What operators did to end conflicts, oldest first."""
    for batch in read(path, OPERATOR, keys) if OPERATOR in streams(path) else ():
        for text in batch.filter(pc.equal(batch.column("kind"), RESOLVED)).column("detail").to_pylist():
            yield json.loads(text)


def newest_writes(conflicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """For each node the order of its newest write among conflicts of one key."""
    newest: dict[str, int] = {}
    for conflict in conflicts:
        for side in ("left", "right"):
            node = conflict[f"{side}_node"]
            order = order_of(conflict[f"{side}_hi"], conflict[f"{side}_lo"])
            newest[node] = max(order, newest.get(node, 0))
    return newest
