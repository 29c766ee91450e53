"""Canonical keys: the same bytes for the same key on every node, in the same order.

The bytes compare as the values do, so a sorted merge of two nodes needs no decoding. A fixed-width
kind is eight bytes, big-endian, with the sign bit flipped. Text is its UTF-8, which sorts by code point
(PostgreSQL's collation "C", MongoDB's simple collation). In a key of several columns, text and
bytes end with 00 00 and an inner 00 becomes 00 FF (FoundationDB's tuple layer does alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.types import CanonicalType, Kind

KeyValue = int | str | bytes | bool | date | datetime | Decimal

FIXED = frozenset(
    {Kind.BOOLEAN, Kind.INT16, Kind.INT32, Kind.INT64, Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ}
)
TEXTUAL = frozenset({Kind.TEXT, Kind.UUID})
KEY_KINDS = FIXED | TEXTUAL | {Kind.BYTES, Kind.NUMERIC}
_SIGN = 1 << 63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode_keys(columns: Sequence[pa.Array], kinds: Sequence[Kind]) -> pa.Array:
    """Encode the key columns of a batch, whole columns at a time.

    Args:
        columns: one array per key column, in key order, each of its kind's Arrow type, without nulls.
        kinds: their kinds, all in `KEY_KINDS`.

    Returns:
        a binary array, one canonical key per row.
    """
    if len(columns) == 1:
        return _encode_column(columns[0], kinds[0])
    parts = [
        column if kind in FIXED else _terminate(column)
        for column, kind in ((_encode_column(c, k), k) for c, k in zip(columns, kinds, strict=True))
    ]
    return pc.binary_join_element_wise(*parts, b"")


def encode_key(values: Sequence[Any], kinds: Sequence[Kind]) -> bytes:
    """Encode one key; the values are what `decode_key` gives."""
    columns = [
        pa.array([str(v) if k is Kind.NUMERIC else v], CanonicalType(k).arrow)
        for v, k in zip(values, kinds, strict=True)
    ]
    key: bytes = encode_keys(columns, kinds)[0].as_py()
    return key


def decode_key(key: bytes, kinds: Sequence[Kind]) -> tuple[KeyValue, ...]:
    """The values of one canonical key: int, bool, str, bytes, date, datetime or Decimal."""
    if len(kinds) == 1:
        return (_decode_value(key, kinds[0]),)
    values: list[KeyValue] = []
    at = 0
    for kind in kinds:
        if kind in FIXED:
            values.append(_decode_value(key[at : at + 8], kind))
            at += 8
        else:
            end = at
            while key[end : end + 2] != b"\0\0":
                end += 2 if key[end] == 0 else 1
            values.append(_decode_value(key[at:end].replace(b"\0\xff", b"\0"), kind))
            at = end + 2
    return tuple(values)


def key_columns(keys: Sequence[bytes], kinds: Sequence[Kind]) -> list[pa.Array]:
    """The key columns of some canonical keys, each of its kind's Arrow type.

    Dates and timestamps never pass through Python's own, which end at the year 9999.
    """
    if keys and FIXED.issuperset(kinds):
        words = np.frombuffer(b"".join(keys), ">u8").reshape(len(keys), len(kinds))
        numbers = (words.astype(np.uint64) ^ np.uint64(_SIGN)).view(np.int64)
        return [_as_kind(pa.array(numbers[:, i]), kind) for i, kind in enumerate(kinds)]
    plain = [Kind.INT64 if kind in FIXED else kind for kind in kinds]
    rows = [decode_key(key, plain) for key in keys]
    return [_decoded([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]


def _decoded(values: list[object], kind: Kind) -> pa.Array:
    arrow = CanonicalType(kind).arrow
    if kind is Kind.NUMERIC:
        return pa.array([format(v, "f") for v in values], pa.utf8())
    if kind not in FIXED:
        return pa.array(values, arrow)
    return _as_kind(pa.array(values, pa.int64()), kind)


def _as_kind(integers: pa.Array, kind: Kind) -> pa.Array:
    """Numbers as a kind of `FIXED`."""
    arrow = CanonicalType(kind).arrow
    if kind is Kind.DATE:
        return integers.cast(pa.int32()).cast(arrow)
    return integers.cast(arrow)


def _encode_column(column: pa.Array, kind: Kind) -> pa.Array:
    if kind in FIXED:
        return _encode_fixed(column)
    if kind is Kind.NUMERIC:
        return pa.array([_encode_numeric(v) for v in column.to_pylist()], pa.binary())
    return column.cast(pa.binary())


def _encode_fixed(column: pa.Array) -> pa.Array:
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    flipped = (values.view(np.uint64) ^ np.uint64(_SIGN)).astype(">u8")
    data = pa.py_buffer(flipped.tobytes())
    offsets = np.arange(0, 8 * len(column) + 8, 8, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), len(column), [None, pa.py_buffer(offsets.tobytes()), data])


def _terminate(column: pa.Array) -> pa.Array:
    escaped = pc.replace_substring(column, pattern=b"\0", replacement=b"\0\xff")
    return pc.binary_join_element_wise(escaped, pa.scalar(b"\0\0", pa.binary()), b"")


def _decode_value(data: bytes, kind: Kind) -> KeyValue:
    if kind in TEXTUAL:
        return data.decode()
    if kind is Kind.BYTES:
        return data
    if kind is Kind.NUMERIC:
        return _decode_numeric(data)
    number = int.from_bytes(data, "big") - _SIGN
    if kind is Kind.BOOLEAN:
        return bool(number)
    if kind is Kind.DATE:
        return _EPOCH.date() + timedelta(days=number)
    if kind is Kind.TIMESTAMPTZ:
        return _EPOCH + timedelta(microseconds=number)
    if kind is Kind.TIMESTAMP:
        return (_EPOCH + timedelta(microseconds=number)).replace(tzinfo=None)
    return number


def _encode_numeric(text: str) -> bytes:
    """Sign, exponent, digits: compares as numbers do, and 1.0 equals 1.00."""
    value = Decimal(text)
    if not value.is_finite():
        message = f"{text} cannot be a key"
        raise ValueError(message)
    if value == 0:
        return b"\x01"
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    significant = "".join(map(str, digits)).rstrip("0")
    point = len(digits) + exponent
    body = (point + (1 << 31)).to_bytes(4, "big") + significant.encode() + b"!"
    if not sign:
        return b"\x02" + body
    return b"\x00" + bytes(255 - b for b in body)


def _decode_numeric(data: bytes) -> Decimal:
    if data == b"\x01":
        return Decimal(0)
    body = data[1:] if data[0] == 2 else bytes(255 - b for b in data[1:])
    point = int.from_bytes(body[:4], "big") - (1 << 31)
    digits = body[4:-1].decode()
    sign = 0 if data[0] == 2 else 1
    return Decimal((sign, tuple(map(int, digits)), point - len(digits)))
