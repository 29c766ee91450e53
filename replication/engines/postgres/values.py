"""Whole columns between the server's text and canonical Arrow values.

The fast way covers years 1 to 9999 and is Arrow's own parser and printer; infinities, years before Christ or
beyond 9999 and 24:00:00 are taken out and handled value by value. Infinity is the greatest value of the Arrow
type, -infinity the least.
"""

from __future__ import annotations

import re
from binascii import hexlify, unhexlify
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.buffers import contents, rebuilt
from replication.engines.postgres.arrays import array_to_json, json_to_array
from replication.engines.postgres.types import LocalType
from replication.types import CanonicalType, Kind

DAY = 86_400_000_000
_ORDINARY = {
    Kind.DATE: r"^\d{4}-\d\d-\d\d$",
    Kind.TIMESTAMP: r"^\d{4}-\d\d-\d\d [0-9:.]+$",
    Kind.TIMESTAMPTZ: r"^\d{4}-\d\d-\d\d [0-9:.]+\+00$",
}
_ANY_DATE = re.compile(r"(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:\+00)?)?( BC)?$")
_INT64 = np.iinfo(np.int64)
_INT32 = np.iinfo(np.int32)
_TRUE = pa.scalar("t", pa.utf8())
_FIRST_DAY = -719_162
"""0001-01-01."""
_LAST_DAY = 2_932_896
"""9999-12-31."""


def from_text(column: pa.Array, type: CanonicalType, local: LocalType) -> pa.Array:
    """Read a column of the server's text.

    Args:
        column: binary or utf8; nulls stay null.
        type: the canonical type to read.
        local: the type that printed the text.

    Returns:
        an array of `type.arrow`.

    Raises:
        pa.ArrowInvalid: a text is no value of the canonical type.
    """
    kind = type.kind
    if kind is Kind.BYTES:
        return _unhex(column.cast(pa.binary()))
    text = column if column.type == pa.utf8() else column.cast(pa.utf8())
    if kind is Kind.BOOLEAN:
        return pc.equal(text, _TRUE)
    if kind in _ORDINARY:
        return _read_dates(text, type)
    if kind is Kind.TIME:
        return _read_times(text)
    if local.padded:
        text = pc.utf8_rtrim(text, characters=" ")
    if local.kind is Kind.LIST and local.item is not None:
        return array_to_json(text, local.item)
    return text if type.arrow == pa.utf8() else text.cast(type.arrow)


def to_text(column: pa.Array, type: CanonicalType, local: LocalType) -> pa.Array:
    """Print a column so that the server reads it as a value of the local type; nulls stay null."""
    kind = type.kind
    if kind is Kind.BYTES:
        return _hex(column)
    if kind in _ORDINARY:
        return _print_dates(column, kind)
    if kind is Kind.TIME:
        return _print_times(column)
    if local.kind is Kind.LIST and kind in (Kind.LIST, Kind.JSON):
        return json_to_array(column)
    return column.cast(pa.utf8())


def _read_dates(text: pa.Array, type: CanonicalType) -> pa.Array:
    try:
        return text.cast(type.arrow)
    except pa.ArrowInvalid:
        ordinary = pc.match_substring_regex(text, _ORDINARY[type.kind])
    fast = pc.if_else(ordinary, text, pa.scalar(None, pa.utf8())).cast(type.arrow)
    read = _parse_day if type.kind is Kind.DATE else _parse_micros
    return _mend(fast, pc.invert(ordinary), text, read)


def _read_times(text: pa.Array) -> pa.Array:
    midnight = pc.equal(text, "24:00:00")
    ordinary = pc.if_else(midnight, pa.scalar(None, pa.utf8()), text)
    stamps = pc.binary_join_element_wise("1970-01-01", ordinary, " ").cast(pa.timestamp("us"))
    micros = pc.if_else(midnight, pa.scalar(DAY, pa.int64()), stamps.cast(pa.int64()))
    return micros.cast(pa.time64("us"))


def _mend(fast: pa.Array, odd: pa.Array, text: pa.Array, read: Callable[[str], int]) -> pa.Array:
    """Fill the values at `odd` in `fast` by reading their texts one by one."""
    integer = pa.int32() if pa.types.is_date(fast.type) else pa.int64()
    places = pc.indices_nonzero(pc.fill_null(odd, False)).to_numpy()
    values = pc.fill_null(fast.view(integer), 0).to_numpy(zero_copy_only=False).copy()
    values[places] = [read(t) for t in text.take(places).to_pylist()]
    null = text.is_null().to_numpy(zero_copy_only=False)
    return pa.array(values, integer, mask=null).view(fast.type)


def _parse_day(text: str) -> int:
    if text.endswith("infinity"):
        return int(_INT32.min if text[0] == "-" else _INT32.max)
    return _day_of(_match(text))


def _parse_micros(text: str) -> int:
    if text.endswith("infinity"):
        return int(_INT64.min if text[0] == "-" else _INT64.max)
    match = _match(text)
    hour, minute, second = (int(match[i] or 0) for i in (4, 5, 6))
    fraction = int((match[7] or "0").ljust(6, "0"))
    micros = _day_of(match) * DAY + ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction
    # The server's timestamps end 29 years after those of 64-bit microseconds since 1970.
    return min(micros, int(_INT64.max) - 1)


def _match(text: str) -> re.Match[str]:
    match = _ANY_DATE.match(text)
    if match is None:
        message = f"not a date that the server prints: {text!r}"
        raise pa.ArrowInvalid(message)
    return match


def _day_of(match: re.Match[str]) -> int:
    """Days since 1970 in the proleptic Gregorian calendar, any year (Hinnant, "chrono-compatible …")."""
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    if match[8]:
        year = 1 - year
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _civil(days: int) -> tuple[int, int, int]:
    """Undo `_day_of`: year (0 is 1 BC), month, day."""
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * of_year + 2) // 153
    day = of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + (3 if month_index < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, day


def _print_dates(column: pa.Array, kind: Kind) -> pa.Array:
    date = kind is Kind.DATE
    integer = pa.int32() if date else pa.int64()
    values = pc.fill_null(column.view(integer), 0).to_numpy(zero_copy_only=False)
    scale = 1 if date else DAY
    odd = (values < _FIRST_DAY * scale) | (values >= (_LAST_DAY + 1) * scale)
    if not date:
        column = column.cast(pa.timestamp("us"))  # a zone makes printing thirty times slower; ours is UTC
    if not odd.any():
        return column.cast(pa.utf8())
    show = _show_day if date else _show_micros
    mask = pa.array(odd)
    fast = pc.if_else(mask, pa.scalar(None, column.type), column).cast(pa.utf8())
    return pc.replace_with_mask(fast, mask, pa.array([show(int(v)) for v in values[odd]], pa.utf8()))


def _show_day(days: int) -> str:
    if days in (_INT32.min, _INT32.max):
        return "-infinity" if days < 0 else "infinity"
    year, month, day = _civil(days)
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}{era}"


def _show_micros(micros: int) -> str:
    if micros in (_INT64.min, _INT64.max):
        return "-infinity" if micros < 0 else "infinity"
    days, rest = divmod(micros, DAY)
    seconds, fraction = divmod(rest, 1_000_000)
    hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    date, _, era = _show_day(days).partition(" ")
    return f"{date} {hour:02}:{minute:02}:{second:02}.{fraction:06}{' ' + era if era else ''}"


def _print_times(column: pa.Array) -> pa.Array:
    micros = column.cast(pa.int64())
    midnight = pc.equal(micros, DAY)
    ordinary = pc.if_else(midnight, pa.scalar(None, pa.int64()), micros).cast(pa.time64("us"))
    return pc.if_else(midnight, "24:00:00", ordinary.cast(pa.utf8()))


def _unhex(column: pa.Array) -> pa.Array:
    """`\\x4142` to bytes, one call for the whole column."""
    lengths, data = contents(column)
    return rebuilt(column, unhexlify(data.replace(b"\\x", b"")), np.maximum(lengths - 2, 0) // 2, pa.binary())


def _hex(column: pa.Array) -> pa.Array:
    """Bytes to `\\x4142`, one call for the whole column."""
    lengths, data = contents(column)
    digits = rebuilt(column, hexlify(data), lengths * 2, pa.utf8())
    return pc.binary_join_element_wise("\\x", digits, "")
