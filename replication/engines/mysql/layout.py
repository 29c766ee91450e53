"""Where the mapped columns are in a table's row images, by the table map that came before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pymysqlreplication.constants import FIELD_TYPE

from replication.change import change_schema
from replication.engines.mysql.charsets import Charset
from replication.engines.mysql.images import Plan
from replication.engines.mysql.tablemap import VECTOR, ColumnMap, TableMap
from replication.engines.mysql.types import KINDS, LocalType
from replication.schema import Table
from replication.types import Kind

BINARY = 63
"""The collation of bytes."""
_NO_CHARSET = Charset("unknown")
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


@dataclass(frozen=True, slots=True)
class Field:
    """How a column of row images is read.

    Attributes:
        column: what the log says of it.
        type: the same as the information schema would say it.
        charset: of its text.
        members: of an enum or set.
        trouble: why it cannot be read, or empty.
    """

    column: ColumnMap
    type: LocalType
    charset: Charset | None = None
    members: tuple[str, ...] = ()
    trouble: str = ""


def field_of(column: ColumnMap, charsets: Mapping[int, Charset]) -> Field:
    """How to read a column.

    Args:
        column: what the log says of it.
        charsets: by the numbers of the server's collations.
    """
    charset = charsets.get(column.collation, _NO_CHARSET)
    trouble = "" if charset.known else f"is in character set {charset.name}, which cannot be read from a log"
    if column.type in _TEXT_NAMES:
        text, bytes_ = _TEXT_NAMES[column.type]
        if column.collation == BINARY:
            return Field(column, LocalType(bytes_, Kind.BYTES, size=column.size))
        return Field(column, LocalType(text, Kind.TEXT, charset=charset.name), charset, trouble=trouble)
    name = _NAMES.get(column.type, "")
    if not name:
        return Field(column, LocalType("", Kind.OPAQUE), trouble="is stored as before MySQL 5.6")
    if name in ("enum", "set"):
        members = () if trouble else tuple(map(charset.decode, column.members))
        type = LocalType(name, Kind.TEXT, members=members, charset=charset.name)
        return Field(column, type, charset, members, trouble)
    kind = (_UNSIGNED.get(column.type) if column.unsigned else None) or KINDS[name]
    size = column.precision or column.size
    scale = column.size if column.type == FIELD_TYPE.NEWDECIMAL else 0
    return Field(column, LocalType(name, kind, column.unsigned, size, scale))


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


def lay_out(
    table: Table,
    node: str,
    found: TableMap,
    charsets: Mapping[int, Charset],
    later: frozenset[str] = frozenset(),
) -> Layout:
    """Match a table map with the mapped columns.

    Args:
        table: the mapped table.
        node: this node's name.
        found: what the log says of it.
        charsets: by the numbers of the server's collations.
        later: local names of columns that were added after this place in the log, whose absence is no
            trouble.
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
        missing = field is None and local in later
        if field is None:
            why = f"column {local} is gone"
        elif field.trouble:
            why = f"column {local} {field.trouble}"
        elif not field.type.fits(column.type):
            why = f"column {local} is now of another type than {column.type.kind}"
        places.append(-1 if why else place)
        fields.append(None if why else field)
        trouble = trouble or ("" if missing else why)
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
