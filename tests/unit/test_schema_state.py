"""What a node keeps of the mapped tables, and literals for rows that exist."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cluster.schema_state import Halt, NodeState, agreed_columns, mapped_as
from replication.defaults import literal, literal_value, portable_default
from replication.schema import Column, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

MAPPING = TableMapping("orders", ("id",), {"pg": "orders"}, exclude=frozenset({"note"}))


def test_a_state_comes_back_as_it_was() -> None:
    columns = (
        Column("id", CanonicalType(Kind.INT64, "bigint"), nullable=False),
        Column("tags", CanonicalType(Kind.LIST, "text[]", Kind.TEXT), default="'{}'::text[]"),
        Column("twice", CanonicalType(Kind.INT64, "bigint"), generated=True),
    )
    state = NodeState(
        {"orders": TableSchema("orders", columns, ("id",))},
        {"orders": (mapped_as(MAPPING), ("id", "tags"))},
        {"orders": 1 << 95},
        {"orders": Halt("orders", "pg", "it's gone", 1 << 90)},
        {"orders": ("tags",)},
    )
    assert NodeState.load(state.dump()) == state


def test_another_mapping_is_agreed_anew() -> None:
    states = {"pg": NodeState(agreed={"orders": (mapped_as(MAPPING), ("id",))})}
    assert agreed_columns(states, MAPPING) == ("id",)
    assert agreed_columns(states, TableMapping("orders", ("id",), {"pg": "orders"})) is None
    assert agreed_columns({}, MAPPING) is None


LITERALS = [
    ("12", Kind.INT32, "12", 12),
    ("-1.50", Kind.NUMERIC, "-1.50", "-1.50"),
    ("t", Kind.BOOLEAN, "TRUE", True),
    ("0", Kind.BOOLEAN, "FALSE", False),
    ("it's", Kind.TEXT, "'it''s'", "it's"),
    ("", Kind.TEXT, "''", ""),
    ("2026-01-02", Kind.DATE, "'2026-01-02'", None),
    ("2026-01-02 03:04:05.5", Kind.TIMESTAMP, "'2026-01-02 03:04:05.5'", None),
    ("2026-01-02 03:04:05+00", Kind.TIMESTAMPTZ, "'2026-01-02 03:04:05'", None),
]


@pytest.mark.parametrize(("text", "kind", "expected", "value"), LITERALS)
def test_literals_mean_the_value(text: str, kind: Kind, expected: str, value: object) -> None:
    made = literal(text, kind)
    assert made == expected
    array = literal_value(expected, CanonicalType(kind))
    assert array.type == CanonicalType(kind).arrow
    assert value is None or array.to_pylist() == [value]
    assert value is not None or str(array[0]).startswith("2026-01-02")
    assert portable_default(expected, kind) == expected or kind is Kind.BOOLEAN


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("infinity", Kind.TIMESTAMP),
        ("0044-03-15 BC", Kind.DATE),
        ("15000-01-01", Kind.DATE),
        ("NaN", Kind.NUMERIC),
        ("1e+20", Kind.FLOAT64),
        ("a\\b", Kind.TEXT),
        ("\\x00", Kind.BYTES),
        ("{1,2}", Kind.LIST),
    ],
)
def test_values_without_a_literal(text: str, kind: Kind) -> None:
    assert literal(text, kind) is None


def test_an_instant_is_in_utc() -> None:
    array = literal_value("'2026-01-02 03:04:05'", CanonicalType(Kind.TIMESTAMPTZ))
    assert array.cast(pa.int64()).to_pylist() == [1767323045000000]
