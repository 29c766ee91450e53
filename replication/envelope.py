"""Changes of the audit log as messages for Kafka: Debezium's envelope, as JSON without schemas. Pure.

A record becomes one message, a delete two: the event and a tombstone. The key is made from the canonical key,
so it is the same text for the same row, whichever node wrote it. Headers say where a message comes from, and
what a consumer knows a repeat by.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

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
_OPS = {Op.INSERT: b"c", Op.UPDATE: b"u", Op.DELETE: b"d", Op.READ: b"r"}
_SYSTEM = frozenset({"_node", "_shard", "_recorded", TRACE, ERASED, *(name for name, _ in SYSTEM_COLUMNS)})
_DAY_ENDS = {-(1 << 31): "-infinity", (1 << 31) - 1: "infinity"}
_TIME_ENDS = {-(1 << 63): "-infinity", (1 << 63) - 1: "infinity"}


Headers = dict[str, str | bytes | None]
"""What librdkafka takes."""


class Message(NamedTuple):
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
    headers: Headers


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
    nodes, recorded, ops, his, los, times = (
        rows.column(name).to_pylist() for name in ("_node", "_recorded", "_op", "_hi", "_lo", "_ts")
    )
    traces = rows.column(TRACE).to_pylist() if TRACE in rows.schema.names else repeat(None)
    there = [i for i, key in enumerate(rows.column("_key").to_pylist()) if key is not None]
    keys = dict(zip(there, _keys(table, rows.column("_key").drop_null().to_pylist()), strict=True))
    frames = {place: _Frame(group, table.name, *place) for place in set(zip(nodes, ops, strict=True))}
    own: Headers = {LOG: log.encode()}
    columns = nodes, recorded, ops, his, los, times, _images(table, rows), traces
    for i, (node, at, op, hi, lo, time, image, trace) in enumerate(zip(*columns, strict=False)):
        if (key := keys.get(i)) is None:
            continue
        number, frame = 2 * (added.place + i), frames[node, op]
        value = frame.around(image, time, hi, lo, at)
        headers: Headers = {POSITION: frame.place % (hi, lo), **own, SEQUENCE: b"%d" % number}
        if trace is not None:
            headers[TRACEPARENT] = trace.encode()
        yield Message(topic, key, value, headers)
        if op == Op.DELETE:
            yield Message(topic, key, None, {**headers, SEQUENCE: b"%d" % (number + 1)})


class _Frame:
    """What stands around the rows of one node and operation: the same text but for a few numbers."""

    def __init__(self, group: str, table: str, node: str, op: int) -> None:
        snapshot = b'"true"' if op == Op.READ else b'"false"'
        name, of_table, at = (_literal(text) for text in (group, table, node))
        before, after = (b"", b',"after":null') if op == Op.DELETE else (b'null,"after":', b"")
        self._head = b'{"before":' + before
        self._tail = (
            after + b',"source":{"connector":"sync-worker","name":' + name
            + b',"ts_ms":%d,"ts_us":%d,"snapshot":' + snapshot
            + b',"db":' + name + b',"table":' + of_table + b',"node":' + at
            + b',"position":"%d:%d"},"op":"' + _OPS[Op(op)] + b'","ts_ms":%d,"transaction":null}'
        )  # fmt: skip
        self.place = node.encode().replace(b"%", b"%%") + b":%d:%d"

    def around(self, image: bytes, time: int, hi: int, lo: int, recorded: int) -> bytes:
        """The event of a row that is JSON already."""
        return self._head + image + self._tail % (time // 1000, time, hi, lo, recorded // 1000)


def _literal(text: str) -> bytes:
    """A text as JSON, in a format of bytes."""
    return orjson.dumps(text).replace(b"%", b"%%")


def _images(table: TableSchema, rows: pa.RecordBatch) -> Iterator[bytes]:
    """Each row as JSON."""
    names = [name for name in rows.schema.names if name not in _SYSTEM]
    kinds = {column.name: column.type.kind for column in table.columns}
    values = zip(*(spelled(rows.column(name), kinds.get(name)) for name in names), strict=True)
    found = (dict(zip(names, row, strict=True)) for row in values)
    have = rows.column("_have")
    if have.null_count < len(have):
        return map(orjson.dumps, map(_left_out, found, have.to_pylist(), rows.column("_op").to_pylist()))
    return map(orjson.dumps, found)


def _left_out(row: dict[str, Any], have: bytes | None, op: int) -> dict[str, Any]:
    """The row, where it says which values its node's log leaves out."""
    if have is not None and op != Op.DELETE:
        bits = int.from_bytes(have, "little")
        for bit, name in enumerate(row):
            if not bits >> bit & 1:
                row[name] = UNAVAILABLE
    return row


def _keys(table: TableSchema, keys: Sequence[bytes]) -> list[bytes]:
    kinds = [table.column(name).type.kind for name in table.key]
    columns = [spelled(c, k) for c, k in zip(key_columns(keys, kinds), kinds, strict=True)]
    return [orjson.dumps(dict(zip(table.key, values, strict=True))) for values in zip(*columns, strict=True)]


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
