"""What statements that define tables do to the mapped ones."""

from __future__ import annotations

import pytest

from replication.engines.mysql.ddl import read_statement
from replication.engines.mysql.definitions import Definition, definitions
from replication.engines.mysql.tables import Mapped
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

BEFORE = TableSchema("orders", (Column("id", CanonicalType(Kind.INT32, "int"), nullable=False),), ("id",))
ADDED = TableSchema("orders", (*BEFORE.columns, Column("a", CanonicalType(Kind.INT32, "int"))), ("id",))
MAPPING = TableMapping("orders", ("id",), {"my": "orders"})


def what(text: str, now: TableSchema | None, *, known: bool = True) -> list[Definition]:
    table = Table(MAPPING, BEFORE, {"my": BEFORE} if known else {})
    mapped = Mapped("my", "shop", "d", {"orders": table}, {}, look=lambda _: now)
    return list(definitions(read_statement(text, "d"), text, mapped))


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE orders ADD COLUMN a int",
        "RENAME TABLE orders TO _orders_del, _orders_gho TO orders",
        "RENAME TABLE d.orders TO d._orders_old, d._orders_new TO d.orders",
        "RENAME TABLE orders TO __orders_old, __orders_new TO orders",
        "ALTER TABLE _orders_gho RENAME orders",
    ],
)
def test_a_change_of_columns(text: str) -> None:
    (found,) = what(text, ADDED)
    assert (found.table, found.what, found.fits) == ("orders", "alter", True)
    assert found.detail == f"orders at my: {text}; column a was added (int)"


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE orders ADD INDEX (id)",
        "RENAME TABLE orders TO _orders_del, _orders_gho TO orders",
        "ALTER TABLE orders RENAME _orders_del",
    ],
)
def test_the_same_columns_as_before_are_no_change(text: str) -> None:
    assert what(text, BEFORE) == []
    assert what("ALTER TABLE orders ADD COLUMN a int", ADDED, known=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "RENAME TABLE orders TO backup, staged TO orders",
        "RENAME TABLE orders TO _orders_del, staged TO orders",
        "RENAME TABLE orders TO _others_del, _others_gho TO orders",
        "ALTER TABLE orders RENAME _orders_old",
    ],
)
def test_any_other_renaming(text: str) -> None:
    (found,) = what(text, None)
    assert (found.table, found.what, found.fits) == ("orders", "rename", False)
