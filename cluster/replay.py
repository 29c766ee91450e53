"""What `replay` does: which node's row goes to the others, for each row that some recorded changes wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cluster.audit_log import open_keys
from cluster.config import GroupConfig
from cluster.repair import Plan, Step
from replication.audit.keys import Keyring
from replication.audit.query import Query, batches
from replication.audit.reader import read
from replication.audit.records import CHANGES
from replication.audit.undecided import undecided
from replication.change import Op
from replication.schema import Table


class Written(NamedTuple):
    """The newest write of a row: when, at a node of which priority, which node that is, and what it was."""

    time: int
    priority: int
    node: str
    op: int


def make_plan(config: GroupConfig, tables: Sequence[Table], query: Query) -> Plan:
    """Which rows to send from where.

    Args:
        config: its nodes' priorities and its audit log count.
        tables: the mapped tables; rows of others are not sent.
        query: which changes.
    """
    keys = open_keys(config.audit_path, config.audit)
    awaiting = {(c["table"], c["key"]) for c in undecided(config.audit_path, keys).values()}
    found, left = Plan([], Counter()), Counter[str]()
    streams = set(query.streams(config.audit_path)) if config.audit_path.is_dir() else set()
    for table in tables:
        if (stream := f"{CHANGES}/{table.name}") not in streams:
            continue
        chosen = _keys(config, stream, query, keys)
        steps: dict[tuple[str, bool], Step] = {}
        for key, written in newest(config, stream, chosen, keys).items():
            if (table.name, key) in awaiting or written.node not in table.mapping.names:
                left[table.name] += 1
                continue
            at = written.node, written.op == Op.DELETE
            steps.setdefault(at, Step(table, *at)).keys.append(key)
        found.steps.extend(steps.values())
    found.left.update(left)
    return found


def _keys(config: GroupConfig, stream: str, query: Query, keys: Keyring | None) -> set[bytes]:
    """The keys that the changes wrote; rows that a copy has read are no changes."""
    chosen: set[bytes] = set()
    for _, rows in batches(config.audit_path, stream, query, keys=keys):
        chosen.update(rows.filter(_is_write(rows)).column("_key").drop_null().to_pylist())
    return chosen


def newest(
    config: GroupConfig, stream: str, chosen: set[bytes], keys: Keyring | None
) -> dict[bytes, Written]:
    """The newest write on record of each of some keys, of the whole log, whatever was asked for."""
    priorities = {node.name: node.priority for node in config.nodes}
    wanted = pa.array(chosen, pa.binary())
    found: dict[bytes, Written] = {}
    for batch in read(config.audit_path, stream, keys) if chosen else ():
        rows = batch.filter(pc.and_(_is_write(batch), pc.is_in(batch.column("_key"), value_set=wanted)))
        columns = (rows.column(name).to_pylist() for name in ("_key", "_ts", "_node", "_op"))
        for key, time, node, op in zip(*columns, strict=True):
            write = Written(time, priorities.get(node, 0), node, op)
            before = found.get(key)
            if before is None or write[:3] >= before[:3]:  # those of one node come in their order
                found[key] = write
    return found


def _is_write(rows: pa.RecordBatch) -> pa.Array:
    return pc.not_equal(rows.column("_op"), int(Op.READ))
