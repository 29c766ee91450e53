"""Columns between text and Arrow, names, positions and errors; no server."""

from __future__ import annotations

import json
import pickle
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.engines.postgres.arrays import array_to_json, json_to_array
from replication.engines.postgres.config import conninfo, object_name, split_name
from replication.engines.postgres.errors import classify
from replication.engines.postgres.position import between, format_lsn, parse_lsn, start_lsn
from replication.engines.postgres.statements import literal
from replication.engines.postgres.types import LocalType, local_type
from replication.engines.postgres.values import from_text, to_text
from replication.errors import (
    Contention,
    LogLost,
    NodeUnavailable,
    PreflightFailed,
    RowRefused,
    SchemaChanged,
    Terminal,
)
from replication.key import encode_keys, key_columns
from replication.position import Position, order_of
from replication.schema import NodeConfig
from replication.types import CanonicalType, Kind

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


def there_and_back(column: pa.Array, kind: Kind) -> pa.Array:
    type_, local = CanonicalType(kind), LocalType(kind)
    shown = to_text(column, type_, local)
    if kind is Kind.TIMESTAMPTZ:  # the server adds its zone, which is UTC
        shown = pa.array([_zoned(t) for t in shown.to_pylist()], pa.utf8())
    if kind is Kind.BOOLEAN:
        shown = pa.array([None if t is None else t[0] for t in shown.to_pylist()], pa.utf8())
    return from_text(shown.cast(pa.binary()), type_, local)


def _zoned(text: str | None) -> str | None:
    if text is None or text.endswith("infinity"):
        return text
    stamp, bc = (text[:-3], " BC") if text.endswith(" BC") else (text, "")
    return f"{stamp}+00{bc}"


@pytest.mark.parametrize(
    ("kind", "values", "physical"),
    [
        (Kind.DATE, INT32, pa.int32()),
        (Kind.TIMESTAMP, INT64, pa.int64()),
        (Kind.TIMESTAMPTZ, INT64, pa.int64()),
        (Kind.TIME, st.integers(0, 86_400_000_000), pa.int64()),
        (Kind.INT64, INT64, pa.int64()),
        (Kind.INT16, st.integers(-(2**15), 2**15 - 1), pa.int16()),
        (Kind.FLOAT64, st.floats(), pa.float64()),
        (Kind.FLOAT32, st.floats(width=32), pa.float32()),
        (Kind.BYTES, st.binary(max_size=40), pa.binary()),
        (Kind.BOOLEAN, st.booleans(), pa.bool_()),
        (Kind.TEXT, st.text(st.characters(exclude_categories=["Cs"])), pa.utf8()),
    ],
)
def test_every_value_comes_back(kind: Kind, values: st.SearchStrategy[Any], physical: pa.DataType) -> None:
    @given(st.lists(st.none() | values, max_size=20), st.integers(0, 3))
    def check(given_values: list[Any], offset: int) -> None:
        whole = pa.array([None] * offset + given_values, physical)
        column = whole.view(CanonicalType(kind).arrow).slice(offset)
        back = there_and_back(column, kind)
        assert back.type == CanonicalType(kind).arrow
        assert str(back.view(physical).to_pylist()) == str(given_values)  # NaN is not equal to itself

    check()


@given(st.dates(date(1, 1, 1)), st.times())
def test_dates_agree_with_pythons(day: date, time_: Any) -> None:
    stamp = datetime.combine(day, time_)
    micros = (stamp - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001
    column = from_text(pa.array([f"{stamp}"]), CanonicalType(Kind.TIMESTAMP), LocalType(Kind.TIMESTAMP))
    assert column.view(pa.int64()).to_pylist() == [micros]
    both = pa.array([f"{day}", "infinity"])
    days = from_text(both, CanonicalType(Kind.DATE), LocalType(Kind.DATE)).view(pa.int32()).to_pylist()
    assert days == [(day - date(1970, 1, 1)).days, 2**31 - 1]


@pytest.mark.parametrize("text", ["2024-01-01 00:00:00 AD", "yesterday", ""])
def test_what_is_no_date_is_an_error(text: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        from_text(pa.array([text]), CanonicalType(Kind.TIMESTAMP), LocalType(Kind.TIMESTAMP))


def test_padding_is_no_value() -> None:
    padded = local_type(1042)
    assert from_text(pa.array(["a  ", "  ", None]), CanonicalType(Kind.TEXT), padded).to_pylist() == [
        "a",
        "",
        None,
    ]


ITEMS = st.recursive(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
    lambda inner: st.lists(inner, min_size=1, max_size=3),
    max_leaves=4,
)


@given(ITEMS)
def test_arrays_come_back(items: list[Any]) -> None:
    text = json.dumps(items, ensure_ascii=False, separators=(",", ":"))
    literals = json_to_array(pa.array([text, None]))
    assert array_to_json(literals, Kind.TEXT).to_pylist() == [text, None]


def test_array_items_keep_their_digits() -> None:
    given_ = [
        "[12345678901234567890.10,1e400,-0.0]",
        "[true,null]",
        '[{"a":[1.0,null]}]',
        "no json",
        '{"a":1}',
    ]
    assert json_to_array(pa.array(given_)).to_pylist() == [
        "{12345678901234567890.10,1e400,-0.0}",
        "{t,NULL}",
        '{"{\\"a\\":[1.0,null]}"}',
        "no json",
        '{"a":1}',
    ]


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=10))
def test_literals_are_read_as_the_server_would(texts: list[str | None]) -> None:
    made = literal(pa.array(texts, pa.utf8()), Kind.TEXT)
    assert json.loads(array_to_json(pa.array([made]), Kind.TEXT)[0].as_py()) == texts


@given(st.lists(st.tuples(INT32, st.text(st.characters(exclude_categories=["Cs"])), INT64), max_size=10))
def test_keys_come_back(rows: list[tuple[int, str, int]]) -> None:
    kinds = [Kind.DATE, Kind.TEXT, Kind.TIMESTAMPTZ]
    columns = [
        pa.array([r[0] for r in rows], pa.int32()).view(pa.date32()),
        pa.array([r[1] for r in rows], pa.utf8()),
        pa.array([r[2] for r in rows], pa.int64()).view(pa.timestamp("us", "UTC")),
    ]
    assert key_columns(encode_keys(columns, kinds).to_pylist(), kinds) == columns


@given(st.integers(0, 2**64 - 1))
def test_positions(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert start_lsn(between(lsn)) == lsn
    assert start_lsn(Position(order_of(lsn, 7))) == lsn
    assert start_lsn(Position(order_of(lsn, 7), "1/A")) == (1 << 32) + 10


def test_object_names() -> None:
    assert object_name("shop") == "sync_worker_shop"
    names = [object_name(g) for g in ("Shop", "shop", "sh-op", "sh_op", "x" * 100, "x" * 101, "ä")]
    assert len(set(names)) == len(names)
    assert all(len(n) <= 63 and n.isascii() and n.islower() for n in names)
    assert split_name("a") == ("public", "a")
    assert split_name("s.a") == ("s", "a")


def test_connections_keep_the_users_own_options() -> None:
    node = NodeConfig("n", "postgres", "postgresql://u:p@h/d?options=-c%20work_mem%3D1MB&connect_timeout=3")
    made = psycopg.conninfo.conninfo_to_dict(conninfo(node, {"a": "b"}))
    assert str(made["options"]).startswith("-c work_mem=1MB -c TimeZone=UTC ")
    assert str(made["options"]).endswith(" -c a=b")
    assert (made["connect_timeout"], made["client_encoding"], made["password"]) == ("3", "UTF8", "p")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("40001", "", Contention),
        ("40P01", "", Contention),
        ("0A000", "cached plan must not change result type", Contention),
        ("0A000", "something else", Terminal),
        ("55P03", "", Contention),
        ("23505", "", RowRefused),
        ("22P02", "", RowRefused),
        ("P0001", "", RowRefused),
        ("57P01", "", NodeUnavailable),
        ("53300", "", NodeUnavailable),
        ("25006", "", NodeUnavailable),
        ("55006", "replication slot is active for PID 7", NodeUnavailable),
        ("42501", "", PreflightFailed),
        ("42P01", "", SchemaChanged),
        ("42703", "", SchemaChanged),
        ("42704", 'replication slot "s" does not exist', LogLost),
        ("55000", 'can no longer access replication slot "s"', LogLost),
        ("58P01", "requested WAL segment 0001 has already been removed", LogLost),
    ],
)
def test_errors_by_code(code: str, text: str, kind: type) -> None:
    error = classify(psycopg.errors.lookup(code)(text), "pg", 7)
    assert type(error) is kind
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.node, copy.position, str(copy)) == ("pg", 7, str(error))
