"""The columns of the audit log's streams. Pure: nothing here knows files or a clock.

`_recorded` is when the record reached the audit log, microseconds since 1970 by the writer's clock. `_trace`
of a change is the W3C Trace Context of whoever read it from its node's log; a group without traces has no
such column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, TableRows, by_table, unpack_versions
from replication.change import Op
from replication.marker import Marker
from replication.position import split_order

CHANGES = "changes"
DECISIONS = "decisions"
CONFLICTS = "conflicts"
HOLDS = "holds"
OPERATOR = "operator"

_HELD = "held"
_KEPT = "kept"
_OUTSIDE = "outside"
_RECORDED = ("_recorded", pa.int64())
TRACE = "_trace"
_ORIGIN = pa.schema([("_node", pa.utf8()), ("_shard", pa.int16()), _RECORDED])

DECISION_SCHEMA = pa.schema(
    [
        ("_node", pa.utf8()),
        ("_shard", pa.int16()),
        ("_epoch", pa.int64()),
        ("_seq", pa.int64()),
        ("_table", pa.utf8()),
        ("_op", pa.int8()),
        ("_key", pa.binary()),
        ("_origin", pa.utf8()),
        ("_hi", pa.uint64()),
        ("_lo", pa.uint32()),
        ("_hlc", pa.int64()),
        ("outcome", pa.utf8()),
    ]
)
"""One row sent to `_node`, its version from `_origin`. `outcome` is `committed`, `held`, `kept`,
`outside` or `fenced`, see `Applied`."""

CONFLICT_SCHEMA = pa.schema(
    [
        ("ident", pa.utf8()),
        ("table", pa.utf8()),
        ("key", pa.binary()),
        ("key_text", pa.utf8()),
        ("kind", pa.utf8()),
        ("left_node", pa.utf8()),
        ("left_hi", pa.uint64()),
        ("left_lo", pa.uint32()),
        ("left_ts", pa.int64()),
        ("right_node", pa.utf8()),
        ("right_hi", pa.uint64()),
        ("right_lo", pa.uint32()),
        ("right_ts", pa.int64()),
        ("winner", pa.utf8()),
        ("policy", pa.utf8()),
        ("left_image", pa.utf8()),
        ("right_image", pa.utf8()),
    ]
)

OPERATOR_SCHEMA = pa.schema([("kind", pa.utf8()), ("detail", pa.utf8())])

ERASED = "_erased"
"""Of a record as it is read: the key of its subject was destroyed, and what it held is null."""
_CHANGE_PLACE = frozenset({*_ORIGIN.names, "_op", "_hi", "_lo", "_ts", TRACE, ERASED})
_PAYLOAD = {
    DECISIONS: frozenset({"_key"}),
    CONFLICTS: frozenset({"ident", "key", "key_text", "left_image", "right_image"}),
    HOLDS: frozenset({"key", "key_text", "reason"}),
    OPERATOR: frozenset({"detail"}),
}


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """Two writes of one key, neither of which saw the other, and how that was settled.

    Attributes:
        ident: the same text for the same two writes, however often they are read.
        table: canonical table name.
        key: canonical key.
        key_text: the key for people.
        kind: `insert_insert`, `update_update`, `update_delete`, `delete_update`, `delete_delete` or
            `unique_violation`.
        left_node: where the left write was made; `left_hi`, `left_lo` are its order in that node's log and
            `left_ts` its commit time, microseconds since 1970. Likewise `right_*`.
        winner: node of the surviving write, or `merged`.
        policy: the policy that decided.
        left_image: the written row as JSON text, None for a delete; likewise `right_image`.
    """

    ident: str
    table: str
    key: bytes
    key_text: str
    kind: str
    left_node: str
    left_hi: int
    left_lo: int
    left_ts: int
    right_node: str
    right_hi: int
    right_lo: int
    right_ts: int
    winner: str
    policy: str
    left_image: str | None = None
    right_image: str | None = None


def payload_columns(stream: str, names: Sequence[str]) -> frozenset[str]:
    """Which columns hold what applications wrote, keys included; the others say where and when."""
    if stream.partition("/")[0] == CHANGES:
        return frozenset(names) - _CHANGE_PLACE
    return _PAYLOAD[stream] & frozenset(names)


def stamp(rows: pa.RecordBatch, recorded: int) -> pa.RecordBatch:
    """The rows with `_recorded` as their first column."""
    column = pa.repeat(pa.scalar(recorded, pa.int64()), rows.num_rows)
    schema = pa.schema([_RECORDED, *rows.schema])
    return pa.RecordBatch.from_arrays([column, *rows.columns], schema=schema)


def change_records(
    node: str, shard: int, rows: pa.RecordBatch, recorded: int, trace: str | None = None
) -> pa.RecordBatch:
    """Change rows as they are recorded: where they came from, then the batch's own columns.

    Args:
        node: whose log they were read from.
        shard: the shard that owns their keys.
        rows: the changes.
        recorded: see the module.
        trace: likewise; empty if this batch has none, None if the group has none.
    """
    count = rows.num_rows
    constants = [
        pa.repeat(pa.scalar(node), count),
        pa.repeat(pa.scalar(shard, pa.int16()), count),
        pa.repeat(pa.scalar(recorded, pa.int64()), count),
    ]
    fields = [*_ORIGIN]
    if trace is not None:
        constants.append(pa.repeat(pa.scalar(trace or None, pa.utf8()), count))
        fields.append(pa.field(TRACE, pa.utf8()))
    return pa.RecordBatch.from_arrays([*constants, *rows.columns], schema=pa.schema([*fields, *rows.schema]))


def newer_than(rows: pa.RecordBatch, mark: int) -> tuple[pa.RecordBatch, int]:
    """The rows of a change batch after the order `mark`, and the order of the last of them.

    Rows that the initial copy read (`Op.READ`) have no place of their own in the log: all are kept, and none
    moves the mark.
    """
    hi = rows.column("_hi").to_numpy()
    lo = rows.column("_lo").to_numpy()
    change = rows.column("_op").to_numpy() != Op.READ
    mark_hi, mark_lo = split_order(mark)
    new = (hi > np.uint64(mark_hi)) | ((hi == np.uint64(mark_hi)) & (lo > np.uint32(mark_lo)))
    last = mark
    places = np.flatnonzero(new & change)
    if len(places):
        last = (int(hi[places[-1]]) << 32) | int(lo[places[-1]])
    keep = new | ~change
    return (rows if keep.all() else rows.filter(pa.array(keep))), last


def decision_records(batch: ApplyBatch, applied: Applied, nodes: Sequence[str]) -> pa.RecordBatch:
    """What became of every row of an apply batch; the columns are `DECISION_SCHEMA`.

    Args:
        batch: what was sent.
        applied: the node's answer.
        nodes: sorted node names, which `_origin` indexes.
    """
    parts = []
    for table in batch.tables:
        outcome = _outcomes(table, applied)
        parts.append(_decisions(batch.node, batch.marker, table.table, table.rows, outcome, nodes))
    return _joined(parts)


def echoed_decisions(
    node: str, marker: Marker, held: Sequence[HeldRow], nodes: Sequence[str]
) -> pa.RecordBatch:
    """The same of a batch whose answer nobody received, from its marker as the node's log shows it.

    Rows of an initial copy that the node kept are not among them: the batch did not carry them.

    Args:
        node: whose log it is.
        marker: the batch's marker.
        held: rows that the node refuses.
        nodes: sorted node names, which `_origin` indexes.
    """
    parts = []
    for name, rows in by_table(unpack_versions(marker.versions)).items():
        outcome = _outcomes(TableRows(name, rows), Applied(Outcome.COMMITTED, held))
        parts.append(_decisions(node, marker, name, rows, outcome, nodes))
    return _joined(parts)


def _joined(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    empty = [pa.array([], f.type) for f in DECISION_SCHEMA]
    return pa.concat_batches([*parts] or [pa.RecordBatch.from_arrays(empty, schema=DECISION_SCHEMA)])


def _mark(outcome: pa.Array, rows: pa.RecordBatch, keys: Sequence[bytes], what: str) -> pa.Array:
    marked = pc.is_in(rows.column("_key"), value_set=pa.array(keys, pa.binary()))
    return pc.if_else(marked, pa.scalar(what), outcome)


def _outcomes(table: TableRows, applied: Applied) -> pa.Array:
    rows = table.rows
    fenced = applied.outcome is Outcome.FENCED
    outcome = pa.repeat(pa.scalar("fenced" if fenced else "committed"), rows.num_rows)
    held = [h.key for h in applied.held if h.table == table.table]
    kept = [key for t, key in applied.kept if t == table.table]
    outside = [key for t, key in applied.outside if t == table.table]
    if outside and not fenced:
        outcome = _mark(outcome, rows, outside, _OUTSIDE)
    if kept and not fenced:
        outcome = _mark(outcome, rows, kept, _KEPT)
    if held and not fenced:
        outcome = _mark(outcome, rows, held, _HELD)
    return outcome


def _decisions(
    node: str, marker: Marker, table: str, rows: pa.RecordBatch, outcome: pa.Array, nodes: Sequence[str]
) -> pa.RecordBatch:
    """Records of rows that have `batch.VERSION_COLUMNS`."""
    count = rows.num_rows
    columns = [
        pa.repeat(pa.scalar(node), count),
        pa.repeat(pa.scalar(marker.shard, pa.int16()), count),
        pa.repeat(pa.scalar(marker.epoch, pa.int64()), count),
        pa.repeat(pa.scalar(marker.seq, pa.int64()), count),
        pa.repeat(pa.scalar(table), count),
        rows.column("_op"),
        rows.column("_key"),
        pa.array(nodes, pa.utf8()).take(rows.column("_origin")),
        rows.column("_hi"),
        rows.column("_lo"),
        rows.column("_hlc"),
        outcome,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DECISION_SCHEMA)


def as_columns(records: Sequence[object], schema: pa.Schema) -> pa.RecordBatch:
    """Records as columns: of each the attributes that the schema names."""
    columns = [pa.array([getattr(r, f.name) for r in records], f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def operator_records(records: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """Operator records as columns: kind, and detail as JSON text."""
    kinds, details = zip(*records, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(kinds), pa.array(details)], schema=OPERATOR_SCHEMA)
