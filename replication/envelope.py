"""Changes of the audit log as messages for Kafka: Debezium's envelope, as JSON without schemas. Pure.

A record becomes one message, a delete two: the event and a tombstone. The key is made from the canonical key,
so it is the same text for the same row, whichever node wrote it. Headers say where a message comes from, and
what a consumer knows a repeat by.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from replication.audit.feed import Added
from replication.audit.records import ERASED, TRACE
from replication.change import SYSTEM_COLUMNS, Op
from replication.key import key_columns
from replication.schema import TableSchema
from replication.types import Kind

UNAVAILABLE = "__debezium_unavailable_value"
"""In the place of a value that the node's log leaves out, as Debezium has it."""
SEQUENCE, POSITION, LOG = "sync-worker.sequence", "sync-worker.position", "sync-worker.log"
"""The headers: a number that only grows in a partition, the place in the node's log, whose number it is."""
TRACEPARENT = "traceparent"
"""The header with the W3C Trace Context of whoever read the change, where it has one."""
_OPS = {Op.INSERT: "c", Op.UPDATE: "u", Op.DELETE: "d", Op.READ: "r"}
_SYSTEM = frozenset({"_node", "_shard", "_recorded", TRACE, ERASED, *(name for name, _ in SYSTEM_COLUMNS)})
_DAY_ENDS = {-(1 << 31): "-infinity", (1 << 31) - 1: "infinity"}
_TIME_ENDS = {-(1 << 63): "-infinity", (1 << 63) - 1: "infinity"}


@dataclass(frozen=True, slots=True)
class Message:
    """What a broker is given.

    Attributes:
        topic: where it goes.
        key: JSON.
        value: JSON; None for a tombstone.
        headers: by name.
    """

    topic: str
    key: bytes
    value: bytes | None
    headers: Mapping[str, bytes]


def topic_of(group: str, table: str) -> str:
    """The topic of a table."""
    return f"{group}.{table}"


def messages(group: str, log: str, table: TableSchema, added: Added) -> Iterator[Message]:
    """The messages of records of `changes/TABLE`, in their order. One that was erased has none.

    Args:
        group: the group's name.
        log: what tells this audit log from any other.
        table: its schema as it is now; of columns that were dropped since, the type is what Arrow says.
        added: the records.
    """
    rows, topic = added.rows, topic_of(group, table.name)
    about: dict[str, list[Any]] = {
        name: rows.column(name).to_pylist()
        for name in ("_node", "_recorded", "_op", "_hi", "_lo", "_ts", "_have")
    }
    traces = rows.column(TRACE).to_pylist() if TRACE in rows.schema.names else [None] * rows.num_rows
    names = [name for name in rows.schema.names if name not in _SYSTEM]
    kinds = {column.name: column.type.kind for column in table.columns}
    columns = [spelled(rows.column(name), kinds.get(name)) for name in names]
    there = [i for i, key in enumerate(rows.column("_key").to_pylist()) if key is not None]
    found = _keys(table, rows.column("_key").drop_null().to_pylist())
    keys = dict(zip(there, found, strict=True))
    for i in there:
        op, node, have = Op(about["_op"][i]), about["_node"][i], about["_have"][i]
        row = {name: column[i] for name, column in zip(names, columns, strict=True)}
        if have is not None and op is not Op.DELETE:
            _leave_out(row, names, int.from_bytes(have, "little"))
        hi, lo, ts = about["_hi"][i], about["_lo"][i], about["_ts"][i]
        source = {
            "connector": "sync-worker",
            "name": group,
            "ts_ms": ts // 1000,
            "ts_us": ts,
            "snapshot": "true" if op is Op.READ else "false",
            "db": group,
            "table": table.name,
            "node": node,
            "position": f"{hi}:{lo}",
        }
        value = {
            "before": row if op is Op.DELETE else None,
            "after": None if op is Op.DELETE else row,
            "source": source,
            "op": _OPS[op],
            "ts_ms": about["_recorded"][i] // 1000,
            "transaction": None,
        }
        number = 2 * (added.place + i)
        headers = {POSITION: f"{node}:{hi}:{lo}".encode(), LOG: log.encode()}
        if (trace := traces[i]) is not None:
            headers[TRACEPARENT] = trace.encode()
        yield Message(topic, keys[i], orjson.dumps(value), {**headers, SEQUENCE: b"%d" % number})
        if op is Op.DELETE:
            yield Message(topic, keys[i], None, {**headers, SEQUENCE: b"%d" % (number + 1)})


def _keys(table: TableSchema, keys: Sequence[bytes]) -> list[bytes]:
    kinds = [table.column(name).type.kind for name in table.key]
    columns = [spelled(c, k) for c, k in zip(key_columns(keys, kinds), kinds, strict=True)]
    return [orjson.dumps(dict(zip(table.key, values, strict=True))) for values in zip(*columns, strict=True)]


def _leave_out(row: dict[str, Any], names: Sequence[str], have: int) -> None:
    for bit, name in enumerate(names):
        if not have >> bit & 1:
            row[name] = UNAVAILABLE


def spelled(column: pa.Array, kind: Kind | None) -> list[Any]:
    """A column's values as JSON can hold them, without loss.

    Args:
        column: the values.
        kind: their canonical kind; None for what the Arrow type says.
    """
    type_ = column.type
    if kind is Kind.LIST:
        return [None if v is None else orjson.Fragment(v) for v in column.to_pylist()]
    if pa.types.is_binary(type_):
        return [None if v is None else base64.b64encode(v).decode() for v in column.to_pylist()]
    if pa.types.is_floating(type_):
        return [v if v is None or np.isfinite(v) else _not_finite(v) for v in column.to_pylist()]
    if pa.types.is_date(type_):
        return _moments(column.cast(pa.int32()), "D", _DAY_ENDS)
    if pa.types.is_timestamp(type_):
        return _moments(column.cast(pa.int64()), "us", _TIME_ENDS, "Z" if type_.tz else "")
    if pa.types.is_time(type_):
        return [None if v is None else _time_of_day(v) for v in column.cast(pa.int64()).to_pylist()]
    found: list[Any] = column.to_pylist()
    return found


def _not_finite(value: float) -> str:
    if np.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _moments(numbers: pa.Array, unit: str, ends: Mapping[int, str], zone: str = "") -> list[str | None]:
    """ISO 8601 for any year; Python's own dates end at 9999."""
    plain = numbers.to_pylist()
    texts = np.datetime_as_string(numbers.fill_null(0).to_numpy().astype(f"datetime64[{unit}]"))
    return [
        None if number is None else ends.get(number) or f"{text}{zone}"
        for number, text in zip(plain, texts.tolist(), strict=True)
    ]


def _time_of_day(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"
