"""The checksum of a key range, computed by the server; see `replication.summing`."""

from __future__ import annotations

from replication.engines.mysql.columns import Bound
from replication.summing import CLOCKS, PRINTED, SIZED
from replication.types import Kind

_INSTANTS = CLOCKS - {Kind.TIME}


def sums(bound: Bound) -> bool:
    """See `Summing.sums`."""
    return all(_text(bound, i) for i in range(len(bound.columns)))


def row_text(bound: Bound) -> str:
    """A row's text as SQL, a binary string."""
    joined = ", _binary'|', ".join(_or_null(bound, i) for i in range(len(bound.columns)))
    return f"CONCAT({joined})"


def _or_null(bound: Bound, index: int) -> str:
    """A column's text, or what stands for null. To the server a zero date IS NULL, its text is not."""
    text = _text(bound, index)
    tested = bound.name(index) if bound.kind(index) in SIZED | {Kind.BYTES} else text
    return f"IF({tested} IS NULL, _binary'~', CAST({text} AS BINARY))"


def _text(bound: Bound, index: int) -> str:
    """A column's text as SQL; empty where its type has none that is the same for the same value."""
    column, local, kind = bound.name(index), bound.columns[index].type, bound.kind(index)
    printed = f"CAST({column} AS CHAR)"
    if local.scale:
        printed = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {printed}))"
    if kind in PRINTED and local.kind in PRINTED:
        return printed
    if kind is Kind.BOOLEAN and local.name == "tinyint":
        return printed
    if kind in SIZED and local.kind is Kind.TEXT:
        text = f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"
        return f"CONCAT(LENGTH({text}), ':', {text})"
    if kind is Kind.BYTES and local.kind is Kind.BYTES and local.name != "vector":
        return f"CONCAT(LENGTH({column}), ':', SHA2({column}, 256))"
    if kind is local.kind and kind in (Kind.DATE, Kind.TIME):
        return printed
    return printed if kind in _INSTANTS and local.kind in _INSTANTS else ""
