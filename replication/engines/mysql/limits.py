"""Values that a MySQL column would change in silence, although the SQL mode is strict.

A server refuses most of what does not fit. These it does not, so such rows are held without asking it:

    decimal, integer   digits behind the point are rounded
    datetime, time     in a key, parts of a second beyond the declared ones are rounded; elsewhere
                       `narrowing.floored` comes first
    date, datetime     years before 1 or behind 9999 have no text that it reads
    char               blanks at the end are padding, they vanish
    varchar, text      only blanks are cut off without an error
    binary(n)          shorter values are filled with zero bytes
    bit(n)             other lengths are filled or cut
    enum, set          a number means a member's place; case and order become the declared ones
    year               1 to 99 mean years from 1970 to 2069
    json               numbers are integers of 64 bits or doubles, so others lose digits
    geometry           what is no EWKB
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from replication.engines.mysql.types import GEOMETRIES, TEXTS, LocalType
from replication.engines.mysql.values import DAY, from_ewkb
from replication.narrowing import CLOCKS, floored
from replication.types import CanonicalType, Kind

_FIRST_DAY = -719_162
"""0001-01-01."""
_LAST_DAY = 2_932_896
"""9999-12-31."""
_BYTES_OF = {"tinytext": 0xFF, "text": 0xFFFF, "mediumtext": 0xFFFFFF}
_LONG_NUMBER = r"[0-9.]{16}|[0-9.][eE]"
"""What a JSON text has in it whose numbers may lose digits as doubles."""
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
_INTEGER_RANGE = range(-(2**63), 2**64)


def checks(
    column: pa.Array, type: CanonicalType, local: LocalType, *, key: bool = False
) -> Iterator[tuple[pa.Array, str]]:
    """Where values cannot be written as they are, and why; see `applying.beyond`.

    Args:
        column: of `type.arrow`.
        type: the canonical type.
        local: the type of the column on this node.
        key: it is part of the key.
    """
    kind = type.kind
    if key and kind in CLOCKS:
        rough = floored(column, type, local.scale)
        yield pc.not_equal(rough, column), f"is finer than {local.name}({local.scale}) keeps"
    if kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        yield from _dates(column, kind)
    elif kind is Kind.NUMERIC:
        places = local.scale if local.name == "decimal" else 0
        finer = pc.match_substring_regex(column, rf"\.\d{{{places}}}\d*[1-9]|[eE]")
        yield finer, f"has more than {places} digits behind the point"
    elif kind is Kind.BYTES and local.name == "binary":
        yield pc.less(pc.binary_length(column), local.size), f"is shorter than binary({local.size})"
    elif local.kind is Kind.JSON:
        yield _long_numbers(column), "has a number that a double or an integer of 64 bits cannot hold"
    elif local.name == "year":
        named = pc.or_(pc.equal(column, 0), pc.and_(pc.greater(column, 1900), pc.less(column, 2156)))
        yield pc.invert(named), "is no year from 1901 to 2155"
    elif local.name == "bit" and kind is not Kind.BOOLEAN:
        exact = pc.match_substring_regex(column, f"^[01]{{{local.size}}}$")
        yield pc.invert(exact), f"is not {local.size} bits"
    elif local.name in GEOMETRIES:
        yield pa.array([_is_no_geometry(v) for v in column.to_pylist()], pa.bool_()), "is no EWKB"
    elif column.type == pa.utf8():
        yield from _texts(column, local)


def _texts(column: pa.Array, local: LocalType) -> Iterator[tuple[pa.Array, str]]:
    if local.name == "enum":
        member = pc.is_in(column, pa.array([*local.members, None], pa.utf8()))
        yield pc.invert(member), "is no member of the enum"
    elif local.name == "set":
        seen = {v: _is_no_set(v, local.members) for v in column.unique().to_pylist() if v is not None}
        bad = pa.array([v is not None and seen[v] for v in column.to_pylist()], pa.bool_())
        yield bad, "does not list members of the set in their order"
    elif local.name == "char":
        yield pc.ends_with(column, " "), "ends with a blank, which char does not keep"
    if local.name in ("char", "varchar"):
        yield pc.greater(pc.utf8_length(column), local.size), f"is longer than {local.size} characters"
    elif limit := _BYTES_OF.get(local.name):
        yield pc.greater(pc.binary_length(column), limit), f"is longer than {limit} bytes"
    elif local.kind is Kind.BYTES and local.name == "binary" and local.name not in TEXTS:
        yield pc.less(pc.binary_length(column), local.size), f"is shorter than binary({local.size})"


def _dates(column: pa.Array, kind: Kind) -> Iterator[tuple[pa.Array, str]]:
    date = kind is Kind.DATE
    integer = pa.int32() if date else pa.int64()
    values = column.view(integer)
    scale = 1 if date else DAY
    early = pc.less(values, pa.scalar(_FIRST_DAY * scale, integer))
    late = pc.greater_equal(values, pa.scalar((_LAST_DAY + 1) * scale, integer))
    yield pc.or_(early, late), "is not in the years 1 to 9999"


def _long_numbers(column: pa.Array) -> pa.Array:
    suspect = pc.match_substring_regex(column, _LONG_NUMBER)
    if not suspect.true_count:
        return suspect
    return pa.array(
        [bool(s) and _loses_digits(v) for s, v in zip(suspect.to_pylist(), column.to_pylist(), strict=True)]
    )


def _loses_digits(text: str) -> bool:
    return any(_inexact(m[1]) for m in _JSON_TOKEN.finditer(text) if m[1])


def _inexact(number: str) -> bool:
    if number.lstrip("-").isdigit() and int(number) in _INTEGER_RANGE:
        return False
    value = float(number)
    return value in (float("inf"), float("-inf")) or Decimal(repr(value)) != Decimal(number)


def _is_no_set(text: str, members: tuple[str, ...]) -> bool:
    parts = text.split(",") if text else []
    return parts != [m for m in members if m in parts]


def _is_no_geometry(text: str | None) -> bool:
    try:
        return text is not None and not from_ewkb(text)
    except ValueError:
        return True
