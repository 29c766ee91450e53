"""Canonical values and BSON values, whole columns at a time.

Reading takes more than writing produces, since documents hold what applications put there. A missing
field and null are both null.

    kind                   written as                       also read from
    boolean                bool                             0 and 1
    int16, int32, int64    int32 or int64                   double and decimal128 without fraction
    float32, float64       double                           integers that a double holds, decimal128
    numeric                decimal128, 34 digits            integers, double, decimal text
    text                   string                           ObjectId (hexadecimal), UUID, dates (ISO 8601),
                                                            anything else as JSON text
    bytes                  binary                           any subtype
    date                   date at midnight UTC             ISO 8601 text
    time                   ISO 8601 text                    microseconds since midnight
    timestamp(tz)          date, floored to milliseconds    ISO 8601 text
    uuid                   binary of subtype 4              text
    json, list             see `extjson`
    opaque                 string                           as text

Dates and timestamps outside the years 1 to 9999 are written as ISO 8601 text, infinite ones as `infinity` and
`-infinity`. In a key (`key=True`) only those BSON types are read that compare equal to what would be written,
for `_id` finds nothing else.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from bson import Code, Int64, ObjectId
from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from replication.engines.mongodb import decimals, extjson
from replication.types import CanonicalType, Kind

_DAY_MS = 86_400_000
_NONE = type(None)
INFINITY, MINUS_INFINITY = "infinity", "-infinity"
DATES = frozenset({Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
_LIMITS = {
    Kind.INT16: (-(1 << 15), (1 << 15) - 1),
    Kind.INT32: (-(1 << 31), (1 << 31) - 1),
    Kind.INT64: (-(1 << 63), (1 << 63) - 1),
    Kind.DATE: (-(1 << 31), (1 << 31) - 1),
}
_EDGES = _LIMITS | {Kind.TIMESTAMP: _LIMITS[Kind.INT64], Kind.TIMESTAMPTZ: _LIMITS[Kind.INT64]}
YEAR_1, _YEAR_10000 = -62_135_596_800_000, 253_402_300_800_000
"""Dates outside these milliseconds are more than most drivers and tools can show."""
_FAST: dict[Kind, frozenset[type]] = {
    Kind.BOOLEAN: frozenset({bool, _NONE}),
    Kind.INT16: frozenset({int, Int64, _NONE}),
    Kind.INT32: frozenset({int, Int64, _NONE}),
    Kind.INT64: frozenset({int, Int64, _NONE}),
    Kind.FLOAT64: frozenset({float, _NONE}),
    Kind.TEXT: frozenset({str, _NONE}),
    Kind.OPAQUE: frozenset({str, _NONE}),
    Kind.BYTES: frozenset({bytes, _NONE}),
}
_ANYTHING = frozenset({Kind.TEXT, Kind.OPAQUE, Kind.JSON, Kind.LIST})
"""What takes any value of MongoDB's, as extended JSON where nothing simpler says it."""
_NUMBERS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.NUMERIC})
_KEY_TYPES: dict[Kind, type] = {
    **dict.fromkeys(_NUMBERS, int),
    Kind.TEXT: str,
    Kind.BYTES: bytes,
}
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?", re.ASCII)


class Unconvertible(ValueError):
    """A BSON value is not one of the column's type."""


def decode_column(
    values: Sequence[Any], canonical: CanonicalType, *, key: bool = False
) -> tuple[pa.Array, dict[int, str]]:
    """BSON values, dates as `DatetimeMS`, to an array of `canonical.arrow`.

    Args:
        values: one per row, None where the field is missing or null.
        canonical: the column's type.
        key: accept only what compares equal to the form that `encode_column` gives.

    Returns:
        the array, and for each row that could not be converted the reason; it is null in the array.
    """
    seen = set(map(type, values))
    if seen <= _FAST.get(canonical.kind, frozenset()):
        try:
            return pa.array(values, canonical.arrow), {}
        except (pa.ArrowInvalid, OverflowError):
            pass  # some integer is too large; the slow way finds out which
    convert = partial(_READ[canonical.kind], canonical.kind)
    plain: list[Any] = [None] * len(values)
    errors: dict[int, str] = {}
    for i, value in enumerate(values):
        if value is None:
            continue
        try:
            if isinstance(value, Code) and (key or canonical.kind not in _ANYTHING):
                raise Unconvertible  # Python has it as text, MongoDB does not
            if key and not _found_by_id(value, canonical.kind):
                raise Unconvertible
            plain[i] = convert(value)
        except (ArithmeticError, ValueError) as error:
            why = f": {error}" if str(error) else ""
            errors[i] = f"{_show(value)} is no {canonical.kind}{why}"
    return _array(plain, canonical), errors


def _found_by_id(value: Any, kind: Kind) -> bool:
    """Whether a document with this value in its `_id` is found by the form that we write."""
    if isinstance(value, bool):
        return kind is Kind.BOOLEAN
    if isinstance(value, Binary):
        return kind is Kind.UUID and value.subtype == UUID_SUBTYPE
    if isinstance(value, (float, Decimal128)):
        number = value if isinstance(value, float) else value.to_decimal()
        return kind in _NUMBERS and math.isfinite(number)
    if isinstance(value, (str, DatetimeMS)) and kind in DATES:
        read = _read_date if kind is Kind.DATE else _read_timestamp
        return _encode_date(kind, read(kind, value)) == value
    return isinstance(value, _KEY_TYPES.get(kind, ()))


def encode_column(column: pa.Array, canonical: CanonicalType) -> list[Any]:
    """An array of `canonical.arrow` to BSON values; null is None.

    A value that BSON cannot hold comes back as an `Unconvertible` in its place.
    """
    match canonical.kind:
        case Kind.DATE:
            days = column.cast(pa.int32()).to_pylist()
            return [None if v is None else _encode_date(canonical.kind, v) for v in days]
        case Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            moments = column.view(pa.int64()).to_pylist()
            return [None if v is None else _encode_date(canonical.kind, v) for v in moments]
        case Kind.TIME:
            return [None if v is None else _iso_time(v) for v in column.view(pa.int64()).to_pylist()]
        case Kind.NUMERIC:
            return _each(decimals.to_decimal128, column)
        case Kind.UUID:
            return _each(lambda v: Binary(bytes.fromhex(v.replace("-", "")), UUID_SUBTYPE), column)
        case Kind.JSON | Kind.LIST:
            return _each(extjson.from_text, column)
        case _:
            values: list[Any] = column.to_pylist()
            return values


def _each(convert: Callable[[str], Any], column: pa.Array) -> list[Any]:
    out: list[Any] = []
    for value in column.to_pylist():
        try:
            out.append(None if value is None else convert(value))
        except (ArithmeticError, ValueError, RecursionError) as error:
            out.append(Unconvertible(str(error)))
    return out


def _encode_date(kind: Kind, value: int) -> DatetimeMS | str:
    """Days or microseconds as a BSON date, or as text where that would not do."""
    least, most = _EDGES[kind]
    if value in (least, most):
        return INFINITY if value == most else MINUS_INFINITY
    millis = value * _DAY_MS if kind is Kind.DATE else value // 1000
    if YEAR_1 <= millis < _YEAR_10000:
        return DatetimeMS(millis)
    if kind is Kind.DATE:
        return _iso(np.datetime64(value, "D"))
    # The earliest of all cannot be floored within 64 bits, see `narrowing`.
    text = _iso(np.datetime64(value, "us") if value < least + 1000 else np.datetime64(millis, "ms"))
    return f"{text}Z" if kind is Kind.TIMESTAMPTZ else text


def _iso_time(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{rest:06}".rstrip("0") if rest else text


def _array(plain: list[Any], canonical: CanonicalType) -> pa.Array:
    match canonical.kind:
        case Kind.DATE:
            return pa.array(plain, pa.int32()).cast(pa.date32())
        case Kind.TIME | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return pa.array(plain, pa.int64()).view(canonical.arrow)
        case _:
            return pa.array(plain, canonical.arrow)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _read_boolean(kind: Kind, value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise Unconvertible


def _read_integer(kind: Kind, value: Any) -> int:
    number = value.to_decimal() if isinstance(value, Decimal128) else value
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
        raise Unconvertible
    if not isinstance(value, int) and (not math.isfinite(number) or number != int(number)):
        message = "not a whole number"
        raise Unconvertible(message)
    whole = int(number)
    least, most = _LIMITS[kind]
    if not least <= whole <= most:
        message = "out of range"
        raise Unconvertible(message)
    return whole


def _read_float(kind: Kind, value: Any) -> float:
    if isinstance(value, Decimal128):
        number = float(value.to_decimal())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        if number != value and not math.isnan(number):
            message = "a double does not hold this integer"
            raise Unconvertible(message)
    else:
        raise Unconvertible
    if kind is Kind.FLOAT32 and math.isfinite(number):
        with np.errstate(over="ignore"):
            if not np.isfinite(np.float32(number)):
                message = "out of range"
                raise Unconvertible(message)
    return number


def _read_numeric(kind: Kind, value: Any) -> str:
    if isinstance(value, Decimal128):
        return decimals.to_text(value)
    if isinstance(value, bool):
        raise Unconvertible
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return decimals.plain(Decimal(repr(value)))
    if isinstance(value, str):
        return decimals.plain(Decimal(value))
    raise Unconvertible


def _read_text(kind: Kind, value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, Code):
        return value
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, DatetimeMS):
        return _iso(np.datetime64(int(value), "ms")) + "Z"
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        return str(uuid.UUID(bytes=value))
    return extjson.to_text(value)


def _read_bytes(kind: Kind, value: Any) -> bytes:
    if isinstance(value, bytes):
        return bytes(value)
    raise Unconvertible


def _read_date(kind: Kind, value: Any) -> int:
    least, most = _EDGES[kind]
    if isinstance(value, str):
        if value in (INFINITY, MINUS_INFINITY):
            return most if value == INFINITY else least
        days = int(np.datetime64(value, "D").astype(np.int64))
    elif isinstance(value, DatetimeMS):
        days, rest = divmod(int(value), _DAY_MS)
        if rest:
            message = "not at midnight UTC"
            raise Unconvertible(message)
    else:
        raise Unconvertible
    if not least < days < most:
        message = "out of range"
        raise Unconvertible(message)
    return days


def _read_time(kind: Kind, value: Any) -> int:
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        hour, minute, second, fraction = match.groups("0")
        micros = ((int(hour) * 60 + int(minute)) * 60 + int(second)) * 1_000_000 + int(fraction.ljust(6, "0"))
        if int(minute) > 59 or int(second) > 59:
            raise Unconvertible
    elif isinstance(value, int) and not isinstance(value, bool):
        micros = int(value)
    else:
        raise Unconvertible
    if not 0 <= micros <= _DAY_MS * 1000:
        message = "out of range"
        raise Unconvertible(message)
    return micros


def _read_timestamp(kind: Kind, value: Any) -> int:
    least, most = _EDGES[kind]
    if isinstance(value, str):
        if value in (INFINITY, MINUS_INFINITY):
            return most if value == INFINITY else least
        micros = _parse_timestamp(value, zoned=kind is Kind.TIMESTAMPTZ)
    elif isinstance(value, DatetimeMS):
        micros = int(value) * 1000
    else:
        raise Unconvertible
    if not least < micros < most:
        message = "out of range"
        raise Unconvertible(message)
    return micros


def _parse_timestamp(text: str, *, zoned: bool) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return int(np.datetime64(text.removesuffix("Z"), "us").astype(np.int64))
    if moment.tzinfo is not None and not zoned:
        message = "it has a zone"
        raise Unconvertible(message)
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds


def _read_uuid(kind: Kind, value: Any) -> str:
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        return str(uuid.UUID(bytes=value))
    if isinstance(value, str):
        return str(uuid.UUID(value))
    raise Unconvertible


def _read_json(kind: Kind, value: Any) -> str:
    return extjson.to_text(value)


def _read_list(kind: Kind, value: Any) -> str:
    if isinstance(value, list):
        return extjson.to_text(value)
    raise Unconvertible


def _iso(moment: np.datetime64) -> str:
    """ISO 8601, years before 0 with four digits."""
    text = str(np.datetime_as_string(moment))
    if not text.startswith("-"):
        return text
    year, rest = text[1:].split("-", 1)
    return f"-{year:>04}-{rest}"


_READ: dict[Kind, Callable[[Kind, Any], Any]] = {
    Kind.BOOLEAN: _read_boolean,
    Kind.INT16: _read_integer,
    Kind.INT32: _read_integer,
    Kind.INT64: _read_integer,
    Kind.FLOAT32: _read_float,
    Kind.FLOAT64: _read_float,
    Kind.NUMERIC: _read_numeric,
    Kind.TEXT: _read_text,
    Kind.BYTES: _read_bytes,
    Kind.DATE: _read_date,
    Kind.TIME: _read_time,
    Kind.TIMESTAMP: _read_timestamp,
    Kind.TIMESTAMPTZ: _read_timestamp,
    Kind.UUID: _read_uuid,
    Kind.JSON: _read_json,
    Kind.LIST: _read_list,
    Kind.OPAQUE: _read_text,
}
