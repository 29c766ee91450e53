"""What is said of pairs of declared types, and the page made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.type_table import render
from replication.declared import Declared, declared, second_digits
from replication.engines.creation import created
from replication.engines.mysql.types import canonical
from replication.pairing import Declaration, Verdict, pair
from replication.types import CanonicalType, Kind


def pg(kind: Kind, native: str, item: Kind | None = None) -> Declaration:
    return Declaration(CanonicalType(kind, native, item), "postgres")


def my(native: str) -> Declaration:
    return Declaration(canonical(native.partition("(")[0].split()[0], native), "mysql")


def mongo(kind: Kind) -> Declaration:
    return Declaration(CanonicalType(kind), "mongodb")


STAMP = pg(Kind.TIMESTAMP, "timestamp without time zone")


def test_the_page_of_types_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "types.md"
    assert page.read_text() == render(), "make docs"


@pytest.mark.parametrize(
    ("wide", "other", "rule"),
    [
        (STAMP, my("datetime"), "down to the second"),
        (STAMP, my("datetime(3)"), "down to the millisecond"),
        (STAMP, my("datetime(1)"), "down to 1 digits of the second"),
        (pg(Kind.TIME, "time without time zone"), my("time"), "down to the second"),
        (my("datetime(6)"), pg(Kind.TIMESTAMP, "timestamp(3) without time zone"), "down to the millisecond"),
        (STAMP, mongo(Kind.TIMESTAMP), "down to the millisecond"),
        (pg(Kind.NUMERIC, "numeric(35,2)"), mongo(Kind.NUMERIC), "cut to 34 digits"),
        (pg(Kind.JSON, "jsonb"), mongo(Kind.JSON), "a bare JSON null is null"),
        (
            Declaration(CanonicalType(Kind.JSON, "jsonb", rest=True), "postgres"),
            mongo(Kind.JSON),
            "a bare JSON null and an empty object are null",
        ),
    ],
)
def test_what_is_narrowed(wide: Declaration, other: Declaration, rule: str) -> None:
    found = pair(wide, other)
    assert (found.verdict, found.rule) == (Verdict.NARROWED, rule)


@pytest.mark.parametrize(
    ("wide", "other", "held"),
    [
        (STAMP, my("datetime(6)"), ("years outside 1 to 9999, infinities",)),
        (my("datetime"), STAMP, ()),
        (my("datetime"), mongo(Kind.TIMESTAMP), ()),
        (pg(Kind.TIME, "time without time zone"), mongo(Kind.TIME), ()),
        (pg(Kind.NUMERIC, "numeric(34,2)"), mongo(Kind.NUMERIC), ()),
        (my("bigint unsigned"), mongo(Kind.NUMERIC), ()),
        (
            my("decimal(12,4)"),
            pg(Kind.NUMERIC, "numeric(12,2)"),
            ("more than 10 digits before the point or 2 behind it",),
        ),
        (my("decimal(12,2)"), pg(Kind.NUMERIC, "numeric(12,2)"), ()),
        (pg(Kind.INT64, "bigint"), my("int"), ("numbers that int cannot hold",)),
        (pg(Kind.INT16, "smallint"), my("bigint"), ()),
        (pg(Kind.INT16, "smallint"), my("int unsigned"), ("numbers that int unsigned cannot hold",)),
        (pg(Kind.TEXT, "text"), my("varchar(20)"), ("texts longer than 20 characters",)),
        (pg(Kind.TEXT, "character varying(20)"), my("varchar(20)"), ()),
        (pg(Kind.TEXT, "text"), my("text"), ("texts of more than 65,535 bytes",)),
        (pg(Kind.TEXT, "text"), my("enum('a')"), ("what is no member",)),
        (my("varchar(20)"), pg(Kind.TEXT, "text"), ("texts with U+0000",)),
        (pg(Kind.BYTES, "bytea"), my("varbinary(9)"), ("more than 9 bytes",)),
        (pg(Kind.BOOLEAN, "boolean"), my("tinyint(1)"), ()),
        (pg(Kind.INT16, "smallint"), my("tinyint(1)"), ("numbers that tinyint(1) cannot hold",)),
        (mongo(Kind.JSON), mongo(Kind.JSON), ()),
        (
            pg(Kind.LIST, "numeric[]", Kind.NUMERIC),
            pg(Kind.LIST, "numeric(6,2)[]", Kind.NUMERIC),
            ("items that numeric(6,2)[] would round or cut",),
        ),
        (pg(Kind.LIST, "real[]", Kind.FLOAT32), pg(Kind.LIST, "double precision[]", Kind.FLOAT64), ()),
        (
            my("varchar(20)"),
            pg(Kind.OPAQUE, "interval(3)"),
            ("texts with U+0000", "texts that interval(3) would print otherwise, or not read"),
        ),
        (pg(Kind.OPAQUE, "interval(3)"), pg(Kind.OPAQUE, "interval"), ()),
        (
            pg(Kind.OPAQUE, "interval"),
            pg(Kind.OPAQUE, "interval(3)"),
            ("texts that interval(3) would print otherwise, or not read",),
        ),
    ],
)  # fmt: skip
def test_what_is_the_same_but_for_rows_that_are_held(
    wide: Declaration, other: Declaration, held: tuple[str, ...]
) -> None:
    found = pair(wide, other)
    assert (found.verdict, found.rule, found.held) == (Verdict.SAME, "", held)


@pytest.mark.parametrize(
    ("wide", "other", "why"),
    [
        (pg(Kind.TEXT, "text"), my("int"), "int32 (int) is not text"),
        (pg(Kind.INT16, "smallint"), pg(Kind.INT64, "bigint"), "int64 (bigint) is not int16 (smallint)"),
        (my("int"), pg(Kind.TEXT, "text"), "text is not int32 (int)"),
        (
            my("varchar(9) CHARACTER SET latin1 COLLATE x"),
            pg(Kind.BYTES, "bytea"),
            "bytes (bytea) is not text (varchar(9))",
        ),
        (
            pg(Kind.LIST, "numeric[]", Kind.NUMERIC),
            pg(Kind.LIST, "real[]", Kind.FLOAT32),
            "list (real[]) is not list (numeric[])",
        ),
        (pg(Kind.INT16, "smallint"), my("bit(1)"), "boolean (bit(1)) is not int16 (smallint)"),
    ],
)  # fmt: skip
def test_what_is_refused(wide: Declaration, other: Declaration, why: str) -> None:
    found = pair(wide, other)
    assert (found.verdict, found.rule) == (Verdict.REFUSED, why)


def test_a_column_that_is_created_is_never_refused() -> None:
    for line in render().splitlines():
        assert "refused" not in line.partition("at ")[2] or not line.startswith("| `")
    made = created(pg(Kind.LIST, "integer[]", Kind.INT32), "mysql")
    assert (made.type.kind, made.type.native) == (Kind.JSON, "json")


@pytest.mark.parametrize(
    ("native", "engine", "parts", "digits"),
    [
        ("timestamp(3) without time zone", "postgres", Declared("timestamp", 3), 3),
        ("timestamp with time zone", "postgres", Declared("timestamp with time zone"), 6),
        ("datetime", "mysql", Declared("datetime"), 0),
        ("time(2)", "mysql", Declared("time", 2), 2),
        ("numeric(3,-1)", "postgres", Declared("numeric", 3, -1), 6),
        ("decimal(10,2) unsigned", "mysql", Declared("decimal", 10, 2), 6),
        ("enum('a','b(2)')", "mysql", Declared("enum('a','b(2)')"), 6),
    ],
)
def test_declarations_are_taken_apart(native: str, engine: str, parts: Declared, digits: int) -> None:
    assert declared(native) == parts
    assert second_digits(native, engine) == digits
