"""Where the mapped columns are in a table's row images, by the table map that came before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pymysqlreplication.constants import FIELD_TYPE

from replication.change import change_schema
from replication.engines.mysql.images import Plan
from replication.engines.mysql.tablemap import VECTOR, ColumnMap, TableMap
from replication.engines.mysql.types import KINDS, LocalType
from replication.schema import Table
from replication.types import Kind

BINARY = 63
"""The collation of bytes."""
_UNSIGNED = {FIELD_TYPE.SHORT: Kind.INT32, FIELD_TYPE.LONG: Kind.INT64, FIELD_TYPE.LONGLONG: Kind.NUMERIC}
_NAMES = {
    FIELD_TYPE.TINY: "tinyint",
    FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.LONG: "int",
    FIELD_TYPE.LONGLONG: "bigint",
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.BIT: "bit",
    FIELD_TYPE.NEWDECIMAL: "decimal",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.TIME2: "time",
    FIELD_TYPE.DATETIME2: "datetime",
    FIELD_TYPE.TIMESTAMP2: "timestamp",
    FIELD_TYPE.ENUM: "enum",
    FIELD_TYPE.SET: "set",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
    VECTOR: "vector",
}
_TEXT_NAMES = {
    FIELD_TYPE.STRING: ("char", "binary"),
    FIELD_TYPE.VARCHAR: ("varchar", "varbinary"),
    FIELD_TYPE.BLOB: ("text", "blob"),
}
_CODECS = {
    "utf8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "utf8": "utf-8",
    "ascii": "ascii",
    "latin1": "cp1252",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "greek": "iso8859-7",
    "hebrew": "iso8859-8",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1256": "cp1256",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp866": "cp866",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "cp932": "cp932",
    "euckr": "cp949",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
}
"""Python's name for a character set of MySQL's, where both mean the same by every byte that the server
takes."""


@dataclass(frozen=True, slots=True)
class Field:
    """How a column of row images is read.

    Attributes:
        column: what the log says of it.
        type: the same as the information schema would say it.
        codec: Python's name of the character set of its text, or empty.
        members: of an enum or set.
        trouble: why it cannot be read, or empty.
    """

    column: ColumnMap
    type: LocalType
    codec: str = ""
    members: tuple[str, ...] = ()
    trouble: str = ""


def field_of(column: ColumnMap, charsets: Mapping[int, str]) -> Field:
    """How to read a column.

    Args:
        column: what the log says of it.
        charsets: the server's collations by number, with the name of their character set.
    """
    if column.type in _TEXT_NAMES:
        text, bytes_ = _TEXT_NAMES[column.type]
        if column.collation == BINARY:
            return Field(column, LocalType(bytes_, Kind.BYTES, size=column.size))
        charset = charsets.get(column.collation, "")
        codec = _CODECS.get(charset, "")
        return Field(column, LocalType(text, Kind.TEXT, charset=charset), codec, trouble=_unknown(charset))
    name = _NAMES.get(column.type, "")
    if not name:
        return Field(column, LocalType("", Kind.OPAQUE), trouble="is stored as before MySQL 5.6")
    if name in ("enum", "set"):
        charset = charsets.get(column.collation, "utf8mb4")
        codec = _CODECS.get(charset, "")
        members = tuple(m.decode(codec or "latin1", "replace") for m in column.members)
        trouble = _unknown(charset)
        return Field(column, LocalType(name, Kind.TEXT, members=members), codec, members, trouble)
    kind = (_UNSIGNED.get(column.type) if column.unsigned else None) or KINDS[name]
    size = column.precision or column.size
    scale = column.size if column.type == FIELD_TYPE.NEWDECIMAL else 0
    return Field(column, LocalType(name, kind, column.unsigned, size, scale))


def _unknown(charset: str) -> str:
    return (
        ""
        if charset in _CODECS
        else f"is in character set {charset or 'unknown'}, which cannot be read from a log"
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """How the row images of a mapped table are read.

    Attributes:
        table: the mapped table.
        plan: of its row images.
        places: for each canonical column its place in the images, or -1 if it is not there.
        fields: for each canonical column how it is read, or None.
        trouble: why the table is no longer what it was, or empty.
        key: indexes of the key columns among the canonical ones.
        kinds: their kinds.
        schema: of the changes that are made.
    """

    table: Table
    plan: Plan
    places: tuple[int, ...]
    fields: tuple[Field | None, ...]
    trouble: str
    key: tuple[int, ...]
    kinds: tuple[Kind, ...]
    schema: pa.Schema

    @property
    def readable(self) -> bool:
        """Whether at least the key can be read."""
        return all(self.places[k] >= 0 for k in self.key)


def lay_out(table: Table, node: str, found: TableMap, charsets: Mapping[int, str]) -> Layout:
    """Match a table map with the mapped columns.

    Args:
        table: the mapped table.
        node: this node's name.
        found: what the log says of it.
        charsets: the server's collations by number, with the name of their character set.
    """
    known = {column.name: place for place, column in enumerate(found.columns)}
    places: list[int] = []
    fields: list[Field | None] = []
    trouble = ""
    for column in table.schema.columns:
        local = table.mapping.local(node, column.name)
        place = known.get(local, -1)
        field = field_of(found.columns[place], charsets) if place >= 0 else None
        why = ""
        if field is None:
            why = f"column {local} is gone"
        elif field.trouble:
            why = f"column {local} {field.trouble}"
        elif not field.type.fits(column.type):
            why = f"column {local} is now of another type than {column.type.kind}"
        places.append(-1 if why else place)
        fields.append(None if why else field)
        trouble = trouble or why
    schema = table.schema
    return Layout(
        table,
        Plan(found.columns),
        tuple(places),
        tuple(fields),
        trouble,
        tuple(schema.index(name) for name in schema.key),
        tuple(schema.column(name).type.kind for name in schema.key),
        change_schema(schema.arrow),
    )
