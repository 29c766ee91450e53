"""JSON text and BSON values.

What JSON can say is plain JSON, of any type that says it: `1` may be an int32, an int64 or a decimal128 in
the document. What it cannot say is written as MongoDB's relaxed extended JSON
(https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md) and read
back from it. An object that only looks like it, as `{"$oid": "x"}` or `{"$oid": null}`, stays a document:
extended JSON is read as such only where it is what we would write.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import orjson
from bson import json_util
from bson.code import Code
from bson.codec_options import DatetimeConversion
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.int64 import Int64
from bson.json_util import JSONMode, JSONOptions

from replication.engines.mongodb import decimals

_RELAXED = JSONOptions(
    json_mode=JSONMode.RELAXED, tz_aware=False, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_NO_VALUE = (ArithmeticError, AttributeError, BSONError, LookupError, TypeError, ValueError)
_SEPARATORS = (",", ":")
_MOST, _LEAST = (1 << 63) - 1, -(1 << 63)


def to_text(value: Any) -> str:
    """Compact JSON text; the fields keep their order."""
    try:
        # JavaScript is a kind of str to Python, which `json` would print as one.
        orjson.dumps(value, _integer_of, orjson.OPT_PASSTHROUGH_SUBCLASS)
        return json.dumps(value, separators=_SEPARATORS, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        parts: list[str] = []
        _spell(value, parts)
        return "".join(parts)


def from_text(text: str) -> Any:
    """The BSON value of JSON text.

    Numbers become the first of int32, int64, double and decimal128 that holds them exactly.

    Raises:
        ValueError: not JSON, or a number that no BSON type holds exactly.
    """
    hook = _extended if '"$' in text else None
    return json.loads(
        text, object_hook=hook, parse_int=_integer, parse_float=_number, parse_constant=_constant
    )


def _integer_of(value: Any) -> int:
    """What a value of a class of its own is in plain JSON.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, Int64):
        return int(value)
    raise TypeError


def _extended(read: dict[str, Any]) -> Any:
    """The BSON value that an object of extended JSON stands for, or the object itself."""
    if not any(name.startswith("$") for name in read):
        return read
    try:
        value = json_util.object_hook(_with_long_date(read), _RELAXED)
        return value if _sorted(value) == _sorted(read) else read
    except _NO_VALUE:
        return read  # fields that start with a dollar sign for reasons of their own


def _with_long_date(read: dict[str, Any]) -> dict[str, Any]:
    """A date before 1970 or beyond 9999 is a number inside, and that object has been looked at already."""
    match read:
        case {"$date": {"$numberLong": str(millis)}} if len(read) == 1 and len(read["$date"]) == 1:
            return {"$date": int(millis)}
    return dict(read)


def _sorted(value: Any) -> str:
    return json.dumps(json.loads(to_text(value)), sort_keys=True)


def _spell(value: Any, parts: list[str]) -> None:
    if isinstance(value, dict):
        parts.append("{")
        for i, (name, item) in enumerate(value.items()):
            parts.append(f"{',' if i else ''}{json.dumps(name, ensure_ascii=False)}:")
            _spell(item, parts)
        parts.append("}")
    elif isinstance(value, list):
        parts.append("[")
        for i, item in enumerate(value):
            if i:
                parts.append(",")
            _spell(item, parts)
        parts.append("]")
    elif isinstance(value, Decimal128) and value.to_decimal().is_finite():
        parts.append(_json_number(value))
    elif value is None or (isinstance(value, (str, bool, int)) and not isinstance(value, Code)):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, float) and math.isfinite(value):
        parts.append(repr(value))
    else:
        parts.append(
            json_util.dumps(value, json_options=_RELAXED, separators=_SEPARATORS, ensure_ascii=False)
        )


def _json_number(value: Decimal128) -> str:
    number = value.to_decimal()
    return str(number) if abs(number.adjusted()) > 2 * decimals.DIGITS else decimals.to_text(value)


def _integer(text: str) -> int | Decimal128:
    value = int(text)
    return value if _LEAST <= value <= _MOST else _exact(text)


def _number(text: str) -> float | Decimal128:
    value = float(text)
    if math.isfinite(value) and Decimal(repr(value)) == Decimal(text):
        return value
    return _exact(text)


def _exact(text: str) -> Decimal128:
    number = decimals.to_decimal128(text)
    if number.to_decimal() != Decimal(text):
        message = f"the number {text[:60]} has more digits than decimal128"
        raise ValueError(message)
    return number


def _constant(text: str) -> float:
    message = f"{text} is not JSON"
    raise ValueError(message)
