"""MySQL's binary JSON as JSON text, spelled as the server spells it.

The format is described in `sql-common/json_binary.h` of MySQL's source. A value is a type and its bytes;
objects and arrays hold a table of their members with offsets from their own beginning. Whatever JSON does not
know (decimals, dates, bytes) is "opaque": the type of a column and the bytes that such a column would hold.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable

from pymysqlreplication.constants import FIELD_TYPE

from replication.engines.mysql.decode import Malformed
from replication.engines.mysql.tablemap import DIGIT_BYTES, decimal_groups

_LITERALS = {0: "null", 1: "true", 2: "false"}
_INTEGERS = {5: "<h", 6: "<H", 7: "<i", 8: "<I", 9: "<q", 10: "<Q"}
_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY, _LITERAL = range(5)
_INLINE, _INLINE_LARGE = frozenset({_LITERAL, 5, 6}), frozenset({7, 8})
"""Values so small that they stand in the table of members itself."""
_DOUBLE, _STRING, _OPAQUE = 11, 12, 15
_DEEPEST = 128
"""MySQL itself stops at 100."""
_FRACTION = 1 << 24


def to_text(data: bytes) -> str:
    """The JSON text of one value.

    Raises:
        Malformed: the bytes are no such value.
    """
    if not data:
        return "null"  # what a column of that type holds that was added to a table with rows
    printer = _Printer(data)
    try:
        printer.value(data[0], 1, 0)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        message = f"a JSON value is damaged: {error}"
        raise Malformed(message) from error
    return "".join(printer.parts)


class _Printer:
    """The text of one value in parts."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts: list[str] = []
        self.members = len(data) // 3
        """How many may still come: each has an entry of at least three bytes. Offsets that lead back would
        not end."""

    def value(self, kind: int, at: int, depth: int) -> None:
        data, parts = self.data, self.parts
        if depth > _DEEPEST:
            message = "a JSON value is nested without end"
            raise Malformed(message)
        if kind <= _LARGE_ARRAY:
            self.container(kind, at, depth)
        elif kind == _LITERAL:
            parts.append(_LITERALS[data[at]])
        elif kind in _INTEGERS:
            parts.append(str(struct.unpack_from(_INTEGERS[kind], data, at)[0]))
        elif kind == _DOUBLE:
            parts.append(_double(struct.unpack_from("<d", data, at)[0]))
        elif kind == _STRING:
            parts.append(_quoted(_sized(data, at).decode()))
        elif kind == _OPAQUE:
            parts.append(_opaque(data[at], _sized(data, at + 1)))
        else:
            message = f"a JSON value of unknown type {kind}"
            raise Malformed(message)

    def container(self, kind: int, at: int, depth: int) -> None:
        data, parts = self.data, self.parts
        large = kind in (_LARGE_OBJECT, _LARGE_ARRAY)
        named = kind in (_SMALL_OBJECT, _LARGE_OBJECT)
        size, number = (4, "<I") if large else (2, "<H")
        (count,) = struct.unpack_from(number, data, at)
        keys = at + 2 * size
        values = keys + (size + 2) * count if named else keys
        self.members -= count
        if self.members < 0 or values + (size + 1) * count > len(data):
            message = f"a JSON value has no room for its {count} members"
            raise Malformed(message)
        parts.append("{" if named else "[")
        for i in range(count):
            if i:
                parts.append(", ")
            if named:
                entry = keys + (size + 2) * i
                (offset,) = struct.unpack_from(number, data, entry)
                (length,) = struct.unpack_from("<H", data, entry + size)
                parts.append(f"{_quoted(_slice(data, at + offset, length).decode())}: ")
            entry = values + (size + 1) * i
            member = data[entry]
            if member in _INLINE or (large and member in _INLINE_LARGE):
                place = entry + 1
            else:
                place = at + struct.unpack_from(number, data, entry + 1)[0]
            self.value(member, place, depth + 1)
        parts.append("}" if named else "]")


def _double(value: float) -> str:
    if not math.isfinite(value):
        message = f"{value} is no number of JSON"
        raise Malformed(message)
    return repr(value).replace("e+", "e")


def _sized(data: bytes, at: int) -> bytes:
    """Bytes with their length before them, seven bits of it to a byte."""
    length = shift = 0
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return _slice(data, at, length)
        shift += 7


def _slice(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        message = "a JSON value was cut off"
        raise Malformed(message)
    return data[at : at + length]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _opaque(kind: int, data: bytes) -> str:
    show = _SHOWN.get(kind)
    if show is not None:
        return show(data)
    return f'"base64:type{kind}:{base64.b64encode(data).decode()}"'


def _decimal(data: bytes) -> str:
    precision, scale = data[0], data[1]
    at, negative = 2, data[2] < 0x80
    body = bytearray(data)
    body[2] ^= 0x80
    if negative:
        body[2:] = bytes(b ^ 0xFF for b in body[2:])
    digits = []
    for width in decimal_groups(precision, scale):
        size = DIGIT_BYTES[width]
        digits.append(f"{int.from_bytes(body[at : at + size], 'big'):0{width}}")
        at += size
    text = "".join(digits)
    whole = text[: precision - scale].lstrip("0") or "0"
    fraction = f".{text[precision - scale :]}" if scale else ""
    return f"{'-' if negative else ''}{whole}{fraction}"


def _datetime(data: bytes) -> str:
    return f'"{_date_part(data)} {_time_part(data)}"'


def _date(data: bytes) -> str:
    return f'"{_date_part(data)}"'


def _time(data: bytes) -> str:
    (packed,) = struct.unpack("<q", data)
    sign = "-" if packed < 0 else ""
    hms = abs(packed) // _FRACTION
    return f'"{sign}{_clock(hms >> 12 & 0x3FF, hms, abs(packed) % _FRACTION)}"'


def _date_part(data: bytes) -> str:
    (packed,) = struct.unpack("<q", data)
    days = packed >> 41
    return f"{(days >> 5) // 13:04}-{(days >> 5) % 13:02}-{days & 31:02}"


def _time_part(data: bytes) -> str:
    (packed,) = struct.unpack("<q", data)
    hms = packed >> 24
    return _clock(hms >> 12 & 0x1F, hms, packed % _FRACTION)


def _clock(hour: int, hms: int, micros: int) -> str:
    return f"{hour:02}:{hms >> 6 & 0x3F:02}:{hms & 0x3F:02}.{micros:06}"


_SHOWN: dict[int, Callable[[bytes], str]] = {
    FIELD_TYPE.NEWDECIMAL: _decimal,
    FIELD_TYPE.DECIMAL: _decimal,
    FIELD_TYPE.DATE: _date,
    FIELD_TYPE.TIME: _time,
    FIELD_TYPE.TIME2: _time,
    FIELD_TYPE.DATETIME: _datetime,
    FIELD_TYPE.DATETIME2: _datetime,
    FIELD_TYPE.TIMESTAMP: _datetime,
    FIELD_TYPE.TIMESTAMP2: _datetime,
}
