"""Case 27 while applications write: what is on its way is no difference, and what was planted is found."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.comparison import Manner, compare
from replication.difference import Difference, DifferenceKind
from replication.schema import Table
from tests.fixtures.ends import ENGINES, End, open_end
from tests.fixtures.parts import parts_of
from tests.fixtures.shop import Shop

ROWS = 400
HOT = (1, 2, 3)
PLANTED = {10: DifferenceKind.MISSING, 11: DifferenceKind.DIFFERENT, 500: DifferenceKind.EXTRA}
COMPARISONS = {2: 5, 3: 2}
"""By number of nodes; rows that all change at once are slow on their way to MongoDB."""


class Hammer:
    """Writes to one end as fast as it can, rows that all ends write among them, and few values again and
    again: a row that is read twice may be the same though it was changed in between.
    """

    def __init__(self, end: End, own: range) -> None:
        self.made = 0
        self.error: BaseException | None = None
        self._end, self._own = end, own
        self._random = random.Random(own.start)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hammer-{end.node}")
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join()
        self._end.close()

    def _run(self) -> None:
        try:
            while not self.stopping.wait(0.002):
                key = self._random.choice(HOT if self.made % 2 else self._own)
                if self._random.random() < 0.2:
                    self._end.delete(key)
                else:
                    self._end.put(key, self._random.choice("ab"), self._random.randrange(2), whole=True)
                self.made += 1
        except Exception as error:  # noqa: BLE001  the test looks at it
            self.error = error


def without_doc(table: Table) -> Table:
    """JSON has no checksum; of what is left every type has."""
    columns = tuple(c for c in table.schema.columns if c.name != "doc")
    return replace(table, schema=replace(table.schema, columns=columns))


@pytest.fixture(params=[("pg", "my"), ("pg", "my", "mongo")], ids="-".join)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    dsns = {node: request.getfixturevalue(f"{ENGINES[node]}_db") for node in request.param}
    shop = Shop(dsns, tmp_path)
    shop.tables = [without_doc(t) for t in shop.tables]
    for end in shop.ends.values():
        end.fill(1, ROWS)
    last = shop.ends[request.param[-1]]
    last.delete(10)
    last.update(11, -1)
    last.insert(500, "extra", 0)
    shop.start()
    yield shop
    shop.close()


def differences(shop: Shop, manner: Manner) -> dict[int, Difference]:
    engines = [shop.engines[n] for n in shop.ends]
    (result,) = compare(engines, shop.tables, manner)
    assert (result.chunks.read > 0) == ("mongo" not in shop.ends), "where all have checksums, they tell"
    return {int.from_bytes(d.key, "big") - (1 << 63): d for d in result.kept}


def test_only_real_differences_count_while_everybody_writes(shop: Shop) -> None:
    first = 100
    hammers = []
    for node in shop.ends:
        dsn = shop.engines[node].node.dsn
        hammers.append(Hammer(open_end(node, dsn), range(first, first + 50)))
        first += 50
    manner = Manner(limit=1_000, group=lambda: parts_of(shop.pipeline), patience=300, chunk_rows=20)
    try:
        found = [differences(shop, manner) for _ in range(COMPARISONS[len(hammers)])]
    finally:
        for hammer in hammers:
            hammer.stop()
    assert [h.error for h in hammers] == [None] * len(hammers)
    for one in found:
        certain = {key: d.kind for key, d in one.items() if d.kind is not DifferenceKind.CHANGING}
        assert certain == PLANTED, {k: d for k, d in one.items() if k not in PLANTED}
    assert differences(shop, manner).keys() == PLANTED.keys(), "at rest there is no doubt"


def test_what_a_node_has_not_received_is_in_doubt(shop: Shop) -> None:
    """A change that never arrives while it is waited for is no difference, nor is it equal."""
    shop.pipeline.resolvers[0].stop()  # nothing is sent from now on
    shop.ends["pg"].update(20, 5)
    waiting: Callable[[], bool] = lambda: shop.pipeline.resolvers[0].on_their_way("orders") != []  # noqa: E731
    shop.wait_for(waiting, 60, lambda: "nothing was read")
    found = differences(shop, Manner(limit=1_000, group=lambda: parts_of(shop.pipeline), patience=0.5))
    assert {k: d.kind for k, d in found.items()} == dict.fromkeys((*PLANTED, 20), DifferenceKind.CHANGING)
