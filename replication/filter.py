"""Row filters: which rows of a table a node holds.

A filter is a list of alternatives, each a list of conditions that must all hold. It is asked about canonical
values, never by a database, so it means the same on every engine. Values are first narrowed to what every
node of the group can hold: a row's answer is the same wherever it was read. Text compares by code point.
No comparison holds for a null, and none but `ne` and `not_in` for NaN.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replication.change import Op
from replication.conflict.rows import ChangeRows
from replication.narrowing import MICROSECONDS, floored, narrow
from replication.schema import Column, Condition, Table, TableSchema
from replication.types import Kind

Mask = npt.NDArray[np.bool_]


class Test(StrEnum):
    """What a condition asks of a value."""

    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "not_in"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    NULL = "null"


SIGNS = {
    Test.EQ: "=",
    Test.NE: "<>",
    Test.IN: "in",
    Test.NOT_IN: "not in",
    Test.LT: "<",
    Test.LTE: "<=",
    Test.GT: ">",
    Test.GTE: ">=",
}
_ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    Test.LT: pc.less,
    Test.LTE: pc.less_equal,
    Test.GT: pc.greater,
    Test.GTE: pc.greater_equal,
}
_DECIMAL: dict[str, Callable[[Decimal, Sequence[Decimal]], bool]] = {
    Test.EQ: lambda a, b: a == b[0],
    Test.IN: lambda a, b: a in b,
    Test.NE: lambda a, b: a != b[0],
    Test.NOT_IN: lambda a, b: a not in b,
    Test.LT: lambda a, b: not a.is_nan() and a < b[0],
    Test.LTE: lambda a, b: not a.is_nan() and a <= b[0],
    Test.GT: lambda a, b: not a.is_nan() and a > b[0],
    Test.GTE: lambda a, b: not a.is_nan() and a >= b[0],
}


class BadFilter(ValueError):
    """A condition that fits no column; the message says why, `hint` what to write."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _finite(text: str) -> Decimal:
    value = Decimal(text)
    if value.is_nan():
        raise ValueError(text)
    return value


def _without_zone(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is not None:
        raise ValueError(text)
    return value


def _with_zone(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(text)
    return value


_READERS: dict[Kind, tuple[Callable[[str], Any], str]] = {
    Kind.BOOLEAN: (_boolean, "true or false"),
    Kind.INT16: (int, "a whole number"),
    Kind.INT32: (int, "a whole number"),
    Kind.INT64: (int, "a whole number"),
    Kind.FLOAT32: (lambda text: float(_finite(text)), "a number"),
    Kind.FLOAT64: (lambda text: float(_finite(text)), "a number"),
    Kind.NUMERIC: (_finite, "a number"),
    Kind.TEXT: (str, "text"),
    Kind.DATE: (date.fromisoformat, "a date such as 2026-01-31"),
    Kind.TIME: (time.fromisoformat, "a time such as 09:30:00"),
    Kind.TIMESTAMP: (_without_zone, "a time such as 2026-01-31T09:30:00, without a zone"),
    Kind.TIMESTAMPTZ: (_with_zone, "an instant such as 2026-01-31T09:30:00Z"),
    Kind.UUID: (lambda text: str(uuid.UUID(text)), "a uuid"),
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A condition on a column, its values read."""

    place: int
    column: Column
    test: Test
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RowFilter:
    """The filter of one node for one table.

    Attributes:
        table: canonical table name.
        columns: places of the columns that it asks about.
    """

    table: str
    columns: frozenset[int]
    _alternatives: tuple[tuple[_Asked, ...], ...]
    _engines: tuple[str, ...] = field(default=())

    def matches(self, rows: pa.RecordBatch) -> Mask:
        """Which rows the node holds; the columns that it asks about must be filled."""
        found = [reduce(np.logical_and, map(self._ask(rows), asked)) for asked in self._alternatives]
        return reduce(np.logical_or, found)

    def unknown(self, rows: pa.RecordBatch) -> Mask:
        """Rows of a change or an apply batch that lack a column it asks about."""
        have = rows.column("_have")
        if have.null_count == len(have):
            return np.zeros(len(have), np.bool_)
        wanted = sum(1 << place for place in self.columns)
        masks = (None if bits is None else int.from_bytes(bits, "little") for bits in have.to_pylist())
        return np.array([mask is not None and mask & wanted != wanted for mask in masks], np.bool_)

    def strays(self, rows: ChangeRows) -> frozenset[int]:
        """Rows of a change batch, but deletes, of which it is not certain that the node holds them."""
        batch = rows.batch
        stray = (~self.matches(batch) | self.unknown(batch)) & (batch.column("_op").to_numpy() != Op.DELETE)
        return frozenset(np.flatnonzero(stray).tolist())

    def _ask(self, rows: pa.RecordBatch) -> Callable[[_Asked], Mask]:
        def ask(asked: _Asked) -> Mask:
            column = rows.column(asked.column.name)
            if asked.test is Test.NULL:
                answer = column.is_null() if asked.values[0] else column.is_valid()
            else:
                answer = pc.fill_null(_compare(self._narrowed(column, asked.column), asked), False)
            mask: Mask = answer.to_numpy(zero_copy_only=False)
            return mask

        return ask

    def _narrowed(self, values: pa.Array, column: Column) -> pa.Array:
        for engine in self._engines:
            values = narrow(values, column.type, engine)
        return floored(values, column.type, min(column.digits.values(), default=MICROSECONDS))


def row_filter(table: Table, node: str, engines: Iterable[str]) -> RowFilter | None:
    """The filter of a node for a table, or None.

    Args:
        table: the table.
        node: the node's name.
        engines: those of all nodes of the group.

    Raises:
        BadFilter: it does not fit the table.
    """
    alternatives = table.mapping.where.get(node)
    if alternatives is None:
        return None
    asked = tuple(tuple(read_condition(c, table.schema) for c in conditions) for conditions in alternatives)
    places = frozenset(a.place for conditions in asked for a in conditions)
    return RowFilter(table.name, places, asked, tuple(sorted(set(engines))))


def row_filters(tables: Iterable[Table], engines: Mapping[str, str]) -> Mapping[tuple[str, str], RowFilter]:
    """Every filter of a group, by node and table; `engines` is by node."""
    found = {(n, t.name): row_filter(t, n, engines.values()) for t in tables for n in engines}
    return {place: rows for place, rows in found.items() if rows is not None}


def read_condition(condition: Condition, schema: TableSchema) -> _Asked:
    """A condition with its values as the column has them.

    Raises:
        BadFilter: there is no such column, or a value is none of its type.
    """
    try:
        column = schema.column(condition.column)
    except KeyError:
        message = f"no column '{condition.column}' is mapped"
        raise BadFilter(message, f"ask about one of: {', '.join(c.name for c in schema.columns)}") from None
    test = Test(condition.test)
    place = schema.index(column.name)
    if test is Test.NULL:
        return _Asked(place, column, test, (condition.values[0] == "true",))
    kind = column.type.kind
    if kind not in _READERS:
        message = f"the column '{column.name}' is {kind}, which no filter compares"
        raise BadFilter(message, "only {null: true} or {null: false} can be asked of it")
    if test in _ORDERED and kind in (Kind.BOOLEAN, Kind.UUID):
        message = f"'{test}' asks for an order, and the column '{column.name}' is {kind}"
        raise BadFilter(message, "use eq, ne, in, not_in or null")
    return _Asked(place, column, test, tuple(_value(text, column) for text in condition.values))


def described(alternatives: Sequence[Sequence[Condition]]) -> str:
    """A filter for people."""
    return " or ".join(" and ".join(map(_described, conditions)) for conditions in alternatives)


def _described(condition: Condition) -> str:
    test = Test(condition.test)
    if test is Test.NULL:
        return f"{condition.column} is {'' if condition.values[0] == 'true' else 'not '}null"
    values = ", ".join(condition.values)
    shown = f"({values})" if test in (Test.IN, Test.NOT_IN) else values
    return f"{condition.column} {SIGNS[test]} {shown}"


def _value(text: str, column: Column) -> Any:
    kind = column.type.kind
    read, what = _READERS[kind]
    try:
        value = read(text)
        if kind is not Kind.NUMERIC:
            pa.scalar(value, column.type.arrow)
    except (ValueError, InvalidOperation, OverflowError, pa.ArrowInvalid):
        message = f"'{text}' is no value of the column '{column.name}', which is {kind}"
        raise BadFilter(message, f"write {what}") from None
    return value


def _compare(column: pa.Array, asked: _Asked) -> pa.Array:
    kind = asked.column.type.kind
    if kind is Kind.NUMERIC:
        return _compare_decimals(column, asked)
    if asked.test in _ORDERED:
        return _ORDERED[asked.test](column, pa.scalar(asked.values[0], asked.column.type.arrow))
    known = pa.array(asked.values, asked.column.type.arrow)
    found = pc.is_in(column, value_set=known)
    if kind in (Kind.FLOAT32, Kind.FLOAT64):  # -0 is 0
        found = reduce(pc.or_, (pc.equal(column, value) for value in known))
    if asked.test in (Test.NE, Test.NOT_IN):
        found = pc.invert(found)
    return pc.and_(found, column.is_valid())


def _compare_decimals(column: pa.Array, asked: _Asked) -> pa.Array:
    """Each number that occurs is read once."""
    holds = _DECIMAL[asked.test]
    coded = column.dictionary_encode()
    answers = [holds(Decimal(text), asked.values) for text in coded.dictionary.to_pylist()]
    return pa.array(answers, pa.bool_()).take(coded.indices)


def sort_out(rows: pa.RecordBatch, keeps: Mask) -> tuple[pa.RecordBatch, pa.RecordBatch, list[bytes]]:
    """What becomes of the rows of an apply batch at a node that does not hold all of them.

    Args:
        rows: the rows.
        keeps: which of them the node holds.

    Returns:
        the rows as decided, for the marker; the rows as they are applied, with deletes of those that the node
        does not hold; and the keys of these. A row of an initial copy is in none but the last: there is
        nothing to delete, and the log will say nothing of it.
    """
    op = rows.column("_op").to_numpy()
    outside = ~keeps & (op != Op.DELETE)
    if not outside.any():
        return rows, rows, []
    keys: list[bytes] = rows.column("_key").filter(pa.array(outside)).to_pylist()
    copied = pa.array(~(outside & (op == Op.READ)))
    decided = rows.filter(copied)
    place = rows.schema.get_field_index("_op")
    deleted = pa.array(np.where(outside, np.int8(Op.DELETE), op), pa.int8())
    return decided, rows.set_column(place, rows.schema.field(place), deleted).filter(copied), keys
