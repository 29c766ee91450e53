"""Fields of row images as whole Arrow columns, each of its type's own kind; see the table in `types`.

The storage formats are those of `Field::pack` in MySQL's source: times and decimals are big-endian so that
their bytes compare as they do, everything else is little-endian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pymysqlreplication.constants import FIELD_TYPE

from replication.engines.mysql import jsonb
from replication.engines.mysql.charsets import UTF8
from replication.engines.mysql.decode import Malformed
from replication.engines.mysql.images import Bools, Buffer, Ints, Values, validity
from replication.engines.mysql.layout import BINARY, Field
from replication.engines.mysql.tablemap import DIGIT_BYTES, VECTOR, decimal_groups
from replication.engines.mysql.values import DAY, Errors, ewkb
from replication.types import Kind

_SECOND = 1_000_000


def read_field(buffer: Buffer, values: Values, field: Field) -> tuple[pa.Array, Errors]:
    """The values as an array of `field.type.arrow`, and which of them have no canonical value.

    Raises:
        Malformed: the bytes are no values of the column.
    """
    return _READ[field.column.type](buffer, values, field)


def _array(type: pa.DataType, values: npt.NDArray[np.generic], valid: Bools | None) -> pa.Array:
    """Numbers as an array, without a copy."""
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(type, len(values), [validity(valid), data])


def _strings(chars: npt.NDArray[np.uint8], begin: Ints, valid: Bools | None) -> pa.Array:
    """Rows of characters of which each begins somewhere, as text."""
    n, width = chars.shape
    kept = np.arange(width) >= begin[:, None]
    offsets = np.zeros(n + 1, np.int32)
    np.cumsum(width - begin, out=offsets[1:])
    return pa.Array.from_buffers(
        pa.utf8(), n, [validity(valid), pa.py_buffer(offsets), pa.py_buffer(chars[kept])]
    )


def _read_integer(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    width, type = field.column.width, field.type.arrow
    raw = buffer.little(v.start, width)
    if field.column.unsigned:
        if field.type.kind is Kind.NUMERIC:
            return _array(pa.uint64(), raw, v.valid).cast(pa.utf8()), {}
        number = raw.view(np.int64)
    else:
        shift = 64 - 8 * width
        number = (raw << np.uint64(shift)).view(np.int64) >> np.int64(shift)
    return _array(type, number.astype(type.to_pandas_dtype()), v.valid), {}


def _read_year(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    raw = buffer.bytes[v.start].astype(np.int16)
    return _array(pa.int16(), np.where(raw == 0, 0, raw + 1900).astype(np.int16), v.valid), {}


def _read_float(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    raw = buffer.little(v.start, field.column.width)
    if field.column.width == 8:
        return _array(pa.float64(), raw.view(np.float64), v.valid), {}
    return _array(pa.float32(), raw.astype(np.uint32).view(np.float32), v.valid), {}


def _read_bit(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    raw = buffer.big(v.start, field.column.width)
    shifts = np.arange(field.column.size, dtype=np.uint64)[::-1]
    digits = (raw[:, None] >> shifts & np.uint64(1)).astype(np.uint8) + np.uint8(ord("0"))
    return _strings(digits, np.zeros(len(raw), np.int64), v.valid), {}


def _read_decimal(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    """Digits by columns of a matrix, a sign before them, and the zeros in front cut off."""
    precision, scale = field.column.precision, field.column.size
    negative = buffer.bytes[v.start] < 0x80
    digits = np.zeros((precision, len(v.start)), np.uint8)
    at, place = v.start, 0
    for width in decimal_groups(precision, scale):
        size = DIGIT_BYTES[width]
        group = buffer.big(at, size).astype(np.uint32)
        if place == 0:
            group ^= np.uint32(0x80 << 8 * (size - 1))
        group ^= np.where(negative, np.uint32((1 << 8 * size) - 1), np.uint32(0))
        for k in range(place + width - 1, place - 1, -1):
            rest = group // np.uint32(10)
            digits[k] = group - rest * np.uint32(10)
            group = rest
        if group.any() if v.valid is None else group[v.valid].any():
            message = f"a decimal of {width} digits has more"
            raise Malformed(message)
        at, place = at + size, place + width
    whole = precision - scale
    begin = np.zeros(len(v.start), np.int64) + max(whole - 1, 0)
    for k in range(whole - 2, -1, -1):
        begin[digits[k] != 0] = k
    negative &= digits.any(axis=0)
    parts = [np.full((1, len(v.start)), ord("-"), np.uint8)]
    parts.append(
        digits[:whole] + np.uint8(ord("0")) if whole else np.full((1, len(v.start)), ord("0"), np.uint8)
    )
    if scale:
        parts += [np.full((1, len(v.start)), ord("."), np.uint8), digits[whole:] + np.uint8(ord("0"))]
    begin += 1 - negative
    chars = np.ascontiguousarray(np.concatenate(parts).T)
    rows = np.flatnonzero(negative)
    chars[rows, begin[rows]] = ord("-")
    return _strings(chars, begin, v.valid), {}


def _read_date(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    raw = buffer.little(v.start, 3).view(np.int64)
    year, month, day = raw >> 9, raw >> 5 & 15, raw & 31
    errors = _no_dates(year, month, day, v, "date")
    days = _days(year, month, day)
    return _array(pa.date32(), days.astype(np.int32), _without(v.valid, errors, len(days))), errors


def _read_datetime(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    raw = buffer.big(v.start, 5).view(np.int64) - (1 << 39)
    year, month, day = (raw >> 22) // 13, (raw >> 22) % 13, raw >> 17 & 31
    errors = _no_dates(year, month, day, v, "timestamp")
    seconds = ((raw >> 12 & 31) * 60 + (raw >> 6 & 63)) * 60 + (raw & 63)
    micros = _days(year, month, day) * DAY + seconds * _SECOND
    micros += _fraction(buffer, v.start + 5, field.column.size)
    return _array(pa.timestamp("us"), micros, _without(v.valid, errors, len(micros))), errors


def _read_timestamp(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    micros = buffer.big(v.start, 4).view(np.int64) * _SECOND
    micros += _fraction(buffer, v.start + 4, field.column.size)
    zero = np.flatnonzero((micros == 0) & v.present).tolist()
    errors = dict.fromkeys(zero, "0000-00-00 00:00:00 is no timestamptz")
    return _array(pa.timestamp("us", tz="UTC"), micros, _without(v.valid, errors, len(micros))), errors


def _read_time(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    digits = field.column.size
    bits = 8 * ((digits + 1) // 2)
    packed = buffer.big(v.start, field.column.width).view(np.int64) - (0x800000 << bits)
    size = np.abs(packed)
    whole, rest = size >> bits, size & ((1 << bits) - 1)
    hour, minute, second = whole >> 12 & 0x3FF, whole >> 6 & 63, whole & 63
    micros = ((hour * 60 + minute) * 60 + second) * _SECOND + rest * _scale(digits)
    # What is no time of a day is found by `values.adapt`, here as in a snapshot.
    return _array(pa.time64("us"), np.where(packed < 0, -micros, micros), v.valid), {}


def _scale(digits: int) -> int:
    """What the fraction of a second of so many digits is multiplied by: it is stored in pairs of them."""
    return int(10 ** (6 - (digits + 1) // 2 * 2))


def _fraction(buffer: Buffer, at: Ints, digits: int) -> Ints:
    if not digits:
        return np.zeros(len(at), np.int64)
    return buffer.big(at, (digits + 1) // 2).view(np.int64) * _scale(digits)


def _days(year: Ints, month: Ints, day: Ints) -> Ints:
    """Days since 1970 in the proleptic Gregorian calendar (Hinnant, "chrono-compatible …")."""
    year = year - (month <= 2)
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    return np.asarray(
        era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468, np.int64
    )


_MONTHS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0, 0, 0])


def _no_dates(year: Ints, month: Ints, day: Ints, v: Values, kind: str) -> Errors:
    leap = (month == 2) & (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    bad = ((year < 1) | (day < 1) | (day > _MONTHS[month] + leap)) & v.present
    return {i: f"{year[i]:04}-{month[i]:02}-{day[i]:02} is no {kind}" for i in np.flatnonzero(bad).tolist()}


def _without(valid: Bools | None, errors: Errors, n: int) -> Bools | None:
    if not errors:
        return valid
    kept = np.ones(n, np.bool_) if valid is None else valid.copy()
    kept[list(errors)] = False
    return kept


def _read_text(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    if field.column.collation == BINARY:
        return _read_bytes(buffer, v, field)
    assert field.charset is not None
    binary = buffer.binary(v.start, v.lengths, v.valid)
    if field.charset.codec == UTF8:
        try:
            return binary.cast(pa.utf8()), {}
        except pa.ArrowInvalid:
            pass  # the slow way finds out which
    return _each(binary, pa.utf8(), field.charset.decode)


def _read_bytes(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    lengths, size = v.lengths, field.column.size
    if field.type.name != "binary" or not len(lengths):
        return buffer.binary(v.start, lengths, v.valid), {}
    # Zero bytes at the end are left out of the log, but they are part of the value.
    places = np.arange(size)
    data = np.where(places < lengths[:, None], buffer.bytes[v.start[:, None] + places], np.uint8(0))
    offsets = pa.py_buffer(np.arange(len(lengths) + 1, dtype=np.int32) * np.int32(size))
    buffers = [validity(v.valid), offsets, pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers), {}


def _read_enum(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    index = buffer.little(v.start, field.column.width).view(np.int64)
    members = ("", *field.members)  # 0 is what a value became that was none of them
    known = index < len(members)
    bad = np.flatnonzero(~known & v.present).tolist()
    errors = {i: f"member {index[i]} of the enum is unknown" for i in bad}
    places = _array(pa.int64(), np.where(known, index, 0), _without(v.valid, errors, len(index)))
    return pa.array(members, pa.utf8()).take(places), errors


def _read_set(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    masks = buffer.little(v.start, field.column.width)
    distinct, places = np.unique(np.where(v.present, masks, np.uint64(0)), return_inverse=True)
    texts = pa.array([_set(int(m), field.members) for m in distinct], pa.utf8())
    bad = np.flatnonzero((texts.is_null().to_numpy(zero_copy_only=False))[places]).tolist()
    errors = dict.fromkeys(bad, "members of the set are unknown")
    return texts.take(_array(pa.int64(), places.astype(np.int64), v.valid)), errors


def _set(mask: int, members: Sequence[str]) -> str | None:
    if mask >> len(members):
        return None
    return ",".join(name for i, name in enumerate(members) if mask >> i & 1)


def _read_json(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    binary = buffer.binary(v.start, v.lengths, v.valid)
    return pa.array([None if d is None else jsonb.to_text(d) for d in binary.to_pylist()], pa.utf8()), {}


def _read_geometry(buffer: Buffer, v: Values, field: Field) -> tuple[pa.Array, Errors]:
    return _each(buffer.binary(v.start, v.lengths, v.valid), pa.utf8(), ewkb)


def _each(binary: pa.Array, type: pa.DataType, read: Callable[[bytes], str]) -> tuple[pa.Array, Errors]:
    """Values read one by one."""
    found: list[str | None] = []
    errors: Errors = {}
    for i, data in enumerate(binary.to_pylist()):
        try:
            found.append(None if data is None else read(data))
        except ValueError as error:
            found.append(None)
            errors[i] = f"{data[:40]!r} cannot be read: {error}"
    return pa.array(found, type), errors


_READ: dict[int, Callable[[Buffer, Values, Field], tuple[pa.Array, Errors]]] = {
    **dict.fromkeys(
        (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG),
        _read_integer,
    ),
    **dict.fromkeys((FIELD_TYPE.STRING, FIELD_TYPE.VARCHAR, FIELD_TYPE.BLOB), _read_text),
    FIELD_TYPE.FLOAT: _read_float,
    FIELD_TYPE.DOUBLE: _read_float,
    FIELD_TYPE.YEAR: _read_year,
    FIELD_TYPE.BIT: _read_bit,
    FIELD_TYPE.NEWDECIMAL: _read_decimal,
    FIELD_TYPE.DATE: _read_date,
    FIELD_TYPE.TIME2: _read_time,
    FIELD_TYPE.DATETIME2: _read_datetime,
    FIELD_TYPE.TIMESTAMP2: _read_timestamp,
    FIELD_TYPE.ENUM: _read_enum,
    FIELD_TYPE.SET: _read_set,
    FIELD_TYPE.JSON: _read_json,
    FIELD_TYPE.GEOMETRY: _read_geometry,
    VECTOR: _read_bytes,
}
