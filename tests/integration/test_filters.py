"""A node that holds only the rows which match its filter: `qty` of ten and more, on every engine in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.comparison import Manner, compare
from replication.audit.holds import open_holds
from replication.difference import Difference
from replication.schema import Condition
from tests.fixtures.shop import Shop

LEAST = 10
FIXTURES = {"pg": "postgres_db", "my": "mysql_db", "mongo": "mongodb_db"}
SHAPES = [("pg", "mongo", "mongo"), ("my", "mongo", "mongo"), ("pg", "my", "pg"), ("pg", "my", "mongo", "my")]
"""The nodes, then the one with the filter."""


class Filtered(Shop):
    """A shop in which one node has a filter."""

    node: str

    def restrict(self, node: str) -> None:
        """Let `node` hold only some of the rows."""
        self.node = node
        where = {node: ((Condition("qty", "gte", (str(LEAST),)),),)}
        self.tables = [replace(t, mapping=replace(t.mapping, where=where)) for t in self.tables]

    @property
    def other(self) -> str:
        """A node that holds every row."""
        return next(n for n in self.ends if n != self.node)

    def settled(self, seconds: float = 60) -> dict[int, tuple]:
        """Wait until the nodes hold what they should; what those without a filter hold."""
        seen: dict[str, dict] = {}

        def look() -> bool:
            seen.update(self.all_rows())
            whole = seen[self.other]
            due = {k: row for k, row in whole.items() if row[1] is not None and row[1] >= LEAST}
            return all(rows == (due if n == self.node else whole) for n, rows in seen.items())

        self.wait_for(look, seconds, lambda: str(seen)[:2000])
        return seen[self.other]

    def until(self, done: Callable[[dict[int, tuple]], bool]) -> None:
        """Wait until the nodes hold what they should, and `done` says so of the whole."""
        self.wait_for(lambda: done(self.ends[self.other].rows()))
        self.settled()

    def differences(self) -> list[Difference]:
        """What `verify` finds."""
        (result,) = compare(list(self.engines.values()), self.tables, Manner(quiet_time=0.2, tries=1))
        return result.shown


@pytest.fixture(params=SHAPES, ids="-".join)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filtered]:
    *nodes, node = request.param
    shop = Filtered({n: request.getfixturevalue(FIXTURES[n]) for n in nodes}, tmp_path / "audit")
    shop.restrict(node)
    try:
        yield shop
    finally:
        shop.close()


def test_rows_enter_and_leave(shop: Filtered) -> None:
    """Written at either end, and once more after a restart, which reads the filtered node's echoes again."""
    shop.start()
    here, there = shop.ends[shop.node], shop.ends[shop.other]
    for round in range(2):
        base = 10 * round
        for key, qty in enumerate((5, 15, 5, 15), base):
            there.insert(key, "there", qty)
        shop.until(lambda rows, base=base: base + 3 in rows)
        assert there.update(base, 20) == 1, "enters: it is inserted whole"
        assert there.update(base + 1, 6) == 1, "leaves by a change elsewhere"
        assert there.delete(base + 2) == 1, "was never there"
        assert here.update(base + 3, 7) == 1, "leaves by a change of its own"
        here.insert(base + 4, "here", 8)  # outside from the start
        here.insert(base + 5, "here", 50)
        shop.until(lambda rows, base=base: base + 5 in rows and rows[base + 3][1] == 7 and base + 4 in rows)
        assert here.delete(base + 5) == 1, "a true delete, which goes everywhere"
        there.insert(base + 6, "last", 60)
        shop.until(lambda rows, base=base: base + 5 not in rows and base + 6 in rows)
        shop.pipeline.stop()
        assert there.update(base + 4, 40) == 1  # nobody looks: the next one learns all this from the logs
        assert there.update(base, 1) == 1
        assert here.update(base + 6, 2) == 1
        shop.start()
        shop.until(lambda rows, base=base: (rows[base + 6][1], rows[base + 4][1]) == (2, 40))
    rows = shop.settled()
    left = {0: ("there", 1), 1: ("there", 6), 3: ("there", 7), 4: ("here", 40), 6: ("last", 2)}
    assert rows == left | {key + 10: row for key, row in left.items()}
    assert not shop.differences()
    shop.pipeline.stop()
    assert not shop.recorded("conflicts")
    outside = {d["_node"] for d in shop.recorded("decisions") if d["outcome"] == "outside"}
    assert outside == {shop.node}


def test_a_copy_brings_what_matches(shop: Filtered) -> None:
    """To the filtered node, which held rows before: those that the right node's rows exclude go."""
    here, there = shop.ends[shop.node], shop.ends[shop.other]
    for key in range(1, 41):
        there.insert(key, "right", key)
    for key in range(1, 41, 3):
        here.insert(key, "wrong", 99)
    shop.copy_from(shop.other)
    shop.start()
    rows = shop.settled()
    assert rows == {key: ("right", key) for key in range(1, 41)}


def test_a_copy_from_a_filtered_node_leaves_what_it_excludes(shop: Filtered) -> None:
    """Rows that were outside before the group began neither travel nor go; `verify` tells of them."""
    here, there = shop.ends[shop.node], shop.ends[shop.other]
    here.insert(1, "outside", 1)
    here.insert(20, "inside", 20)
    shop.copy_from(shop.node)
    shop.start()
    shop.wait_for(lambda: 20 in there.rows() and all(c.finished for c in shop.pipeline.copies))
    assert set(there.rows()) == {20}
    assert set(here.rows()) == {1, 20}
    (found,) = shop.differences()
    assert (found.kind, found.excluded) == ("extra", {shop.node})
    assert here.update(1, 2) == 1  # a change travels, and the node loses the row
    shop.until(lambda rows: 1 in rows)
    assert set(here.rows()) == {20}


def test_a_row_that_another_node_refuses_stays_where_it_was_written(
    postgres_db: str, mysql_db: str, tmp_path: Path
) -> None:
    shop = Filtered({"pg": postgres_db, "my": mysql_db}, tmp_path / "audit")
    try:
        shop.restrict("my")
        shop.ends["pg"].execute("ALTER TABLE orders ADD CHECK (name <> 'bad')")
        shop.start()
        shop.ends["my"].insert(1, "bad", 1)
        shop.ends["my"].insert(2, "good", 2)
        shop.wait_row("pg", 2, lambda row: row is not None)
        shop.wait_row("my", 2, lambda row: row is None)
        shop.pipeline.stop()
        assert shop.all_rows() == {"pg": {2: ("good", 2)}, "my": {1: ("bad", 1)}}
        assert [h["key_text"] for h in open_holds(shop.folder)] == ["1"]
    finally:
        shop.close()
