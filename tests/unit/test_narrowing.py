import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from replication.narrowing import comparable, narrow
from replication.types import CanonicalType, Kind

NUMERIC = CanonicalType(Kind.NUMERIC)
JSON = CanonicalType(Kind.JSON)
INT64 = st.integers(-(2**63), 2**63 - 1)


def same(type: CanonicalType, a: object, b: object) -> bool:
    """Compare in one column, as an array of two, so that neither hides the other's treatment."""
    normal = comparable(pa.array([a, b], type.arrow), type)
    return bool(pc.equal(normal[0], normal[1]).as_py())


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("engine", ["postgres", "memory"])
def test_nothing_is_narrower_in_postgres(kind, engine):
    column = pa.nulls(3, CanonicalType(kind).arrow)
    assert narrow(column, CanonicalType(kind), engine) is column


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TIMESTAMPTZ])
def test_mongodb_floors_to_milliseconds(kind):
    type = CanonicalType(kind)
    micros = [1_001, 999, 0, -1, -1_000, -1_001, None, 2**63 - 1, -(2**63)]
    column = pa.array(micros, pa.int64()).view(type.arrow)
    narrowed = narrow(column, type, "mongodb")
    assert narrowed.type == type.arrow
    expected = [1_000, 0, 0, -1_000, -1_000, -2_000, None, 2**63 - 1, -(2**63)]
    assert narrowed.view(pa.int64()).to_pylist() == expected


def test_a_column_that_fits_comes_back_itself():
    times = pa.array([datetime(2024, 1, 1, tzinfo=UTC), None], pa.timestamp("us", tz="UTC"))
    assert narrow(times, CanonicalType(Kind.TIMESTAMPTZ), "mongodb") is times
    numbers = pa.array(["1.5", None, "NaN", "-Infinity", "9" * 34], pa.utf8())
    assert narrow(numbers, NUMERIC, "mongodb") is numbers


@given(st.lists(st.none() | INT64))
def test_narrowing_a_timestamp_twice_is_narrowing_it_once(micros):
    type = CanonicalType(Kind.TIMESTAMPTZ)
    once = narrow(pa.array(micros, pa.int64()).view(type.arrow), type, "mongodb")
    assert narrow(once, type, "mongodb").equals(once)


@pytest.mark.parametrize(
    ("text", "narrowed"),
    [
        ("1" * 34, "1" * 34),
        ("1" * 34 + "5", "1" * 34 + "0"),
        ("1" * 33 + "29", "1" * 33 + "20"),
        ("0." + "3" * 40, "0." + "3" * 34),
        ("-0." + "0" * 20 + "7" * 40, "-0." + "0" * 20 + "7" * 34),
        ("1" + "0" * 60, "1" + "0" * 60),
        ("0." + "1" * 30 + "0" * 30, "0." + "1" * 30 + "0" * 30),  # zeros carry no information
        ("9" * 35, "9" * 34 + "0"),  # cut: it gets no longer
        ("0." + "0" * 6200 + "1", "0." + "0" * 6176),  # below decimal128's smallest
        ("7" * 7000, "7" * 7000),  # above its largest: refused by the node, not narrowed
    ],
)
def test_mongodb_keeps_34_digits(text, narrowed):
    column = pa.array(["1", text, None], pa.utf8())
    assert narrow(column, NUMERIC, "mongodb").to_pylist() == ["1", narrowed, None]


def test_mongodb_has_no_empty_rest():
    """The column of all further fields: an empty object is no fields, which is null."""
    column = pa.array(["{}", " { } ", "null", '{"a":{}}', "[]", None], pa.utf8())
    rest = CanonicalType(Kind.JSON, rest=True)
    assert narrow(column, rest, "mongodb").to_pylist() == [None, None, None, '{"a":{}}', "[]", None]
    assert narrow(column, rest, "mysql") is column
    plain = narrow(column, CanonicalType(Kind.JSON), "mongodb").to_pylist()
    assert plain == ["{}", " { } ", None, '{"a":{}}', "[]", None]


@given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: abs(d.adjusted()) < 6000))
def test_a_narrowed_number_is_what_decimal128_holds(value):
    text = format(value, "f")
    narrowed = narrow(pa.array([text], pa.utf8()), NUMERIC, "mongodb")[0].as_py()
    assert Decimal128(_trimmed(narrowed)).to_decimal() == Decimal(narrowed)
    if len(value.as_tuple().digits) <= 34:
        assert Decimal(narrowed) == value


def _trimmed(text: str) -> Decimal:
    value = Decimal(text)
    sign, digits, exponent = value.as_tuple()
    kept = list(digits)
    while len(kept) > 34 and kept[-1] == 0:
        kept.pop()
        exponent += 1
    return Decimal((sign, tuple(kept), exponent))


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("1.50", "1.5", True),
        ("1.0", "1", True),
        ("-0", "0", True),
        ("-0.00", "0", True),
        ("100", "1", False),
        ("100", "10.0", False),
        ("0.10", "0.01", False),
        ("1E+2", "100", True),
        (".5", "0.50", True),
        ("NaN", "NaN", True),
        ("Infinity", "-Infinity", False),
        ("1.5", "-1.5", False),
    ],
)
def test_numbers_that_mean_the_same(a, b, equal):
    assert same(NUMERIC, a, b) is equal


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 5))
def test_equal_decimals_have_one_normal_form(value, zeros):
    text = format(value, "f")
    padded = text + ("" if "." in text else ".") + "0" * (zeros + 1)
    assert same(NUMERIC, text, padded)
    assert same(NUMERIC, text, format(value + 1, "f")) is (value == value + 1)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ('{"a": 1, "b": [true, null]}', '{"b":[true,null],"a":1.0}', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": null}', "{}", False),
        ("[1, 2]", "[2, 1]", False),
        ("10000000000000000000001", "10000000000000000000002", False),
        ("10000000000000000000001", "10000000000000000000001.0", True),
        ("0.1000000000000000055511", "0.1", False),
        ("1e3", "1000", True),
        ("1e400", "10e399", True),
        ("-0", "0.0", True),
        ('"caf\\u00e9"', '"café"', True),
        ('"\\ud800"', '"\\ud800"', True),
        ('"\\ud800"', '"\\ud801"', False),
        ('"2024-01-01"', '"2024-01-02"', False),
        ("NaN", "NaN", True),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000, True),
        ("[" * 5000 + "]" * 5000, "[" * 4999 + "]" * 4999, False),
    ],
)
def test_json_that_means_the_same(a, b, equal):
    assert same(JSON, a, b) is equal


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_json_has_one_normal_form_however_it_is_written(document):
    loose = json.dumps(document, indent=1, sort_keys=True)
    tight = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert same(JSON, loose, tight)


@given(documents, documents)
def test_json_normal_forms_tell_documents_apart(a, b):
    # Python's == takes True for 1, JSON does not; repr with sorted keys tells them apart.
    different = _typed(a) != _typed(b)
    assert same(JSON, json.dumps(a), json.dumps(b)) is not different


def _typed(value: object) -> object:
    match value:
        case bool() | None | str():
            return (type(value).__name__, value)
        case int() | float():
            return ("number", Decimal(repr(value)))
        case list():
            return [_typed(v) for v in value]
        case _:
            return {k: _typed(v) for k, v in value.items()}


def test_numeric_items_of_a_list_compare_as_numbers():
    numbers = CanonicalType(Kind.LIST, item=Kind.NUMERIC)
    assert same(numbers, '["1.50", "NaN", null]', '["1.5","NaN",null]')
    assert same(numbers, '["1.50"]', "[1.5]")
    assert not same(CanonicalType(Kind.LIST, item=Kind.TEXT), '["1.50"]', '["1.5"]')


def test_floats_compare_by_value():
    for kind in (Kind.FLOAT32, Kind.FLOAT64):
        type = CanonicalType(kind)
        assert same(type, float("nan"), float("nan"))
        assert same(type, -0.0, 0.0)
        assert not same(type, 1.0, 1.0 + 2**-20)
        assert comparable(pa.array([None, 1.0], type.arrow), type).null_count == 1


@pytest.mark.parametrize("kind", Kind)
def test_nulls_stay_null(kind):
    type = CanonicalType(kind, item=Kind.NUMERIC if kind is Kind.LIST else None)
    column = pa.nulls(2, type.arrow)
    assert comparable(column, type).null_count == 2
    assert narrow(column, type, "mongodb").null_count == 2
