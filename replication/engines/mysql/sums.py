"""The checksum of a key range, computed by the server; see `replication.summing`."""

from __future__ import annotations

from replication.engines.mysql.columns import Bound
from replication.summing import CLOCKS, PRINTED, SIZED, in_order
from replication.types import Kind

_INSTANTS = CLOCKS - {Kind.TIME}


def sums(bound: Bound) -> bool:
    """See `Summing.sums`."""
    return all(_text(bound, i) for i in range(len(bound.columns)))


def row_text(bound: Bound) -> str:
    """A row's text as SQL, a binary string. The server takes less time for a COALESCE than for an IF."""
    plain, sized = in_order(bound.table)
    short = ", ".join(f"COALESCE({_text(bound, i)}, _binary'~')" for i in plain)
    long = "".join(f", _binary'|', {_or_null(bound, i)}" for i in sized)
    return f"CONCAT(CONCAT_WS(_binary'|', {short}){long})"


def _or_null(bound: Bound, index: int) -> str:
    """A text, or what stands for null; one that the server cannot make, as it is too long, is null."""
    return f"IF({bound.name(index)} IS NULL, _binary'~', {_text(bound, index)})"


def _text(bound: Bound, index: int) -> str:
    """A column's text as SQL; empty where its type has none that is the same for the same value."""
    column, local, kind = bound.name(index), bound.columns[index].type, bound.kind(index)
    printed = column
    if local.scale:
        printed = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({column} AS CHAR)))"
    if kind in PRINTED and local.kind in PRINTED:
        return printed
    if kind is Kind.BOOLEAN and local.name == "tinyint":
        return printed
    if kind in SIZED and local.kind is Kind.TEXT:
        text = f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"
        return f"CONCAT(LENGTH({text}), _binary':', {text})"
    if kind is Kind.BYTES and local.kind is Kind.BYTES and local.name != "vector":
        return f"CONCAT(LENGTH({column}), _binary':', SHA2({column}, 256))"
    if kind is local.kind and kind in (Kind.DATE, Kind.TIME):
        return printed
    return printed if kind in _INSTANTS and local.kind in _INSTANTS else ""
