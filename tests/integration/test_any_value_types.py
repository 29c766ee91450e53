"""Hypothesis feeds every engine: what an applier writes comes back by snapshot and log, or is held."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from replication.batch import Outcome
from replication.engines.creation import created
from replication.key import encode_keys
from replication.narrowing import comparable, narrow
from replication.pairing import Declaration, pair
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.fixtures.two_nodes import Node, mapping
from tests.fixtures.values import JSON, VALUES, column

EXAMPLES = int(os.environ.get("EXAMPLES", "8"))
SAME_EACH_TIME = "EXAMPLES" not in os.environ
"""The suite tries the same values in each run; EXAMPLES=200 looks further."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not to shrink: on real servers that takes minutes, and a row of one value is small already."""
DAY = 86_400_000_000
ORDINARY = {
    Kind.DATE: st.integers(-719_162, 2_932_896),
    Kind.TIMESTAMP: st.integers(-719_162 * DAY, 2_932_897 * DAY - 1),
    Kind.TIMESTAMPTZ: st.integers(1_000_000, 2**31 * 1_000_000 - 1_000_000),
}
"""Years that every engine holds: of all integers hardly one is among them."""
TYPES = {kind: CanonicalType(kind) for kind in (*VALUES, Kind.JSON)}
ANY = {kind: ORDINARY.get(kind, values) | values for kind, values in (VALUES | {Kind.JSON: JSON}).items()}
ONE_VALUE = st.sampled_from(list(ANY)).flatmap(lambda kind: st.tuples(st.just(kind), ANY[kind]))


@contextmanager
def node(engine: str, dsn: str) -> Iterator[Node]:
    """A node with a column of every kind, as `create_tables` makes them for another engine."""
    number = CanonicalType(Kind.INT32)
    columns = [Column("id", number, nullable=False), Column("other", number)]
    columns += [Column(f"c_{kind}", type) for kind, type in TYPES.items()]
    table = Table(mapping(), TableSchema("t", tuple(columns), ("id",)))
    with Node("a", engine, dsn, "mongodb") as made:
        made.catalog.create_table(table, "memory")
        made.join(table)
        yield made


def rows_of(values: list[tuple[Kind, Any]]) -> pa.RecordBatch:
    """One row per value, all other columns null."""
    ids = pa.array(range(len(values)), pa.int32())
    arrays = [encode_keys([ids], [Kind.INT32]), ids, pa.nulls(len(values), pa.int32())]
    for kind in TYPES:
        arrays.append(column(kind, [v if k is kind else None for k, v in values]))
    return pa.RecordBatch.from_arrays(arrays, ["_key", "id", "other", *(f"c_{kind}" for kind in TYPES)])


def form(array: pa.Array | pa.ChunkedArray, type: CanonicalType, engine: str) -> list[Any]:
    """Values in their normal form, as a node of the engine beside a MongoDB node holds them."""
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    normal = comparable(narrow(narrow(whole, type, engine), type, "mongodb"), type)
    if pa.types.is_temporal(normal.type):
        normal = normal.view(pa.int32() if normal.type == pa.date32() else pa.int64())
    return list(normal.to_pylist())


@pytest.mark.parametrize("engine", ["postgres", "mysql", "mongodb"])
def test_any_value_comes_back_or_its_row_is_held(databases: dict[tuple[str, str], str], engine: str) -> None:
    with node(engine, databases["a", engine]) as a:

        @settings(
            max_examples=EXAMPLES,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
            derandomize=SAME_EACH_TIME,
        )
        @given(values=st.lists(ONE_VALUE, min_size=10, max_size=60))
        def round_trip(values: list[tuple[Kind, Any]]) -> None:
            rows = rows_of(values)
            applied = a.apply(rows)
            assert applied.outcome is Outcome.COMMITTED
            keys = rows.column("_key").to_pylist()
            held = {keys.index(h.key): h.reason for h in applied.held}
            for i, reason in held.items():
                kind, value = values[i]
                other = created(Declaration(TYPES[kind], "memory"), engine)
                assert pair(Declaration(TYPES[kind], "memory"), other).held, f"{kind} {value!r}: {reason}"
            stored = a.read()
            there = stored.column("id").to_pylist()
            good = [i for i in range(len(values)) if i not in held]
            assert set(good) <= set(there)
            places = pa.array([there.index(i) for i in good], pa.int64())
            sent, got = rows.take(pa.array(good, pa.int64())), stored.take(places)
            for kind, type in TYPES.items():
                name = f"c_{kind}"
                assert form(got.column(name), type, engine) == form(sent.column(name), type, engine), kind
            a.touch()
            logged = a.logged()  # of the rows of this round: the others were touched before
            shown = logged.column("id").to_pylist()
            assert set(good) <= set(shown)
            again = stored.take(pa.array([there.index(i) for i in shown], pa.int64()))
            for kind, type in TYPES.items():
                name = f"c_{kind}"
                assert form(logged.column(name), type, "") == form(again.column(name), type, ""), kind

        round_trip()
