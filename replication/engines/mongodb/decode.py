"""Events of one table to one Arrow batch of changes. Owns no connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import numpy as np
import pyarrow as pa

from replication.change import Op, change_schema
from replication.engines.mongodb.config import Document
from replication.engines.mongodb.delta import (
    DeltaMismatch,
    NeedsBeforeImage,
    after_image,
    known_parts,
    touched,
)
from replication.engines.mongodb.layout import Layout
from replication.errors import Terminal

_EMPTY: Document = {}


@dataclass(slots=True)
class Row:
    """One change, its values still BSON.

    Attributes:
        op: insert, update or delete.
        order: its order in the log.
        ts: commit time in microseconds.
        key: a document with `_id`.
        after: the document afterwards; empty after a delete; only what is known if `known` is set.
        before: the document before, or None if unknown or there was none.
        known: places of the columns whose value is known; None means all.
        problem: why the after-image could not be made; empty if it could.
    """

    op: Op
    order: int
    ts: int
    key: Document
    after: Document
    before: Document | None = None
    known: frozenset[int] | None = None
    problem: str = ""


def read_row(event: Mapping[str, Any], order: int, layout: Layout) -> Row:
    """The change in an `insert`, `update`, `replace` or `delete` event.

    Raises:
        Terminal: an update inside a mapped value came without a before-image.
    """
    ts = commit_time(event)
    key = event["documentKey"]
    before = event.get("fullDocumentBeforeChange")
    match event["operationType"]:
        case "insert":
            return Row(Op.INSERT, order, ts, key, event["fullDocument"])
        case "replace":
            return Row(Op.UPDATE, order, ts, key, event["fullDocument"], before)
        case "delete":
            return Row(Op.DELETE, order, ts, key, _EMPTY)
    description = event["updateDescription"]
    if before is None:
        return _partial(description, Row(Op.UPDATE, order, ts, key, {}), layout)
    try:
        return Row(Op.UPDATE, order, ts, key, after_image(before, description), before)
    except DeltaMismatch as error:
        return Row(Op.UPDATE, order, ts, key, _EMPTY, problem=str(error))


def commit_time(event: Mapping[str, Any]) -> int:
    """Commit time in microseconds; by the cluster time's seconds where the server gives no closer one."""
    wall = event.get("wallTime")
    return int(wall) * 1000 if wall is not None else event["clusterTime"].time * 1_000_000


def _partial(description: Mapping[str, Any], row: Row, layout: Layout) -> Row:
    try:
        known = known_parts(description, layout.paths)
        if layout.rest is not None and (others := touched(description) - layout.taken):
            raise NeedsBeforeImage(min(others))
    except NeedsBeforeImage as error:
        message = (
            f"an update changed {error} in {layout.collection}, inside a mapped value, and its before-image "
            "is not there"
        )
        hint = "enable pre-images, keep them as long as the oplog, and copy the collection again"
        raise Terminal(message, position=row.order, hint=hint) from None
    for place, value in known.items():
        _plant(row.after, layout.paths[place], value)
    row.known = frozenset(known) | frozenset(layout.key_places)
    return row


def _plant(document: Document, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = value


def to_batch(rows: Sequence[Row], layout: Layout) -> tuple[pa.RecordBatch, dict[int, tuple[bytes, str]]]:
    """Rows of one table to a change batch.

    Returns:
        the batch, and for each row that cannot be read its key (empty if that is the reason) and why. Such
        rows are in the batch with nulls; the caller must not pass them on.
    """
    keys, columns, errors = layout.decode([r.after for r in rows], [r.key for r in rows])
    errors |= {i: r.problem for i, r in enumerate(rows) if r.problem}
    known_keys = keys.to_pylist() if errors else []
    bad = {i: (known_keys[i] or b"", reason) for i, reason in errors.items()}
    orders = [r.order for r in rows]
    system = [
        pa.array([r.op for r in rows], pa.int8()),
        pa.array([o >> 32 for o in orders], pa.uint64()),
        pa.array([o & 0xFFFFFFFF for o in orders], pa.uint32()),
        pa.array([r.ts for r in rows], pa.int64()),
        keys,
        _have(rows, layout),
        _changed(rows, layout),
    ]
    batch = pa.RecordBatch.from_arrays([*system, *columns], schema=change_schema(layout.arrow))
    return batch, bad


def _have(rows: Sequence[Row], layout: Layout) -> pa.Array:
    width = len(layout.columns)
    bits = [None if r.known is None else pack_bits(r.known, width) for r in rows]
    every = frozenset(range(width))
    for i, absent in _absent(rows, layout).items():
        bits[i] = pack_bits(every - absent, width)
    return pa.array(bits, pa.binary())


def _absent(rows: Sequence[Row], layout: Layout) -> dict[int, frozenset[int]]:
    """For each row the late columns of which it says nothing: it may be older than they are."""
    if not layout.late:
        return {}
    after = [r.after for r in rows]
    before = [r.before or _EMPTY for r in rows]
    found: dict[int, set[int]] = {}
    for place in layout.late:
        pairs = zip(layout.values(before, place), layout.values(after, place), strict=True)
        for i, (old, new) in enumerate(pairs):
            if old is None and new is None and rows[i].op != Op.DELETE and rows[i].known is None:
                found.setdefault(i, set()).add(place)
    return {i: frozenset(places) for i, places in found.items()}


def _changed(rows: Sequence[Row], layout: Layout) -> pa.Array:
    compared = [i for i, r in enumerate(rows) if r.before is not None]
    bits: list[bytes | None] = [None] * len(rows)
    if compared:
        before = [rows[i].before or _EMPTY for i in compared]
        after = [rows[i].after for i in compared]
        differs = np.zeros((len(compared), len(layout.columns)), np.bool_)
        for place in layout.data_places:
            pairs = zip(layout.values(before, place), layout.values(after, place), strict=True)
            differs[:, place] = [a is not b and _differ(a, b) for a, b in pairs]
        packed = np.packbits(differs, axis=1, bitorder="little")
        for row, i in zip(packed, compared, strict=True):
            bits[i] = row.tobytes()
    width = len(layout.columns)
    keys = frozenset(layout.key_places)
    for i, row_ in enumerate(rows):
        if row_.known is not None:
            bits[i] = pack_bits(row_.known - keys, width)
    return pa.array(bits, pa.binary())


def _differ(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return True
    if isinstance(a, (dict, list)):
        return bson.encode({"": a}) != bson.encode({"": b})
    return bool(a != b) and not (a != a and b != b)


def pack_bits(places: frozenset[int], width: int) -> bytes:
    """A bit per column, little-endian, as `_have` and `_changed` hold them."""
    return sum(1 << place for place in places).to_bytes((width + 7) // 8, "little")
