"""What an engine makes of a canonical value, and when two canonical values mean the same.

The rule for a value that two nodes hold: it is the same if each one's value, narrowed to what the other
node can hold, means the same. So PostgreSQL keeps its microseconds although MongoDB keeps
milliseconds, and `verify` finds no difference. Declared narrowings:

    memory, mysql, postgres   time, timestamp, timestamptz   down to the declared digits of the second
    mongodb                   timestamp, timestamptz         down to the millisecond (BSON date)
                              numeric                        cut to 34 significant digits (decimal128)
                              json                           a bare JSON null is null
                              json, the rest of a document   an empty object is null

Down and cut, never to the nearest: what is narrowed has no more digits before the point than it had, and
no value becomes one of the next second or year. Infinities stay.

Everything works on whole columns; Python touches single values only where the text of JSON or an overlong
number must be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from replication.schema import Column
from replication.types import CanonicalType, Kind

MICROSECONDS = 6
"""Digits of the second that canonical times have."""
MILLISECONDS = 3
"""Those that BSON's dates have."""
CLOCKS = frozenset({Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
"""Kinds with digits of the second."""
DECIMAL128_DIGITS = 34
_EMPTY_OBJECT = r"^\s*\{\s*\}\s*$"
_DECIMAL128 = Context(prec=DECIMAL128_DIGITS, rounding=ROUND_DOWN, Emin=-6143, Emax=6144, clamp=1, traps=[])
_DECIMAL128_GREATEST = 6144
_INT64 = np.iinfo(np.int64)
_NAN_BITS = np.float64("nan").view(np.int64)
_ORJSON_UNSAFE = r"[0-9]{16}|[0-9][.eE]|-0\b|\\u[dD]"
"""JSON whose numbers orjson would round or spell otherwise than `_number`, and lone surrogates."""


def narrow(column: pa.Array, type: CanonicalType, engine: str, digits: int = MICROSECONDS) -> pa.Array:
    """What a column's values look like after a node of `engine` has held them.

    Idempotent. Nulls stay null; the Arrow type stays `type.arrow`. The column itself comes back when
    nothing changes.

    Args:
        column: canonical values.
        type: the column's canonical type.
        engine: the engine's name, as in `NodeConfig.engine`.
        digits: how many digits of the second the node's column keeps.
    """
    column = floored(column, type, digits)
    if engine != "mongodb":
        return column
    if type.kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return floored(column, type, MILLISECONDS)
    if type.kind is Kind.NUMERIC:
        return _cut_to_decimal128(column)
    if type.kind is Kind.JSON:
        return _null_for_json_null(column, rest=type.rest)
    return column


def narrower(column: Column, node: str, engines: Iterable[str]) -> frozenset[tuple[str, int]]:
    """The forms in which a value of this column may come back to a node that holds it in a wider one.

    Args:
        column: the column.
        node: the node's name.
        engines: those of the other nodes.

    Returns:
        engines and digits of the second, see `narrow`.
    """
    own = column.digits.get(node, MICROSECONDS)
    coarse = {d for other, d in column.digits.items() if other != node and d < own}
    return frozenset((engine, MICROSECONDS) for engine in engines) | {("", d) for d in coarse}


def coarser(column: Column, node: str, engines: Iterable[str]) -> list[int]:
    """The digits of the second that other nodes keep of this column, where they are fewer than its own."""
    own = column.digits.get(node, MICROSECONDS)
    digits = {d for other, d in column.digits.items() if other != node}
    if "mongodb" in engines and column.type.kind is not Kind.TIME:
        digits.add(MILLISECONDS)
    return sorted(d for d in digits if d < own) if column.type.kind in CLOCKS else []


def floored(column: pa.Array, type: CanonicalType, digits: int) -> pa.Array:
    """A column's times down to so many digits of the second; the column itself if nothing changes."""
    if digits >= MICROSECONDS or type.kind not in CLOCKS:
        return column
    unit = 10 ** (MICROSECONDS - digits)
    micros = pc.fill_null(column.view(pa.int64()), 0).to_numpy(zero_copy_only=False)
    rest = np.mod(micros, unit)
    # The infinities, and what could not be floored within 64 bits.
    rest[(micros < _INT64.min + unit) | (micros == _INT64.max)] = 0
    if not rest.any():
        return column
    mask = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(micros - rest, pa.int64(), mask=mask).view(column.type)


def comparable(column: pa.Array, type: CanonicalType) -> pa.Array:
    """A normal form: two canonical values mean the same if and only if their normal forms are equal.

    Nulls stay null. `pc.equal` decides equality of the result:

        json, list        text: compact, keys sorted, numbers in one spelling (1.0 is 1, -0 is 0)
        numeric           text without superfluous zeros
        float32, float64  int64: the bits of the float64, one NaN, -0 as 0
        anything else     as it is
    """
    match type.kind:
        case Kind.JSON:
            return _normal_json(column, numeric_items=False)
        case Kind.LIST:
            return _normal_json(column, numeric_items=type.item is Kind.NUMERIC)
        case Kind.NUMERIC:
            return _normal_numeric(column)
        case Kind.FLOAT32 | Kind.FLOAT64:
            return _float_bits(column)
        case _:
            return column


def _cut_to_decimal128(column: pa.Array) -> pa.Array:
    # Fewer characters than that cannot have too many digits, nor leave the range of exponents.
    suspect = pc.fill_null(pc.greater(pc.binary_length(column), DECIMAL128_DIGITS), False)
    if not suspect.true_count:
        return column
    cut = pa.array([_decimal128(v) for v in column.filter(suspect).to_pylist()], column.type)
    return pc.replace_with_mask(column, suspect, cut)


def _null_for_json_null(column: pa.Array, *, rest: bool) -> pa.Array:
    bare = pc.fill_null(pc.equal(pc.ascii_trim(column, " \t\r\n"), "null"), False)
    if rest:
        bare = pc.or_(bare, pc.fill_null(pc.match_substring_regex(column, _EMPTY_OBJECT), False))
    return pc.if_else(bare, pa.scalar(None, column.type), column) if bare.true_count else column


def _decimal128(text: str) -> str:
    value = Decimal(text)
    if not value.is_finite() or value.adjusted() > _DECIMAL128_GREATEST:
        return text  # beyond decimal128's largest value: the node refuses it, so there is no narrowed form
    cut = _DECIMAL128.plus(value)
    return text if cut == value else format(cut, "f")


def _normal_numeric(column: pa.Array) -> pa.Array:
    column = column.cast(pa.utf8())
    if pc.any(pc.match_substring_regex(column, r"[eE+]|^-?\.")).as_py():
        column = pa.array([None if v is None else _plain(v) for v in column.to_pylist()], pa.utf8())
    column = pc.replace_substring_regex(column, r"^([^.]*)(\.\d*?)0*$", r"\1\2")
    column = pc.replace_substring_regex(column, r"\.$", "")
    column = pc.replace_substring_regex(column, r"^(-?)0*(\d)", r"\1\2")
    return pc.replace_substring_regex(column, r"^-0$", "0")


def _plain(text: str) -> str:
    value = Decimal(text)
    return format(value, "f") if value.is_finite() else text


def _float_bits(column: pa.Array) -> pa.Array:
    column = column.cast(pa.float64())
    values = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0  # adding 0 turns -0 into 0
    bits = np.where(np.isnan(values), _NAN_BITS, values.view(np.int64))
    mask = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(bits, pa.int64(), mask=mask)


def _normal_json(column: pa.Array, numeric_items: bool) -> pa.Array:
    texts = column.cast(pa.utf8())
    careful = pc.fill_null(pc.match_substring_regex(texts, _ORJSON_UNSAFE), False)
    if numeric_items or careful.true_count:
        read = [numeric_items or c for c in careful.to_pylist()]
    else:
        read = [False] * len(texts)
    return pa.array(
        [
            None if text is None else _read_json(text, numeric_items) if slowly else _quick_json(text)
            for text, slowly in zip(texts.to_pylist(), read, strict=True)
        ],
        pa.utf8(),
    )


def _quick_json(text: str) -> str:
    try:
        # As text it takes the memory it needs; the bytes that orjson returns keep a kilobyte each alive.
        return orjson.dumps(orjson.loads(text), None, orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:  # NaN for one, which other parsers read
        return _read_json(text, numeric_items=False)


def _read_json(text: str, numeric_items: bool) -> str:
    parts: list[str] = []
    try:
        value = json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=Decimal)
        if numeric_items and isinstance(value, list):
            value = [Decimal(v) if isinstance(v, str) else v for v in value]
        _spell(value, parts)
    except RecursionError:  # nested too deeply to be read: equal only to itself
        return text
    # A lone surrogate is spelled as its escape, which no other string can be: its backslash is doubled.
    return "".join(parts).encode("utf-8", "backslashreplace").decode()


def _spell(value: Any, parts: list[str]) -> None:
    """Append the normal spelling, the same as orjson's with sorted keys."""
    match value:
        case dict():
            parts.append("{")
            for i, name in enumerate(sorted(value)):
                parts.append("," if i else "")
                parts.append(json.dumps(name, ensure_ascii=False) + ":")
                _spell(value[name], parts)
            parts.append("}")
        case list():
            parts.append("[")
            for i, item in enumerate(value):
                parts.append("," if i else "")
                _spell(item, parts)
            parts.append("]")
        case Decimal():
            parts.append(_number(value))
        case _:
            parts.append(json.dumps(value, ensure_ascii=False))


def _number(value: Decimal) -> str:
    if not value.is_finite():
        return str(value)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant:
        return "0"
    exponent += len(text) - len(significant)
    minus = "-" if sign else ""
    if exponent >= 0 and len(significant) + exponent < 20:
        return f"{minus}{significant}{'0' * exponent}"
    return f"{minus}{significant}e{exponent}"
