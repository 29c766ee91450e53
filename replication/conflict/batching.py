"""From decided versions to Arrow and back: what an applier writes, and what an echo says was written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.batch import (
    APPLY_COLUMNS,
    ApplyBatch,
    TableRows,
    apply_schema,
    pack_versions,
    unpack_versions,
)
from replication.change import Echo, Op
from replication.conflict.exchange import EchoedRow, Outgoing
from replication.conflict.rows import Run
from replication.conflict.version import ALL, Layer, Version
from replication.position import order_of, split_order
from replication.schema import TableSchema


def to_apply_batch(
    outgoing: Outgoing, schemas: Mapping[str, TableSchema], nodes: Sequence[str]
) -> ApplyBatch:
    """Make Arrow of a batch: runs as whole columns, single versions row by row.

    Args:
        outgoing: what the shard formed.
        schemas: canonical table name to schema.
        nodes: the sorted node names, which `_origin` counts.
    """
    parts: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for run, excluded in zip(outgoing.runs, outgoing.excluded, strict=True):
        batch = _run_rows(run, excluded, schemas[run.rows.table], nodes)
        if batch.num_rows:
            parts[run.rows.table].append(batch)
    versions: dict[str, list[tuple[bytes, Version]]] = defaultdict(list)
    for table, key, version in outgoing.versions:
        versions[table].append((key, version))
    for table, rows in versions.items():
        parts[table].append(_version_rows(rows, schemas[table], nodes))
    tables = [TableRows(t, _concat(batches)) for t, batches in parts.items()]
    marker = replace(outgoing.marker, versions=pack_versions(tables))
    return ApplyBatch(outgoing.node, marker, tables)


def echoed_rows(echo: Echo, schemas: Mapping[str, TableSchema], nodes: Sequence[str]) -> list[EchoedRow]:
    """The decisions in an echo that was decoded, each with the row as the node shows it.

    A row that the node did not have to write (it held the same values, or nothing to delete) has no layers,
    nor has one of which the log shows only a part: the rest is not null, but as it was. Nor has one that the
    node's filter excludes: the log shows its delete, the marker that it lives on elsewhere.
    """
    shown: dict[tuple[str, bytes], Layer] = {}
    for changes in echo.rows:
        there = pc.not_equal(changes.rows.column("_op"), int(Op.DELETE))
        whole = pc.and_(there, changes.rows.column("_have").is_null()).to_pylist()
        for index, key in enumerate(changes.rows.column("_key").to_pylist()):
            if whole[index]:
                shown[changes.table, key] = Layer(changes.rows, index)
    rows = []
    for r in unpack_versions(echo.marker.versions).to_pylist():
        op = Op(r["_op"])
        layer = shown.get((r["_table"], r["_key"]))
        layers = () if op is Op.DELETE or layer is None else (layer,)
        dot = order_of(r["_hi"], r["_lo"])
        version = Version(nodes[r["_origin"]], dot, r["_hlc"], op, {}, layers)
        rows.append(EchoedRow(r["_table"], r["_key"], version))
    return [r for r in rows if r.table in schemas]


def _run_rows(
    run: Run, excluded: frozenset[int], schema: TableSchema, nodes: Sequence[str]
) -> pa.RecordBatch:
    rows: pa.RecordBatch = run.rows.batch
    count = rows.num_rows
    op = rows.column("_op").to_numpy(zero_copy_only=False)
    columns = {
        "_op": pa.array(np.where((op == Op.DELETE) | (op == Op.READ), op, Op.UPDATE).astype(np.int8)),
        "_key": rows.column("_key"),
        "_have": rows.column("_have"),
        "_origin": pa.array(np.full(count, nodes.index(run.node), np.int16)),
        "_hi": rows.column("_hi"),
        "_lo": rows.column("_lo"),
        "_hlc": rows.column("_ts"),
    }
    arrays = [columns[n] for n, _ in APPLY_COLUMNS] + [rows.column(c.name) for c in schema.columns]
    batch = pa.RecordBatch.from_arrays(arrays, schema=apply_schema(schema.arrow))
    if not excluded:
        return batch
    keep = np.ones(count, bool)
    keep[list(excluded)] = False
    return batch.filter(pa.array(keep))


def _version_rows(
    rows: Sequence[tuple[bytes, Version]], schema: TableSchema, nodes: Sequence[str]
) -> pa.RecordBatch:
    every = (1 << len(schema.columns)) - 1
    system: list[list[Any]] = [[] for _ in APPLY_COLUMNS]
    for key, v in rows:
        delete = v.op is Op.DELETE
        full = not v.layers if delete else v.have & every == every
        have = None if full else (v.have & every).to_bytes(-(-len(schema.columns) // 8), "little")
        hi, lo = split_order(v.order)
        op = Op.DELETE if delete else Op.UPDATE
        values = (int(op), key, have, nodes.index(v.node), hi, lo, v.time)
        for values_of, value in zip(system, values, strict=True):
            values_of.append(value)
    arrays = [pa.array(c, t) for c, (_, t) in zip(system, APPLY_COLUMNS, strict=True)]
    for bit, column in enumerate(schema.columns):
        arrays.append(_gather(rows, bit, column.name, column.type.arrow))
    return pa.RecordBatch.from_arrays(arrays, schema=apply_schema(schema.arrow))


def _gather(rows: Sequence[tuple[bytes, Version]], bit: int, name: str, kind: pa.DataType) -> pa.Array:
    """One column of many versions, each from the layer that shows it; null where none does."""
    sources: dict[int, int] = {}
    chunks: list[pa.Array] = [pa.nulls(1, kind)]
    picks: list[int] = []
    starts = [0]
    for _, version in rows:
        layer = next((la for la in version.layers if la.mask == ALL or la.mask >> bit & 1), None)
        if layer is None:
            picks.append(0)
            continue
        at = sources.get(id(layer.rows))
        if at is None:
            at = sources[id(layer.rows)] = starts[-1] + len(chunks[-1])
            chunks.append(layer.rows.column(name))
            starts.append(at)
        picks.append(at + layer.index)
    return pa.concat_arrays(chunks).take(pa.array(picks, pa.int64()))


def _concat(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.to_batches()[0]


def layer_values(version: Version, schema: TableSchema) -> dict[str, Any]:
    """The columns that a version holds, as Python values."""
    values: dict[str, Any] = {}
    for bit, column in enumerate(schema.columns):
        layer = next((la for la in version.layers if la.mask >> bit & 1), None)
        if layer is not None:
            values[column.name] = layer.rows.column(column.name)[layer.index].as_py()
    return values
