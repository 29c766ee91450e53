"""The checksum of a key range, computed by the server; see `replication.summing`."""

from __future__ import annotations

from replication.engines.postgres.columns import Bound
from replication.summing import CLOCKS, PRINTED, SIZED, SUMMED, in_order
from replication.types import Kind

_LOCAL: dict[Kind, frozenset[Kind]] = {
    **dict.fromkeys(PRINTED, PRINTED),
    **dict.fromkeys(CLOCKS - {Kind.TIME}, CLOCKS - {Kind.TIME}),
    **{kind: frozenset({kind}) for kind in SUMMED - PRINTED - CLOCKS},
    Kind.TIME: frozenset({Kind.TIME}),
}
"""By canonical kind, those of local types whose text is the same for the same value."""


def sums(bound: Bound) -> bool:
    """See `Summing.sums`."""
    return all(
        local.type.kind in _LOCAL.get(column.type.kind, ()) and not local.type.padded
        for column, local in zip(bound.table.schema.columns, bound.columns, strict=True)
    )


def row_text(bound: Bound) -> str:
    """A row's text as SQL."""
    plain, sized = in_order(bound.table)
    indexes = [*plain, *sized]
    names = zip(indexes, (f"t.{name}" for name in bound.names(indexes)), strict=True)
    texts = [f"CASE WHEN {n} IS NULL THEN '~' ELSE {_text(bound, i, n)} END" for i, n in names]
    return " || '|' || ".join(texts)


def row_digest(bound: Bound) -> str:
    """128 bits of a row as SQL."""
    return f"('x' || left(encode(sha256(convert_to({row_text(bound)}, 'UTF8')), 'hex'), 32))::bit(128)"


def _text(bound: Bound, index: int, column: str) -> str:
    kind, local = bound.table.schema.columns[index].type.kind, bound.columns[index].type.kind
    if kind is Kind.BOOLEAN:
        return f"{column}::int::text"
    if kind is Kind.BYTES:
        return f"length({column}) || ':' || encode(sha256({column}), 'hex')"
    if kind in SIZED:
        return f"octet_length({column}::text) || ':' || {column}::text"
    if local is Kind.NUMERIC:
        return f"trim_scale({column})::text"
    if local is Kind.TIMESTAMPTZ:
        return f"({column} AT TIME ZONE 'UTC')::text"
    return f"{column}::text"
