"""The table map event: what a table looked like when its rows were written.

With `binlog_row_metadata=FULL` it names its columns and says which are unsigned, which character set they are
in and what an enum's members are. Its columns decide how wide each value of a row image is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pymysqlreplication.constants import FIELD_TYPE

from replication.engines.mysql.decode import HEADER, Malformed, Reader

T = TypeVar("T")
VECTOR = 242
_STRINGS = frozenset({FIELD_TYPE.STRING, FIELD_TYPE.VAR_STRING, FIELD_TYPE.VARCHAR, FIELD_TYPE.BLOB})
_CHOICES = frozenset({FIELD_TYPE.ENUM, FIELD_TYPE.SET})
_SIGNED = frozenset(
    {
        FIELD_TYPE.TINY,
        FIELD_TYPE.SHORT,
        FIELD_TYPE.INT24,
        FIELD_TYPE.LONG,
        FIELD_TYPE.LONGLONG,
        FIELD_TYPE.NEWDECIMAL,
        FIELD_TYPE.FLOAT,
        FIELD_TYPE.DOUBLE,
        FIELD_TYPE.YEAR,
    }
)
"""Types that the metadata has a bit for."""
_FIXED = {
    FIELD_TYPE.TINY: 1,
    FIELD_TYPE.SHORT: 2,
    FIELD_TYPE.INT24: 3,
    FIELD_TYPE.LONG: 4,
    FIELD_TYPE.LONGLONG: 8,
    FIELD_TYPE.FLOAT: 4,
    FIELD_TYPE.DOUBLE: 8,
    FIELD_TYPE.YEAR: 1,
    FIELD_TYPE.DATE: 3,
    FIELD_TYPE.TIME: 3,
    FIELD_TYPE.TIMESTAMP: 4,
    FIELD_TYPE.DATETIME: 8,
}
_TIMES = {FIELD_TYPE.TIME2: 3, FIELD_TYPE.TIMESTAMP2: 4, FIELD_TYPE.DATETIME2: 5}
_ONE_BYTE = frozenset(
    {
        FIELD_TYPE.FLOAT,
        FIELD_TYPE.DOUBLE,
        FIELD_TYPE.TIME2,
        FIELD_TYPE.TIMESTAMP2,
        FIELD_TYPE.DATETIME2,
        FIELD_TYPE.BLOB,
        FIELD_TYPE.JSON,
        FIELD_TYPE.GEOMETRY,
        VECTOR,
    }
)
_TWO_BYTES = frozenset({FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.BIT})
DIGITS = 9
"""A decimal is stored in groups of so many digits, four bytes each."""
DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""Bytes for a group of fewer digits."""


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """One column.

    Attributes:
        type: see `FIELD_TYPE`; 0 if it is one that we do not know.
        width: bytes of every value, or 0 if they vary.
        prefix: else bytes of the length before each value.
        size: bytes of the longest value of a `char` or `binary`; digits after the point of a decimal or a
            time;
            bits of a bit field.
        precision: digits of a decimal.
        unsigned: it holds no negative numbers.
        name: its name, empty without full metadata.
        collation: number of the collation of text, 63 for bytes, 0 if it is neither.
        members: of an enum or set, in the character set of the column.
    """

    type: int
    width: int = 0
    prefix: int = 0
    size: int = 0
    precision: int = 0
    unsigned: bool = False
    name: str = ""
    collation: int = 0
    members: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TableMap:
    """A table.

    Attributes:
        database: its database.
        table: its name.
        columns: all of them, in the order of the row images.
        named: the columns have their names: the metadata is full.
    """

    database: str
    table: str
    columns: tuple[ColumnMap, ...]
    named: bool


def names(data: bytes) -> tuple[str, str]:
    """Database and table of a table map event, without a look at the rest."""
    length = data[HEADER + 8]
    at = HEADER + 9 + length
    name = data[at + 2 : at + 2 + data[at + 1]]
    return data[HEADER + 9 : at].decode(), name.decode()


def read_table_map(data: bytes) -> TableMap:
    """Read a table map event without its checksum.

    Raises:
        Malformed: it was cut off or altered.
    """
    reader = Reader(data, HEADER + 8)
    database, _ = reader.take(reader.byte()), reader.byte()
    table, _ = reader.take(reader.byte()), reader.byte()
    types = reader.take(reader.integer())
    meta = Reader(reader.text(), 0)
    columns = [_column(kind, meta) for kind in types]
    reader.take((len(columns) + 7) // 8)  # which may be null
    metadata = _metadata(reader)
    return TableMap(
        database.decode(), table.decode(), tuple(_named(columns, metadata)), metadata.names is not None
    )


def _column(kind: int, meta: Reader) -> ColumnMap:
    if kind in _FIXED:
        if kind in _ONE_BYTE:
            meta.byte()
        return ColumnMap(kind, _FIXED[kind])
    if kind in _TWO_BYTES:
        first, second = meta.byte(), meta.byte()
        if kind == FIELD_TYPE.NEWDECIMAL:
            return ColumnMap(
                kind, sum(DIGIT_BYTES[g] for g in decimal_groups(first, second)), size=second, precision=first
            )
        bits = second * 8 + first
        return ColumnMap(kind, (bits + 7) // 8, size=bits)
    if kind in _TIMES:
        digits = meta.byte()
        return ColumnMap(kind, _TIMES[kind] + (digits + 1) // 2, size=digits)
    if kind in _ONE_BYTE:
        return ColumnMap(kind, prefix=meta.byte())
    if kind in (FIELD_TYPE.VARCHAR, FIELD_TYPE.VAR_STRING):
        size = int.from_bytes(meta.take(2), "little")
        return ColumnMap(FIELD_TYPE.VARCHAR, prefix=2 if size > 255 else 1, size=size)
    if kind == FIELD_TYPE.STRING:
        return _string(meta.byte(), meta.byte())
    message = f"a column of unknown type {kind}"
    raise Malformed(message)


def _string(first: int, second: int) -> ColumnMap:
    """Types that hide behind `STRING`: the first byte is the real one, mixed with the length's upper bits."""
    if first in _CHOICES:
        return ColumnMap(first, second)
    size = (((first & 0x30) ^ 0x30) << 4) | second
    return ColumnMap(FIELD_TYPE.STRING, prefix=2 if size > 255 else 1, size=size)


def decimal_groups(precision: int, scale: int) -> list[int]:
    """How many digits each group of a decimal has, in the order in which they are stored."""
    whole, fraction = precision - scale, scale
    groups = [whole % DIGITS] if whole % DIGITS else []
    groups += [DIGITS] * (whole // DIGITS + fraction // DIGITS)
    return groups + ([fraction % DIGITS] if fraction % DIGITS else [])


@dataclass(slots=True)
class _Metadata:
    unsigned: bytes = b""
    text: dict[int, int] | None = None
    choice: dict[int, int] | None = None
    names: list[str] | None = None
    sets: Sequence[tuple[bytes, ...]] = ()
    enums: Sequence[tuple[bytes, ...]] = ()


def _metadata(reader: Reader) -> _Metadata:
    found = _Metadata()
    while reader.at < len(reader.data):
        kind = reader.byte()
        value = Reader(reader.text(), 0)
        match kind:
            case 1:
                found.unsigned = value.data
            case 2:
                found.text = _default_and_others(value)
            case 3:
                found.text = dict(enumerate(_each(value, Reader.integer)))
            case 4:
                found.names = [name.decode() for name in _each(value, Reader.text)]
            case 5:
                found.sets = list(_each(value, _members))
            case 6:
                found.enums = list(_each(value, _members))
            case 10:
                found.choice = _default_and_others(value)
            case 11:
                found.choice = dict(enumerate(_each(value, Reader.integer)))
            case _:  # geometry types, keys, visibility, dimensions: a mapping says what matters
                pass
    return found


def _named(columns: Sequence[ColumnMap], metadata: _Metadata) -> Iterator[ColumnMap]:
    """Give the columns what the metadata says; it counts those of each sort on their own."""
    if metadata.names is not None and len(metadata.names) != len(columns):
        message = f"{len(columns)} columns with {len(metadata.names)} names"
        raise Malformed(message)
    numeric = text = choice = 0
    sets, enums = iter(metadata.sets), iter(metadata.enums)
    for i, column in enumerate(columns):
        unsigned, collation = False, 0
        members: tuple[bytes, ...] = ()
        if column.type in _SIGNED:
            place, bit = divmod(numeric, 8)
            unsigned = place < len(metadata.unsigned) and bool(metadata.unsigned[place] >> (7 - bit) & 1)
            numeric += 1
        elif column.type in _STRINGS:
            collation = _collation(metadata.text, text)
            text += 1
        elif column.type in _CHOICES:
            collation = _collation(metadata.choice, choice)
            members = next(sets if column.type == FIELD_TYPE.SET else enums, ())
            choice += 1
        name = metadata.names[i] if metadata.names else ""
        yield replace(column, unsigned=unsigned, collation=collation, members=members, name=name)


_DEFAULT = -1


def _collation(collations: Mapping[int, int] | None, place: int) -> int:
    if collations is None:
        return 0
    return collations.get(place) or collations.get(_DEFAULT, 0)


def _default_and_others(reader: Reader) -> dict[int, int]:
    found = {_DEFAULT: reader.integer()}
    while reader.at < len(reader.data):
        place = reader.integer()
        found[place] = reader.integer()
    return found


def _members(reader: Reader) -> tuple[bytes, ...]:
    return tuple(reader.text() for _ in range(reader.integer()))


def _each(reader: Reader, read: Callable[[Reader], T]) -> Iterator[T]:
    while reader.at < len(reader.data):
        yield read(reader)
