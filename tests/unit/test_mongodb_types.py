"""Canonical values to BSON and back, and what else is read."""

from __future__ import annotations

import uuid
from decimal import Decimal

import bson
import pyarrow as pa
import pytest
from bson import Code, Int64, ObjectId
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from replication.engines.mongodb import decimals
from replication.engines.mongodb.layout import split_keys
from replication.engines.mongodb.types import Unconvertible, decode_column, encode_column
from replication.key import encode_keys
from replication.narrowing import comparable, narrow
from replication.types import CanonicalType, Kind
from tests.fixtures.values import FINITE, INT32, INT64, JSON, TEXT, VALUES, column

CODEC = CodecOptions(tz_aware=False, datetime_conversion=DatetimeConversion.DATETIME_MS)


def through_bson(values: list) -> list:
    return bson.decode(bson.encode({"v": values}), CODEC)["v"]


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_values_come_back_as_their_narrowed_form(kind: Kind, data: st.DataObject) -> None:
    canonical = CanonicalType(kind)
    array = column(kind, data.draw(st.lists(st.none() | VALUES[kind], max_size=5)))
    back, errors = decode_column(through_bson(encode_column(array, canonical)), canonical)
    assert errors == {}
    want = narrow(array, canonical, "mongodb")
    assert comparable(back, canonical).equals(comparable(want, canonical))


@given(text=JSON)
def test_json_comes_back_with_every_digit(text: str) -> None:
    canonical = CanonicalType(Kind.JSON)
    array = pa.array([text])
    back, errors = decode_column(through_bson(encode_column(array, canonical)), canonical)
    assert errors == {}
    want = comparable(narrow(array, canonical, "mongodb"), canonical)
    assert comparable(back, canonical).equals(want)


@pytest.mark.parametrize(
    "text",
    [
        '{"n":1.123456789012345678901234}',
        '{"n":123456789012345678901234567890}',
        '{"n":-0.10}',
        '{"n":1e400}',
        '{"$date":"2024-01-01T00:00:00Z"}',
        '{"a":{"$oid":"507f1f77bcf86cd799439011"}}',
        '{"$notextended":[1,{"$set":2}]}',
        '[{"$numberDecimal":"NaN"},{"$numberDouble":"NaN"}]',
        '{"$oid":"x"}',
        '{"$code":"return 1"}',
        '{"a":[{"$code":"f(\\"x\\")","$scope":{"n":9007199254740993}}],"$code":"no code"}',
        '{"a":{"$oid":null},"b":{"$oid":"507f1f77bcf86cd799439011"}}',
        '{"$minKey":true}',
        '{"$numberLong":"5"}',
        '{"$date":{"$numberLong":"-5"}}',
        '{"$timestamp":{"i":2,"t":1}}',
    ],
)
def test_json_beyond_doubles_and_beyond_json(text: str) -> None:
    canonical = CanonicalType(Kind.JSON)
    back, errors = decode_column(through_bson(encode_column(pa.array([text]), canonical)), canonical)
    assert errors == {}
    assert comparable(back, canonical).equals(comparable(pa.array([text]), canonical))


def test_what_bson_cannot_hold_is_said() -> None:
    numbers = encode_column(pa.array(["1" + "0" * 6200, "5"]), CanonicalType(Kind.NUMERIC))
    assert isinstance(numbers[0], Unconvertible)
    assert numbers[1] == Decimal128("5")
    (digits,) = encode_column(pa.array([f"[{'1234567890' * 4}.5]"]), CanonicalType(Kind.JSON))
    assert isinstance(digits, Unconvertible)


def test_the_types_of_documents() -> None:
    """What applications see in a document that we wrote."""
    one = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
    assert encode_column(pa.array([str(one)]), CanonicalType(Kind.UUID)) == [Binary(one.bytes, 4)]
    assert encode_column(column(Kind.DATE, [1]), CanonicalType(Kind.DATE)) == [DatetimeMS(86_400_000)]
    moments = [-1, 1999, 2**63 - 1, -(2**63)]
    assert encode_column(column(Kind.TIMESTAMP, moments), CanonicalType(Kind.TIMESTAMP)) == [
        DatetimeMS(-1),
        DatetimeMS(1),
        "infinity",
        "-infinity",
    ]
    times = column(Kind.TIME, [0, 3_661_500_000, 86_400_000_000])
    assert encode_column(times, CanonicalType(Kind.TIME)) == ["00:00:00", "01:01:01.5", "24:00:00"]
    assert encode_column(pa.array(["1.50"]), CanonicalType(Kind.NUMERIC)) == [Decimal128("1.50")]
    assert encode_column(pa.array(["[1,2]"]), CanonicalType(Kind.LIST)) == [[1, 2]]


@pytest.mark.parametrize(
    ("kind", "value", "want"),
    [
        (Kind.BOOLEAN, 1, True),
        (Kind.INT16, Int64(7), 7),
        (Kind.INT32, 7.0, 7),
        (Kind.INT64, Decimal128("7.00"), 7),
        (Kind.FLOAT64, 7, 7.0),
        (Kind.FLOAT64, Decimal128("0.1"), 0.1),
        (Kind.NUMERIC, 7, "7"),
        (Kind.NUMERIC, 1e-7, "0.00000010"[:-1]),
        (Kind.NUMERIC, float("nan"), "NaN"),
        (Kind.NUMERIC, "1E+2", "100"),
        (Kind.TEXT, 7, "7"),
        (Kind.TEXT, True, "true"),
        (Kind.TEXT, ObjectId("507f1f77bcf86cd799439011"), "507f1f77bcf86cd799439011"),
        (Kind.TEXT, DatetimeMS(0), "1970-01-01T00:00:00.000Z"),
        (Kind.TEXT, {"a": [1]}, '{"a":[1]}'),
        (Kind.BYTES, Binary(b"x", 128), b"x"),
        (Kind.UUID, "12345678-9ABC-DEF0-1234-56789ABCDEF0", "12345678-9abc-def0-1234-56789abcdef0"),
        (Kind.LIST, [Decimal128("1.5"), None], "[1.5,null]"),
        (Kind.JSON, ObjectId("507f1f77bcf86cd799439011"), '{"$oid":"507f1f77bcf86cd799439011"}'),
        (Kind.JSON, Code("return 1"), '{"$code":"return 1"}'),
        (Kind.JSON, [Int64(5), {"f": Code("x", {"n": 1})}], '[5,{"f":{"$code":"x","$scope":{"n":1}}}]'),
        (Kind.TEXT, Code("return 1"), '{"$code":"return 1"}'),
        (Kind.TEXT, Code("x", {"n": 1}), '{"$code":"x","$scope":{"n":1}}'),
    ],
)
def test_reading_takes_more_than_writing_gives(kind: Kind, value: object, want: object) -> None:
    array, errors = decode_column([value, None], CanonicalType(kind))
    assert errors == {}
    assert array.to_pylist() == [want, None]


@pytest.mark.parametrize(
    ("kind", "value", "micros"),
    [
        (Kind.TIMESTAMPTZ, "2024-01-01T02:00:00+02:00", 1_704_067_200_000_000),
        (Kind.TIMESTAMP, "2024-01-01T00:00:00.000001", 1_704_067_200_000_001),
        (Kind.TIMESTAMP, "15000-01-01T00:00:00", 411187104000000000),
        (Kind.TIMESTAMP, "infinity", 2**63 - 1),
        (Kind.TIME, "24:00", 86_400_000_000),
        (Kind.TIME, 5, 5),
        (Kind.DATE, "1970-01-02", 1),
        (Kind.DATE, "-infinity", -(2**31)),
    ],
)
def test_extreme_dates_and_iso_text(kind: Kind, value: object, micros: int) -> None:
    array, errors = decode_column([value], CanonicalType(kind))
    assert errors == {}
    numbers = array.cast(pa.int32()) if kind is Kind.DATE else array.view(pa.int64())
    assert numbers.to_pylist() == [micros]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.BOOLEAN, 2),
        (Kind.INT16, 40_000),
        (Kind.INT32, "abc"),
        (Kind.NUMERIC, Code("1")),
        (Kind.DATE, Code("1970-01-02")),
        (Kind.UUID, Code("12345678-9abc-def0-1234-56789abcdef0")),
        (Kind.INT32, True),
        (Kind.INT64, 1.5),
        (Kind.INT64, Decimal128("1E+30")),
        (Kind.INT64, float("inf")),
        (Kind.FLOAT32, 1e300),
        (Kind.FLOAT64, 2**53 + 1),
        (Kind.NUMERIC, "abc"),
        (Kind.NUMERIC, True),
        (Kind.BYTES, "text"),
        (Kind.DATE, DatetimeMS(1)),
        (Kind.DATE, "soon"),
        (Kind.TIME, "25:61:00"),
        (Kind.TIME, -1),
        (Kind.TIMESTAMP, DatetimeMS(2**60)),
        (Kind.TIMESTAMP, "2024-01-01T00:00:00+02:00"),
        (Kind.UUID, Binary(b"x" * 16, 3)),
        (Kind.UUID, "x"),
        (Kind.LIST, {"a": 1}),
    ],
)
def test_what_cannot_be_read_is_named_and_null(kind: Kind, value: object) -> None:
    array, errors = decode_column([None, value], CanonicalType(kind))
    assert array.to_pylist() == [None, None]
    assert list(errors) == [1]
    assert str(kind) in errors[1]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INT64, True),
        (Kind.INT64, float("nan")),
        (Kind.TEXT, ObjectId()),
        (Kind.TEXT, 5),
        (Kind.TEXT, Code("a")),
        (Kind.BYTES, Binary(b"x", 128)),
        (Kind.UUID, "12345678-9abc-def0-1234-56789abcdef0"),
        (Kind.DATE, "1970-01-01"),
        (Kind.TIMESTAMP, 0),
        (Kind.NUMERIC, "5"),
        (Kind.NUMERIC, Decimal128("NaN")),
        (Kind.BOOLEAN, 1),
    ],
)
def test_keys_that_our_own_form_would_not_find(kind: Kind, value: object) -> None:
    _, errors = decode_column([value], CanonicalType(kind), key=True)
    assert list(errors) == [0]


@given(
    rows=st.lists(
        st.tuples(INT64, TEXT, st.binary(), INT32, FINITE.map(decimals.plain)), min_size=1, max_size=5
    )
)
def test_keys_split_into_what_they_were_made_of(rows: list[tuple]) -> None:
    kinds = [Kind.INT64, Kind.TEXT, Kind.BYTES, Kind.DATE, Kind.NUMERIC]
    columns = [
        column(kind, list(values)) for kind, values in zip(kinds, zip(*rows, strict=True), strict=True)
    ]
    found = split_keys(encode_keys(columns, kinds), kinds)
    assert [c.to_pylist() for c in found[:3]] == [c.to_pylist() for c in columns[:3]]
    assert found[3].equals(columns[3])
    assert [Decimal(v) for v in found[4].to_pylist()] == [Decimal(v) for v in columns[4].to_pylist()]
    for one, kind in zip(columns, kinds, strict=True):
        (alone,) = split_keys(encode_keys([one], [kind]), [kind])
        assert comparable(alone, CanonicalType(kind)).equals(comparable(one, CanonicalType(kind)))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4) | FINITE)
def test_short_decimals_are_packed_as_the_driver_packs_them(value: Decimal) -> None:
    text = decimals.plain(value)
    mine = decimals.to_decimal128(text)
    digits = len(value.as_tuple().digits)
    if digits <= decimals.DIGITS and len(text) <= decimals.DIGITS:
        assert mine == Decimal128(text)
        assert Decimal(decimals.to_text(mine)) == value
        assert decimals.to_text(mine) == decimals.plain(mine.to_decimal())
