"""Values that a PostgreSQL column would change in silence.

The server refuses most of what does not fit. These it does not, so such rows are held without asking it:

    numeric(p,s)   digits behind the point are rounded
    real           digits of a double are rounded
    varchar(n)     blanks beyond the length are cut off
    char(n)        blanks at the end are padding, they vanish
    name, "char"   cut off
    time and its kin, in a key   digits of the second are rounded; elsewhere `narrowing.floored` comes first

Arrays, and types that only this server understands, it compares itself: `statements` asks it to.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from replication.declared import declared, second_digits
from replication.engines.postgres.columns import LocalColumn
from replication.narrowing import CLOCKS, floored
from replication.types import CanonicalType, Kind

_NAME_BYTES = {"name": 63, '"char"': 1}


def checks(
    column: pa.Array, type: CanonicalType, local: LocalColumn, *, key: bool
) -> Iterator[tuple[pa.Array, str]]:
    """Where values cannot be written as they are, and why; see `applying.beyond`.

    Args:
        column: of `type.arrow`.
        type: the canonical type.
        local: the column on this node.
        key: it is part of the key.
    """
    kind, own = type.kind, declared(local.native)
    if kind is Kind.NUMERIC and local.type.kind is Kind.NUMERIC and own.size is not None:
        scale = own.scale or 0
        finer = rf"\.\d{{{scale}}}\d*[1-9]" if scale >= 0 else rf"[1-9]\d{{0,{-scale - 1}}}(\.|$)|\.\d*[1-9]"
        yield pc.match_substring_regex(column, finer), f"has more digits than {local.native} keeps"
    elif kind is Kind.FLOAT64 and local.type.kind is Kind.FLOAT32:
        single = column.cast(pa.float32(), safe=False).cast(pa.float64())
        lost = pc.and_(pc.not_equal(single, column), pc.invert(pc.is_nan(column)))
        yield lost, "has more digits than a single precision number"
    elif key and kind in CLOCKS:
        rough = floored(column, type, second_digits(local.native, "postgres"))
        yield pc.not_equal(rough, column), f"is finer than {local.native} keeps"
    elif column.type == pa.utf8() and local.type.kind is Kind.TEXT:
        if own.name == "character":
            yield pc.ends_with(column, " "), "ends with a blank, which char does not keep"
        if own.name in ("character", "character varying") and own.size is not None:
            yield pc.greater(pc.utf8_length(column), own.size), f"is longer than {own.size} characters"
        elif limit := _NAME_BYTES.get(own.name):
            yield pc.greater(pc.binary_length(column), limit), f"is longer than {limit} bytes"
