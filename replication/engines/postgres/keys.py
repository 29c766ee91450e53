"""Canonical keys back to key columns."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from replication.key import FIXED, decode_key
from replication.types import CanonicalType, Kind


def key_columns(keys: Sequence[bytes], kinds: Sequence[Kind]) -> list[pa.Array]:
    """The key columns of some canonical keys, each of its kind's Arrow type.

    Dates and timestamps never pass through Python's own, which end at the year 9999.
    """
    plain = [Kind.INT64 if kind in FIXED else kind for kind in kinds]
    rows = [decode_key(key, plain) for key in keys]
    return [_column([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]


def _column(values: list[object], kind: Kind) -> pa.Array:
    arrow = CanonicalType(kind).arrow
    if kind is Kind.NUMERIC:
        return pa.array([format(v, "f") for v in values], pa.utf8())
    if kind not in FIXED:
        return pa.array(values, arrow)
    integers = pa.array(values, pa.int64())
    if kind is Kind.DATE:
        return integers.cast(pa.int32()).cast(arrow)
    return integers.cast(arrow)
