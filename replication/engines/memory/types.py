"""Rows are held in canonical types, so nothing is lost here; other engines narrow what they send back."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from replication.narrowing import comparable, narrow
from replication.types import CanonicalType

LOSSLESS = frozenset({"memory", "postgres"})
"""Engines that narrow nothing."""


def left_alone(held: pa.Array, new: pa.Array, type: CanonicalType, sources: Iterable[str]) -> pa.Array | None:
    """Where `new` is only what one of `sources` makes of `held`; None if that is nowhere."""
    alone = None
    for source in sources:
        narrowed = narrow(held, type, source)
        if narrowed is not held:
            same = pc.fill_null(pc.equal(comparable(narrowed, type), comparable(new, type)), False)
            alone = same if alone is None else pc.or_(alone, same)
    return alone
