"""Whole columns of canonical values become SQL literals, built by Arrow.

A text is quoted and its backslashes and quotes escaped, as the session's fixed SQL mode reads it. Numbers
that are no integers are quoted too: the server reads their digits exactly, and refuses NaN and infinities
by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from replication.engines.mysql.types import GEOMETRIES, LocalType
from replication.engines.mysql.values import DAY, INTEGERS, from_ewkb, unhyphened
from replication.narrowing import CLOCKS, floored
from replication.types import CanonicalType, Kind

_BINARY = pa.binary()
_NULL = pa.scalar(b"NULL", _BINARY)
_QUOTE = pa.scalar(b"'", _BINARY)
_NOTHING = pa.scalar(b"", _BINARY)
_BINARY_QUOTE = pa.scalar(b"_binary'", _BINARY)
_BIT_QUOTE = pa.scalar(b"b'", _BINARY)


def literals(column: pa.Array, type: CanonicalType, local: LocalType) -> pa.Array:
    """SQL literals of a column.

    Args:
        column: of `type.arrow`, with nothing in it that `limits.checks` finds.
        type: the canonical type.
        local: the type of the column on this node.

    Returns:
        a binary array without nulls.
    """
    if type.kind in CLOCKS:
        column = floored(column, type, local.scale)  # the server would round
    return pc.fill_null(_literals(column, type.kind, local), _NULL)


def rows_of_literals(columns: Sequence[pa.Array]) -> pa.Array:
    """Row by row `(a,b,c)`."""
    opened = pc.binary_join_element_wise(pa.scalar(b"(", _BINARY), columns[0], _NOTHING)
    joined = (
        pc.binary_join_element_wise(opened, *columns[1:], pa.scalar(b",", _BINARY)) if columns[1:] else opened
    )
    return pc.binary_join_element_wise(joined, pa.scalar(b")", _BINARY), _NOTHING)


def quoted_text(text: str) -> bytes:
    """One text as a literal."""
    return b"'" + text.encode().replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


def quoted_bytes(data: bytes) -> bytes:
    """One value of bytes as a literal."""
    return b"_binary'" + data.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


def _literals(column: pa.Array, kind: Kind, local: LocalType) -> pa.Array:
    if kind in INTEGERS:
        return column.cast(pa.utf8()).cast(_BINARY)
    if kind is Kind.BOOLEAN:
        return pc.if_else(column, pa.scalar(b"1", _BINARY), pa.scalar(b"0", _BINARY))
    if kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        # A zone makes printing thirty times slower; ours is UTC.
        plain = column if kind is Kind.DATE else column.cast(pa.timestamp("us"))
        return _enclosed(plain.cast(pa.utf8()).cast(_BINARY), _QUOTE)
    if kind is Kind.TIME:
        return _enclosed(_print_times(column).cast(_BINARY), _QUOTE)
    if kind is Kind.BYTES:
        return _enclosed(_escaped(column), _BINARY_QUOTE)
    if kind is Kind.UUID and local.kind is Kind.BYTES:
        return _enclosed(_escaped(unhyphened(column)), _BINARY_QUOTE)
    if local.name == "bit":
        return _enclosed(column.cast(_BINARY), _BIT_QUOTE)
    if local.name in GEOMETRIES:
        return _each(column, lambda text: quoted_bytes(from_ewkb(text)))
    if kind in (Kind.FLOAT32, Kind.FLOAT64):
        # As a double, whose shortest digits the server reads back to the same bits.
        return _enclosed(column.cast(pa.float64()).cast(pa.utf8()).cast(_BINARY), _QUOTE)
    return _enclosed(_escaped(column.cast(_BINARY)), _QUOTE)


def _escaped(column: pa.Array) -> pa.Array:
    column = pc.replace_substring(column, pattern=b"\\", replacement=b"\\\\")
    return pc.replace_substring(column, pattern=b"'", replacement=b"\\'")


def _enclosed(column: pa.Array, opening: pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(opening, column, _QUOTE, _NOTHING)


def _each(column: pa.Array, show: Callable[[str], bytes]) -> pa.Array:
    return pa.array([None if v is None else show(v) for v in column.to_pylist()], _BINARY)


def _print_times(column: pa.Array) -> pa.Array:
    micros = column.cast(pa.int64())
    midnight = pc.equal(micros, DAY)
    ordinary = pc.if_else(midnight, pa.scalar(None, pa.int64()), micros).cast(pa.time64("us"))
    return pc.if_else(midnight, "24:00:00", ordinary.cast(pa.utf8()))
