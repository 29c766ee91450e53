"""Case 27, verifier_finds_everything, on rows held in memory; real servers are in the integration tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.difference import Difference, DifferenceKind
from replication.errors import Terminal
from replication.key import encode_key, encode_keys
from replication.schema import Column, Condition, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind
from replication.verify import QuietTime, Verifier

COLUMNS = (
    ("id", Kind.INT64),
    ("flag", Kind.BOOLEAN),
    ("name", Kind.TEXT),
    ("blob", Kind.BYTES),
    ("amount", Kind.NUMERIC),
    ("price", Kind.FLOAT64),
    ("at", Kind.TIMESTAMPTZ),
    ("doc", Kind.JSON),
)
NAMES = tuple(name for name, _ in COLUMNS)
TABLE = Table(
    TableMapping("t", ("id",), {}),
    TableSchema("t", tuple(Column(n, CanonicalType(k)) for n, k in COLUMNS), ("id",)),
)
Row = dict[str, object]


def row(id: int) -> Row:
    return {
        "id": id,
        "flag": id % 2 == 0,
        "name": f"name {id}",
        "blob": bytes([id % 256] * 5),
        "amount": f"{id}.50",
        "price": id * 0.1,
        "at": id * 1_000,
        "doc": f'{{"b": [1, {id}], "a": "x"}}',
    }


def batch(rows: Sequence[Row]) -> pa.RecordBatch:
    columns = [pa.array([r[n] for r in rows], CanonicalType(k).arrow) for n, k in COLUMNS]
    return pa.RecordBatch.from_arrays([encode_keys(columns[:1], [Kind.INT64]), *columns], ["_key", *NAMES])


def key(id: int) -> bytes:
    return encode_key([id], [Kind.INT64])


@dataclass
class Held:
    """A node's rows, given in chunks of `size`."""

    node: str
    rows: dict[int, Row]
    size: int = 3
    engine: str = "postgres"
    reads: list[list[bytes]] = field(default_factory=list)
    unreadable: dict[bytes, str] = field(default_factory=dict)

    def chunks(self, table: Table, after: bytes | None = None) -> Iterator[pa.RecordBatch]:
        ordered = [self.rows[id] for id in sorted(self.rows) if after is None or key(id) > after]
        for at in range(0, len(ordered), self.size):
            yield batch(ordered[at : at + self.size])

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        self.reads.append(list(keys))
        wanted = set(keys)
        return batch([r for id, r in self.rows.items() if key(id) in wanted])


def differences(*nodes: Held, tries: int = 1) -> list[Difference]:
    return list(Verifier(nodes, QuietTime(lambda attempt: None, tries)).compare(TABLE))


def rows(count: int) -> dict[int, Row]:
    return {id: row(id) for id in range(count)}


FIELD_CHANGES = {
    "one bit in a blob": ("blob", lambda r: bytes([r["blob"][0] ^ 1]) + r["blob"][1:]),
    "null for an empty text": ("name", lambda r: None),
    "one character": ("name", lambda r: r["name"] + " "),
    "another number": ("amount", lambda r: r["amount"][:-1] + "1"),
    "not a number": ("amount", lambda r: "NaN"),
    "the next float": ("price", lambda r: float(np.nextafter(r["price"], np.inf))),
    "a boolean": ("flag", lambda r: not r["flag"]),
    "a microsecond": ("at", lambda r: r["at"] + 1),
    "a type inside json": ("doc", lambda r: r["doc"].replace("[1,", '["1",')),
    "json null for null": ("doc", lambda r: "null"),
}
EMPTY = {"name": "", "doc": None}
WHAT = ("missing", "extra", *FIELD_CHANGES)


@given(
    count=st.integers(1, 40),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    nodes=st.integers(2, 3),
    plants=st.lists(st.tuples(st.integers(0, 39), st.sampled_from(WHAT), st.integers(1, 2)), max_size=8),
    ends=st.booleans(),
)
def test_verifier_finds_everything(count, sizes, nodes, plants, ends):
    held = [Held(f"n{i}", rows(count), sizes[i]) for i in range(nodes)]
    if ends:  # the first and the last row, always worth trying
        plants = [*plants, (0, "extra", 1), (count - 1, "missing", 1)]
    planted: dict[int, tuple[DifferenceKind, tuple[str, ...]]] = {}
    for at, what, node in plants:
        id = at % count
        if id in planted:
            continue
        planted[id] = plant(held, id, what, min(node, nodes - 1))
    found = differences(*held)
    assert [d.key for d in found] == sorted(key(id) for id in planted)
    assert {d.key: (d.kind, d.columns) for d in found} == {key(id): p for id, p in planted.items()}
    for d in found:
        assert set(d.values) == {h.node for h in held}


def plant(held: Sequence[Held], id: int, what: str, node: int) -> tuple[DifferenceKind, tuple[str, ...]]:
    if what == "missing":
        del held[node].rows[id]
        return DifferenceKind.MISSING, ()
    if what == "extra":
        del held[0].rows[id]
        return DifferenceKind.EXTRA, ()
    name, change = FIELD_CHANGES[what]
    if what in ("null for an empty text", "json null for null"):
        for h in held:
            h.rows[id][name] = EMPTY[name]
    held[node].rows[id] = {**held[node].rows[id], name: change(held[node].rows[id])}
    return DifferenceKind.DIFFERENT, (name,)


def test_equal_nodes_have_no_difference_however_they_are_chunked():
    for size in range(1, 9):
        assert differences(Held("a", rows(8), 3), Held("b", rows(8), size)) == []


def test_a_node_without_any_row_misses_them_all():
    found = differences(Held("a", rows(7)), Held("b", {}))
    assert [(d.kind, d.values) for d in found] == [(DifferenceKind.MISSING, {"a": (), "b": None})] * 7
    found = differences(Held("a", {}), Held("b", rows(7)))
    assert {d.kind for d in found} == {DifferenceKind.EXTRA}
    assert differences(Held("a", {}), Held("b", {})) == []


def test_the_values_of_each_node_are_shown():
    a, b = Held("a", rows(3)), Held("b", rows(3))
    b.rows[1] |= {"name": None, "amount": "7"}
    (difference,) = differences(a, b)
    assert difference.table == "t"
    assert difference.columns == ("name", "amount")
    assert difference.values == {"a": ("name 1", "1.50"), "b": (None, "7")}


def test_a_row_missing_on_one_node_and_different_on_another_is_one_difference():
    nodes = [Held("a", rows(3)), Held("b", rows(3)), Held("c", rows(3))]
    del nodes[1].rows[1]
    nodes[2].rows[1]["name"] = "other"
    (difference,) = differences(*nodes)
    assert (difference.kind, difference.columns) == (DifferenceKind.MISSING, ("name",))
    assert difference.values == {"a": ("name 1",), "b": None, "c": ("other",)}


def test_the_wider_nodes_are_compared_with_each_other_too():
    nodes = [Held("mongo", rows(1), engine="mongodb"), Held("a", rows(1)), Held("b", rows(1))]
    nodes[1].rows[0]["at"] = 1
    nodes[2].rows[0]["at"] = 2  # both are 0 in milliseconds
    (difference,) = differences(*nodes)
    assert difference.columns == ("at",)


def test_a_narrower_node_is_no_difference():
    pg, mongo = Held("pg", rows(4)), Held("mongo", rows(4), engine="mongodb")
    pg.rows[1] |= {"at": 1_999, "amount": "0." + "3" * 40, "doc": '{"a": "x", "b": [1.0, 1]}'}
    mongo.rows[1] |= {"at": 1_000, "amount": "0." + "3" * 34}
    assert differences(pg, mongo) == []
    assert differences(mongo, pg) == []
    mongo.rows[1]["at"] = 2_000
    assert [d.columns for d in differences(pg, mongo)] == [("at",)]


def test_values_python_cannot_hold_are_compared_and_shown():
    a, b = Held("a", rows(2)), Held("b", rows(2))
    for node, at in ((a, 2**63 - 1), (b, 400_000_000_000_000_000)):
        node.rows[0]["at"] = at
    (difference,) = differences(a, b)
    assert difference.values == {"a": ("infinity",), "b": ("@400000000000000000",)}
    b.rows[0]["at"] = 2**63 - 1
    assert differences(a, b) == []


def test_rows_on_their_way_are_not_reported():
    a, b = Held("a", rows(9)), Held("b", rows(9))
    a.rows[2]["name"] = "new"
    del b.rows[5]
    b.rows[7]["name"] = "stays different"
    waits = []

    def wait(attempt: int) -> None:
        waits.append(attempt)
        if attempt == 0:
            b.rows[2]["name"] = "new"
        if attempt == 1:
            b.rows[5] = a.rows[5]

    found = list(Verifier([a, b], QuietTime(wait, 3)).compare(TABLE))
    assert [d.key for d in found] == [key(7)]
    assert waits == [0, 1, 2]
    assert a.reads == b.reads == [[key(2), key(5), key(7)], [key(5), key(7)], [key(7)]]


def test_nothing_is_read_again_once_all_is_equal():
    a, b = Held("a", rows(3)), Held("b", rows(3))
    a.rows[2]["name"] = "new"

    def wait(attempt: int) -> None:
        b.rows[2]["name"] = "new"

    assert list(Verifier([a, b], QuietTime(wait, 5)).compare(TABLE)) == []
    assert len(a.reads) == 1


def test_a_row_that_both_nodes_delete_meanwhile_is_equal():
    a, b = Held("a", rows(3)), Held("b", rows(3))
    del b.rows[1]
    assert list(Verifier([a, b], QuietTime(lambda attempt: a.rows.pop(1), 1)).compare(TABLE)) == []


def test_differing_rows_are_read_again_in_bounded_groups(monkeypatch):
    monkeypatch.setattr("replication.verify.RECHECK_ROWS", 4)
    a, b = Held("a", rows(30), 10), Held("b", {})
    assert len(differences(a, b)) == 30
    assert max(map(len, a.reads)) == 4


def test_progress_counts_the_rows():
    done: list[int] = []
    a, b = Held("a", rows(10), 4), Held("b", rows(10), 3)
    list(Verifier([a, b], QuietTime(lambda attempt: None), progress=done.append).compare(TABLE))
    assert sum(done) == 10


@pytest.mark.parametrize("ids", [[1, 3, 2], [1, 1], [1, 2, 2, 3]])
def test_keys_out_of_order_are_an_error_and_not_a_difference(ids):
    class Disordered(Held):
        def chunks(self, table: Table, after: bytes | None = None) -> Iterator[pa.RecordBatch]:
            for at in range(0, len(ids), 2):
                yield batch([row(id) for id in ids[at : at + 2]])

    with pytest.raises(Terminal, match=r"bad: .*order"):
        differences(Held("a", rows(4)), Disordered("bad", {}))


def test_a_node_with_a_filter_holds_what_matches_and_nothing_else():
    where = {"n1": ((Condition("amount", "gte", ("3",)),),)}
    table = Table(replace(TABLE.mapping, where=where), TABLE.schema)
    whole, part = Held("n0", rows(7)), Held("n1", {id: row for id, row in rows(7).items() if id >= 3})
    third = Held("n2", rows(7))
    verify = Verifier([whole, part, third], QuietTime(lambda attempt: None, 1))
    assert list(verify.compare(table)) == []
    del part.rows[5]  # missing
    part.rows[1] = row(1)  # excluded, though the others hold the same
    part.rows[9] = row(9)  # only there
    part.rows[8] = row(8) | {"amount": "1"}  # only there, and excluded
    part.rows[6] = row(6) | {"name": "other"}
    del whole.rows[2], third.rows[0]  # the node with the filter has no part in these
    found = {d.key: d for d in verify.compare(table)}
    assert {key(id): found[key(id)].kind for id in range(10) if key(id) in found} == {
        key(0): "missing", key(1): "extra", key(2): "extra", key(5): "missing", key(6): "different",
        key(8): "extra", key(9): "extra",
    }  # fmt: skip
    assert {k: d.excluded for k, d in found.items() if d.excluded} == {key(1): {"n1"}, key(8): {"n1"}}
    assert (found[key(0)].holders, found[key(0)].absent) == (["n0"], ["n2"])
    assert (found[key(1)].holders, found[key(1)].absent) == (["n0", "n2"], [])
    assert (found[key(8)].holders, found[key(8)].absent) == ([], ["n0", "n2"])
    assert found[key(9)].absent == ["n0", "n2"]
