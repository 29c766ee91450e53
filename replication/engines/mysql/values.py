"""Whole columns of values become canonical.

Two ways lead here: `from_text` reads what a SELECT printed, and the log's decoder makes columns of the local
type's own kind by itself. Both end in `adapt`, so that what the initial copy reads and what the log shows of
the same row is the same. A value without a canonical form becomes null, and the reason is given beside the
column.
"""

from __future__ import annotations

import re
from binascii import hexlify, unhexlify
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.buffers import contents, rebuilt
from replication.engines.mysql.types import GEOMETRIES, LocalType
from replication.types import CanonicalType, Kind

DAY = 86_400_000_000
INTEGERS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
_ORDINARY_TIME = r"^([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?$"
_ANY_TIME = re.compile(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?$")
_NO_DATE = r"^0000|-00"
"""A zero date, or one with a zero month or day."""
_HAS_SRID = 0x20000000

Errors = dict[int, str]
"""By row, why its value has no canonical form."""


def from_text(column: pa.Array, type: CanonicalType, local: LocalType) -> tuple[pa.Array, Errors]:
    """Read a column as `snapshot` selects it.

    Args:
        column: binary; nulls stay null.
        type: the canonical type to read.
        local: the type of the column on this node.

    Returns:
        an array of `type.arrow`, and what could not be read.
    """
    kind = local.kind
    if local.name in GEOMETRIES:
        return adapt(pa.array([_maybe(ewkb, v) for v in column.to_pylist()], pa.utf8()), type, local)
    if kind is Kind.BYTES:
        return adapt(column, type, local)
    text = column.cast(pa.utf8())
    errors: Errors = {}
    if kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        text, errors = _without(text, pc.match_substring_regex(text, _NO_DATE), "is no date")
        naive = text.cast(pa.date32() if kind is Kind.DATE else pa.timestamp("us"))
        column = naive if kind is not Kind.TIMESTAMPTZ else naive.view(local.arrow)
    elif kind is Kind.TIME:
        column = _read_times(text)
    elif kind is Kind.FLOAT32:
        column = text.cast(pa.float64()).cast(pa.float32())
    else:
        column = text if local.arrow == pa.utf8() else text.cast(local.arrow)
    adapted, more = adapt(column, type, local)
    return adapted, errors | more


def adapt(column: pa.Array, type: CanonicalType, local: LocalType) -> tuple[pa.Array, Errors]:
    """Turn values of the local type's own kind into those of a canonical type that it fits.

    Args:
        column: of `local.arrow`; nulls stay null.
        type: the canonical type; `local.fits(type)`.
        local: the type of the column on this node.

    Returns:
        an array of `type.arrow`, and what could not be read.
    """
    kind = type.kind
    if kind is Kind.TIME:
        micros = column.cast(pa.int64())
        bad = pc.or_(pc.less(micros, 0), pc.greater(micros, DAY))
        column, errors = _without(micros, bad, "microseconds is no time of a day")
        return column.cast(type.arrow), errors
    if kind is Kind.BOOLEAN:
        if local.kind is Kind.OPAQUE:
            return pc.equal(column, "1"), {}
        bad = pc.invert(pc.is_in(column, pa.array([0, 1, None], column.type)))
        column, errors = _without(column, bad, "is neither 0 nor 1")
        return pc.equal(column, pa.scalar(1, column.type)), errors
    if kind is Kind.UUID and local.kind is Kind.BYTES:
        column, errors = _without(column, pc.not_equal(pc.binary_length(column), 16), "is no UUID")
        return _uuids(column), errors
    if kind is Kind.UUID:
        return pc.utf8_lower(column), {}
    if kind is local.kind:
        return column, {}
    if {kind, local.kind} == {Kind.TIMESTAMP, Kind.TIMESTAMPTZ}:
        return column.view(type.arrow), {}
    if kind is Kind.FLOAT32:
        single = column.cast(pa.float32())
        bad = pc.not_equal(pc.if_else(pc.is_nan(column), 0.0, single.cast(pa.float64())), column)
        return _without(single, bad, "has more digits than a single precision number")
    if column.type == type.arrow:
        return column, {}
    return _cast(column, type)


def ewkb(stored: bytes) -> str:
    """MySQL's own form of a geometry, a little-endian SRID before WKB, as hexadecimal EWKB."""
    srid, wkb = int.from_bytes(stored[:4], "little"), stored[4:]
    if not srid:
        return wkb.hex().upper()
    code = int.from_bytes(wkb[1:5], "little") | _HAS_SRID
    return (wkb[:1] + code.to_bytes(4, "little") + stored[:4] + wkb[5:]).hex().upper()


def from_ewkb(text: str) -> bytes:
    """Undo `ewkb`.

    Raises:
        ValueError: it is no little-endian EWKB in hexadecimal.
    """
    data = bytes.fromhex(text)
    if len(data) < 5 or data[0] != 1:
        message = f"not little-endian EWKB: {text[:20]}"
        raise ValueError(message)
    code = int.from_bytes(data[1:5], "little")
    if not code & _HAS_SRID:
        return bytes(4) + data
    return data[5:9] + data[:1] + (code & ~_HAS_SRID).to_bytes(4, "little") + data[9:]


def unhyphened(column: pa.Array) -> pa.Array:
    """UUIDs as their 16 bytes."""
    lengths, data = contents(column)
    return rebuilt(column, unhexlify(data.replace(b"-", b"")), np.minimum(lengths, 16), pa.binary())


def _uuids(column: pa.Array) -> pa.Array:
    lengths, data = contents(column)
    digits = rebuilt(column, hexlify(data), lengths * 2, pa.utf8())
    cuts = [pc.utf8_slice_codeunits(digits, a, b) for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]
    return pc.binary_join_element_wise(*cuts, "-")


def _cast(column: pa.Array, type: CanonicalType) -> tuple[pa.Array, Errors]:
    try:
        return column.cast(type.arrow), {}
    except pa.ArrowInvalid:
        values = [_one(v, column.type, type) for v in column]
    errors = {i: f"{column[i].as_py()!r:.40} is no {type.kind}" for i, (_, ok) in enumerate(values) if not ok}
    return pa.array([v for v, _ in values], type.arrow), errors


def _one(value: pa.Scalar, source: pa.DataType, type: CanonicalType) -> tuple[object, bool]:
    try:
        return pa.array([value.as_py()], source).cast(type.arrow)[0].as_py(), True
    except pa.ArrowInvalid:
        return None, False


def _without(column: pa.Array, bad: pa.Array, why: str) -> tuple[pa.Array, Errors]:
    """The column with nulls in place of bad values, and why."""
    bad = pc.fill_null(bad, False)
    if not bad.true_count:
        return column, {}
    places = pc.indices_nonzero(bad).to_pylist()
    errors = {i: f"{column[i].as_py()!r:.40} {why}" for i in places}
    return pc.if_else(bad, pa.scalar(None, column.type), column), errors


def _read_times(text: pa.Array) -> pa.Array:
    ordinary = pc.match_substring_regex(text, _ORDINARY_TIME)
    plain = pc.if_else(ordinary, text, pa.scalar(None, pa.utf8()))
    stamps = pc.binary_join_element_wise("1970-01-01", plain, " ").cast(pa.timestamp("us"))
    odd = pc.fill_null(pc.invert(ordinary), False)
    micros = stamps.cast(pa.int64())
    if odd.true_count:
        read = pa.array([_micros(t) for t in text.filter(odd).to_pylist()], pa.int64())
        micros = pc.replace_with_mask(micros, odd, read)
    return micros.view(pa.time64("us"))


def _micros(text: str) -> int:
    match = _ANY_TIME.match(text)
    if match is None:
        message = f"not a time that the server prints: {text!r}"
        raise pa.ArrowInvalid(message)
    seconds = (int(match[2]) * 60 + int(match[3])) * 60 + int(match[4])
    micros = seconds * 1_000_000 + int((match[5] or "0").ljust(6, "0"))
    return -micros if match[1] else micros


def _maybe(read: Callable[[bytes], str], value: bytes | None) -> str | None:
    return None if value is None else read(value)
