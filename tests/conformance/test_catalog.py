"""Tables are read and made in canonical types, and preflight says what is wrong before anything runs."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from replication.change import Echo
from replication.engine import Catalog
from replication.narrowing import comparable, narrow
from replication.schema import Table, TableMapping
from tests.conformance.samples import item
from tests.conformance.tools import Peer, Write, events_of
from tests.fixtures.engines import NODE, EngineHarness

WIDE_ROWS = [
    {
        "boolean": True,
        "int16": -(2**15),
        "int32": 2**31 - 1,
        "int64": -(2**63),
        "float32": 0.10000000149011612,
        "float64": 0.1,
        "numeric": "12345678901234567890.0123456789",
        "text": "𝄞 \\ ' \" \n\t",
        "bytes": bytes(range(256)),
        "date": date(2024, 2, 29),
        "time": time(23, 59, 59, 999999),
        "timestamp": datetime(1969, 12, 31, 23, 59, 59, 999000),  # noqa: DTZ001
        "timestamptz": datetime(2026, 10, 25, 1, 30, 0, 123000, tzinfo=UTC),
        "uuid": "12345678-9abc-def0-1234-56789abcdef0",
        "json": '{"a": [1, 2.5, null, true, "x"], "b": {"c": {}}}',
        "list": "[1, 2, -3]",
    },
    {"text": "", "bytes": b""},
    {"float64": 5e-324, "numeric": "-0.50", "json": "null", "list": "[]"},
    {"float64": 1.7976931348623157e308, "numeric": "0", "json": '"text"', "date": date(1, 1, 1)},
]
INFINITE_ROWS = [
    {"float32": float("inf"), "float64": float("-inf")},
    {"numeric": "NaN"},
    {"float32": float("nan")},
]


@pytest.fixture
def catalog(harness: EngineHarness):
    with closing(harness.engine.catalog()) as made:
        yield made


def test_the_schema_is_read_under_canonical_names(harness: EngineHarness, catalog: Catalog) -> None:
    for table in harness.mapped:
        schema = catalog.read_schema(table.mapping)
        assert schema is not None
        assert (schema.name, schema.key) == (table.name, table.mapping.key)
        if "columns" not in harness.abilities:
            assert {c.name for c in schema.columns} == set(table.mapping.key)
            continue
        found = {c.name: (c.type.kind, c.nullable) for c in schema.columns if c.name != "extra"}
        kinds = {c.name: harness.declared.get(c.type.kind, c.type.kind) for c in table.schema.columns}
        assert found == {c.name: (kinds[c.name], c.nullable) for c in table.schema.columns}


def test_a_table_that_is_not_there_has_no_schema(catalog: Catalog) -> None:
    assert catalog.read_schema(TableMapping("none", ("id",), {NODE: "no_such_table"})) is None


def test_preflight_accepts_what_can_take_part(harness: EngineHarness, catalog: Catalog) -> None:
    errors = [f for f in catalog.preflight(harness.mapped) if f.level == "error"]
    assert errors == []


@pytest.mark.needs("columns")
def test_preflight_names_a_missing_table(harness: EngineHarness, catalog: Catalog) -> None:
    table = harness.tables["items"]
    lost = Table(replace(table.mapping, name="lost", names={NODE: "no_such_table"}), table.schema)
    errors = [f for f in catalog.preflight([lost]) if f.level == "error"]
    assert errors
    assert all(f.subject == "lost" and f.message and f.remedy for f in errors)


def test_a_created_table_takes_every_kind_and_gives_it_back(harness: EngineHarness, catalog: Catalog) -> None:
    table = wide_copy(harness, catalog)
    rows = WIDE_ROWS + (INFINITE_ROWS if "infinities" in harness.abilities else [])
    with Peer(harness) as peer:
        writes = [Write("copy", (i,), _complete(table, row)) for i, row in enumerate(rows)]
        applied = peer.apply(*writes)
        assert not applied.held
        assert not applied.missing
        (echo,) = events_of(peer.read(echoes=True), Echo)
        sent = peer.batch(*writes).tables[0].rows
        chunk = peer.snapshot.read_chunk(table, None, 100)
        assert_same(table, sent, chunk, harness.name)
        assert_same(table, sent, echo.rows[0].rows, harness.name)


def test_numbers_that_are_none_are_kept_or_held(harness: EngineHarness, catalog: Catalog) -> None:
    table = wide_copy(harness, catalog)
    with Peer(harness) as peer:
        writes = [Write("copy", (i,), _complete(table, row)) for i, row in enumerate(INFINITE_ROWS)]
        held = peer.apply(*writes, Write("copy", (9,), _complete(table, {}))).held
        assert len(held) == (0 if "infinities" in harness.abilities else len(INFINITE_ROWS))
        assert peer.snapshot.read_chunk(table, None, 100).num_rows == len(INFINITE_ROWS) - len(held) + 1


def wide_copy(harness: EngineHarness, catalog: Catalog) -> Table:
    made = harness.tables["wide"]
    table = Table(TableMapping("copy", ("id",), {NODE: "wide_copy"}), replace(made.schema, name="copy"))
    catalog.create_table(table, "postgres")
    catalog.create_table(table, "postgres")
    harness.tables["copy"] = table
    return table


def _complete(table: Table, row: dict) -> dict:
    return {c.name: row.get(c.name) for c in table.schema.columns if c.name != "id"}


def assert_same(table: Table, sent: pa.RecordBatch, found: pa.RecordBatch, engine: str) -> None:
    found = found.take(pc.sort_indices(found.column("_key")))
    for c in table.schema.columns:
        want = comparable(narrow(sent.column(c.name), c.type, engine), c.type)
        assert comparable(found.column(c.name), c.type).equals(want), c.name


@pytest.mark.needs("columns")
def test_a_created_table_keeps_null_out(harness: EngineHarness, catalog: Catalog) -> None:
    made = harness.tables["items"]
    mapping = TableMapping("copy", ("id",), {NODE: "copy"}, {"note": {NODE: "remark"}})
    table = Table(mapping, replace(made.schema, name="copy"))
    catalog.create_table(table, "postgres")
    schema = catalog.read_schema(mapping)
    assert schema is not None
    assert [(c.name, c.type.kind, c.nullable) for c in schema.columns] == [
        (c.name, c.type.kind, c.nullable) for c in made.schema.columns
    ]


def test_state_is_kept_on_the_node(harness: EngineHarness, peer: Peer) -> None:
    assert peer.control.get_state("copy") is None
    peer.control.put_state("copy", '{"at": 1}')
    peer.control.put_state("copy", '{"at": 2, "text": "ü\'"}')
    with closing(harness.engine.control()) as another:
        assert another.get_state("copy") == '{"at": 2, "text": "ü\'"}'


def test_preparing_twice_keeps_the_place_in_the_log(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    with closing(harness.engine.control()) as another:
        again = another.prepare(harness.mapped)
    assert [c.key for c in peer.changes(again)] in ([(1,)], [])
    assert [c.key for c in peer.changes(peer.start)] == [(1,)]


def test_an_engine_pickles(harness: EngineHarness) -> None:
    copy = pickle.loads(pickle.dumps(harness.engine))
    assert (copy.node, copy.group) == (harness.engine.node, harness.engine.group)
    with closing(copy.control()) as control:
        control.prepare(harness.mapped)
