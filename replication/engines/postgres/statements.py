"""The statements that write rows, and their parameters: one text array per column.

A batch of any size is one statement with one parameter per column; `unnest` turns the arrays into rows,
so nothing is staged and small batches cost one round trip. The statement's text depends
on the columns only, never on the rows, so it is prepared once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.engines.postgres.columns import Bound
from replication.engines.postgres.config import SCHEMA, quoted
from replication.engines.postgres.types import FIRST_USER_OID, JSON_OID, JSONB_OID
from replication.narrowing import CLOCKS, MICROSECONDS, coarser
from replication.types import Kind

_BARE = frozenset(
    {
        Kind.BOOLEAN, Kind.INT16, Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64, Kind.NUMERIC, Kind.UUID,
        Kind.TIME,
    }
)  # fmt: skip
"""Kinds whose texts need no quotes in an array literal."""
_SPELLED = frozenset({Kind.OPAQUE, Kind.UUID, Kind.JSON})
"""Kinds of columns that print a text in a way of their own."""
_DECIMAL128_DIGITS = 34
_BEYOND_JSONB = r"\\u(0000|[dD][89abAB])"
"""Escapes that `json` stores and `jsonb` refuses."""


FEW = 64
"""So many texts are joined one by one: faster than calls for the whole column."""


def literal(texts: pa.Array, kind: Kind) -> str:
    """A column of texts as a PostgreSQL array literal, built by Arrow for the whole column."""
    if len(texts) <= FEW:
        items = texts.to_pylist()
        if kind not in _BARE:
            items = [t if t is None else '"' + _escape(t) + '"' for t in items]
        return "{" + ",".join(["NULL" if t is None else t for t in items]) + "}"
    items = texts
    if kind not in _BARE:
        data = _bytes(items)
        for special in ("\\", '"'):  # in this order: the second puts in what the first would double
            if special.encode() in data:
                items = pc.replace_substring(items, special, "\\" + special)
        items = pc.binary_join_element_wise('"', items, '"', "")
    if items.null_count:
        items = pc.fill_null(items, "NULL")
    whole = pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)
    return f"{{{pc.binary_join(whole, ',')[0].as_py()}}}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _bytes(texts: pa.Array) -> bytes:
    """The bytes of all texts, one after the other."""
    offsets, data = texts.buffers()[1:]
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return b"" if data is None else bytes(memoryview(data)[at[0] : at[-1]])


@dataclass(frozen=True)
class Statements:
    """Writes to one table.

    Attributes:
        bound: the table on this node.
        sources: engines of the other nodes, which decide the narrowings to expect.
    """

    bound: Bound
    sources: frozenset[str]

    @property
    def table(self) -> str:
        """The table's name inside a statement with parameters."""
        return _escaped(self.bound.sql)

    def name(self, index: int) -> str:
        """A column's name inside a statement with parameters."""
        return _escaped(quoted(self.bound.columns[index].name))

    def cast(self, index: int) -> str:
        """A column's type inside a statement with parameters."""
        return _escaped(self.bound.columns[index].cast)

    @cached_property
    def writable(self) -> tuple[int, ...]:
        """Indexes of the columns that can be written: all but generated ones."""
        return tuple(i for i, c in enumerate(self.bound.columns) if not c.generated)

    @cached_property
    def upsert(self) -> tuple[str, tuple[int, ...]]:
        """Insert whole rows, or update those that exist.

        Returns:
            the statement, and the columns that its parameters stand for.
        """
        b, columns = self.bound, self.writable
        names = [self.name(i) for i in columns]
        update = self._settable(columns)
        change = ", ".join(f"{self.name(i)} = {self._kept(i, f'EXCLUDED.{self.name(i)}')}" for i in update)
        action = f"UPDATE SET {change}" if change else "NOTHING"
        statement = (
            f"INSERT INTO {self.table} AS t ({', '.join(names)}) OVERRIDING SYSTEM VALUE "
            f"SELECT {self._casts(columns)} FROM {self._unnest(columns)} "
            f"ON CONFLICT ({', '.join(self.name(i) for i in b.key)}) DO {action}"
        )
        return statement, columns

    @cached_property
    def insert(self) -> tuple[str, tuple[int, ...]]:
        """Insert whole rows; it fails if one is there already.

        Returns:
            the statement, and the columns that its parameters stand for.
        """
        columns = self.writable
        statement = (
            f"INSERT INTO {self.table} ({', '.join(self.name(i) for i in columns)}) OVERRIDING SYSTEM VALUE "
            f"SELECT {self._casts(columns)} FROM {self._unnest(columns)}"
        )
        return statement, columns

    @cached_property
    def copy(self) -> str:
        """The same of a stream of CSV; empty where `insert` checks a value that COPY would take as it is."""
        columns = self.writable
        if any(self._exact(n, i) != self._value(n, i) for n, i in enumerate(columns)):
            return ""
        return f"COPY {self.bound.sql} ({', '.join(self.bound.names(columns))}) FROM STDIN (FORMAT csv)"

    @cached_property
    def there(self) -> str:
        """Find rows by key, exactly: what a collation takes for equal is another row.

        One parameter per key column.
        """
        b = self.bound
        exact = [
            f't.{self.name(i)}::text COLLATE "C" = u.c{n}::text COLLATE "C"'
            for n, i in enumerate(b.key)
            if b.table.schema.columns[i].type.kind is Kind.TEXT
        ]
        return (
            f"SELECT 1 FROM {self.table} AS t, {self._unnest(b.key)} "
            f"WHERE {' AND '.join([self._same_key(), *exact])} LIMIT 1"
        )

    def update(self, have: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Update the columns `have` of rows that exist; returns the places of those that did, from 1.

        Returns:
            the statement, and the columns that its parameters stand for, the key's first.
        """
        b = self.bound
        change = [i for i in self._settable(have) if i not in b.key] or list(b.key)
        columns = (*b.key, *(i for i in change if i not in b.key))
        place = {i: n for n, i in enumerate(columns)}
        sets = ", ".join(f"{self.name(i)} = {self._kept(i, self._exact(place[i], i))}" for i in change)
        statement = (
            f"UPDATE {self.table} AS t SET {sets} "
            f"FROM {self._unnest(columns, ordinal=True)} WHERE {self._same_key()} RETURNING u.n"
        )
        return statement, columns

    @cached_property
    def delete(self) -> tuple[str, tuple[int, ...]]:
        """Delete by key.

        Returns:
            the statement, and the columns that its parameters stand for.
        """
        b = self.bound
        return f"DELETE FROM {self.table} AS t USING {self._unnest(b.key)} WHERE {self._same_key()}", b.key

    def _casts(self, columns: Sequence[int]) -> str:
        return ", ".join(self._exact(n, i) for n, i in enumerate(columns))

    def _unnest(self, columns: Sequence[int], *, ordinal: bool = False) -> str:
        types = [self.cast(i) if self._parsed(i) else "text" for i in columns]
        names = [f"c{n}" for n in range(len(columns))] + (["n"] if ordinal else [])
        with_ordinal = "WITH ORDINALITY " if ordinal else ""
        return f"unnest({', '.join(f'%s::{t}[]' for t in types)}) {with_ordinal}AS u({', '.join(names)})"

    def _value(self, place: int, index: int) -> str:
        """The value of a column, whose array is the statement's parameter number `place`."""
        return f"u.c{place}" if self._parsed(index) else f"u.c{place}::{self.cast(index)}"

    def _exact(self, place: int, index: int) -> str:
        """The value, which the server refuses if the column would change it in silence.

        Of what `limits.checks` knows nothing: the text of a type of the server's own must come back as it is,
        and the items of an array must not be rounded or cut.
        """
        column, value = self.bound.columns[index], self._value(place, index)
        declared = _escaped(column.declared)
        if self._spelled(index):
            # A cast to text may print otherwise than the type itself does, as that of inet.
            value, kept = f"u.c{place}", f"format('%%s', u.c{place}::{declared})"
        elif column.type.kind is Kind.LIST and column.declared != column.cast:
            kept = f"u.c{place}::{declared}::{self.cast(index)}"
        else:
            return value
        name = declared.replace("'", "''")
        return f"{SCHEMA}.exact({value}, {kept}, '{name}')::{self.cast(index)}"

    def _spelled(self, index: int) -> bool:
        """Whether the value is a text that this column may spell otherwise."""
        kind = self.bound.table.schema.columns[index].type.kind
        return kind in (Kind.TEXT, Kind.OPAQUE) and self.bound.columns[index].type.kind in _SPELLED

    def _parsed(self, index: int) -> bool:
        """Whether the array is one of the column's own type, which saves a cast per value.

        An array of arrays would lose its inner bounds, and not every type of a user has an array type.
        """
        column = self.bound.columns[index]
        own = column.type_oid < FIRST_USER_OID and column.type.kind not in (Kind.LIST, Kind.OPAQUE)
        return own and not self._spelled(index)

    def _same_key(self) -> str:
        b = self.bound
        return " AND ".join(f"t.{self.name(i)} = {self._value(n, i)}" for n, i in enumerate(b.key))

    def _settable(self, columns: Sequence[int]) -> list[int]:
        """Of some columns, those that an update may set."""
        b = self.bound
        return [
            i
            for i in columns
            if i not in b.key and not b.columns[i].generated and b.columns[i].identity != "a"
        ]

    def _kept(self, index: int, new: str) -> str:
        """The new value, or the stored one where the new one is only its narrowed form."""
        column = self.bound.columns[index]
        canonical = self.bound.table.schema.columns[index]
        kind = canonical.type.kind
        old = f"t.{self.name(index)}"
        # MongoDB makes a bare JSON null null, and of no further fields, too.
        nothing = r"^\s*(null|\{\s*\})\s*$" if canonical.type.rest else r"^\s*null\s*$"
        null = f"WHEN {new} IS NULL AND {old}::text ~ '{nothing}' THEN {old} "
        null = null if "mongodb" in self.sources else ""
        if column.type_oid == JSONB_OID:
            return f"CASE {null}WHEN {old} = {new} THEN {old} ELSE {new} END"
        if column.type_oid == JSON_OID:
            return (
                f"CASE {null}"
                f"WHEN {old}::text ~ '{_BEYOND_JSONB}' OR {new}::text ~ '{_BEYOND_JSONB}' THEN {new} "
                f"WHEN {old}::jsonb = {new}::jsonb THEN {old} ELSE {new} END"
            )
        if kind in CLOCKS and column.type.kind in CLOCKS:
            digits = coarser(canonical, self.bound.node, self.sources)
            floor, given = (_floor_time, f"({new})::interval") if kind is Kind.TIME else (_floor, new)
            coarse = ", ".join(floor(old, d) for d in digits)
            return f"CASE WHEN {given} IN ({coarse}) THEN {old} ELSE {new} END" if coarse else new
        if "mongodb" not in self.sources:
            return new
        if kind is Kind.NUMERIC and column.type.kind is Kind.NUMERIC:
            return (
                f"CASE WHEN {old} = {new} THEN {old} WHEN length({old}::text) > {_DECIMAL128_DIGITS} "
                f"AND {SCHEMA}.decimal128({old}) = {new} THEN {old} ELSE {new} END"
            )
        return new


def _floor(old: str, digits: int) -> str:
    """A timestamp down to so many digits of the second; the rule of `replication.narrowing`."""
    second = f"date_trunc('second', {old})"
    step = 10 ** (MICROSECONDS - digits)
    return f"date_bin('{step} microseconds', {old}, {second})" if digits else second


def _floor_time(old: str, digits: int) -> str:
    """The same of a time of day, as an interval, which may be 24 hours."""
    rest = f"mod(extract(microseconds FROM {old})::int, {10 ** (MICROSECONDS - digits)})"
    return f"{old}::interval - {rest} * interval '1 microsecond'"


def _escaped(sql: str) -> str:
    """A percent sign would be taken for a parameter."""
    return sql.replace("%", "%%")
