"""What must hold on every pair of engines and on all three: cases 15, 16, 17, 18, 20 and 22, in one process.

TURNS, WRITES and COPIED make the runs of cases 17, 18 and 20 longer; STALL says for how many seconds a
connection stands still in case 22. With ROWS, so many rows are copied on three nodes, and each end is written
to, up to 500 times a second, until all of them are.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from replication.key import encode_key
from replication.types import Kind
from tests.fixtures.ends import End, open_end, through
from tests.fixtures.ledger import Ledger, check_applied_once, check_fates
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.shop import Shop
from tests.fixtures.writer import Writer

SHAPES = [("pg", "mongo"), ("pg", "my"), ("my", "mongo"), ("pg", "my", "mongo")]
FIXTURES = {"pg": "postgres_db", "my": "mysql_db", "mongo": "mongodb_db"}
STALL = float(os.environ.get("STALL", "0.5"))
SHARED = range(1, 16)
OUTSIDE = 10_000_000
"""Keys that are not copied begin here."""


def size(name: str, usual: int, elsewhere: int, shape: tuple[str, ...]) -> int:
    """How large a run is: as the environment says, else `usual` on the first pair and less on the others."""
    return int(os.environ.get(name, usual if shape == SHAPES[0] else elsewhere))


@pytest.fixture(params=SHAPES, ids="-".join)
def shape(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture
def dsns(request: pytest.FixtureRequest, shape: tuple[str, ...]) -> dict[str, str]:
    return {n: request.getfixturevalue(FIXTURES[n]) for n in shape}


@pytest.fixture
def shop(dsns: dict[str, str], tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(dsns, tmp_path / "audit")
    try:
        yield shop
    finally:
        shop.close()


def writers_of(shop: Shop, dsns: dict[str, str], pause: float) -> list[Writer]:
    """A writer at each end, with sixty keys of its own.

    The first one's are among those that are copied from there. The others' are not: an application that
    changes a part of a row while a copy takes its place for a moment builds on the copy (ADR 4).
    """
    starts = [1000, OUTSIDE, 2 * OUTSIDE]
    return [
        Writer(open_end(n, dsn), i, len(dsns), i, range(starts[i], starts[i] + 60), SHARED, pause)
        for i, (n, dsn) in enumerate(dsns.items())
    ]


def check(shop: Shop, writers: list[Writer]) -> None:
    """All is equal; every write is there or lost a conflict, once; what one alone wrote met no conflict."""
    for writer in writers:
        writer.stop()
    shop.ends[next(iter(shop.ends))].insert(99_999_999, "last", 0)
    rows = shop.wait_equal(300, present=99_999_999)
    shop.pipeline.stop()
    for writer in writers:
        writer.check_own(rows)
        writer.ledger.check_captured(shop.recorded_of({*writer.own, *writer.shared})("changes/orders"))
    keys = {*SHARED, *(k for w in writers for k in w.own)}
    check_fates(rows, shop.recorded_of(keys), keys)


def test_one_row_applies_once(shop: Shop) -> None:
    """Case 15: one write gives exactly one apply at each other node, then silence; in every direction."""
    shop.start()
    nodes = list(shop.ends)
    for key, node in enumerate([*nodes, nodes[0]]):  # the last is behind every echo of the first
        shop.ends[node].insert(key, node, 1000 + key)
        shop.wait_equal(present=key)
    shop.pipeline.stop()
    key_of = {encode_key((k,), [Kind.INT64]): k for k in range(len(nodes) + 1)}
    key_of |= {encode_key((k,), [Kind.INT32]): k for k in range(len(nodes) + 1)}
    applied = Counter((d["_node"], key_of[d["_key"]]) for d in shop.recorded("decisions"))
    born = dict(enumerate([*nodes, nodes[0]]))
    assert applied == Counter((n, k) for k, home in born.items() for n in nodes if n != home)
    assert Counter((c["_node"], c["id"]) for c in shop.recorded("changes/orders")) == Counter(
        (home, k) for k, home in born.items()
    )
    assert not shop.recorded("conflicts")


def test_born_elsewhere_updated_here(shop: Shop) -> None:
    """Case 16: an update at B to a row that was born at A reaches A, and every other node."""
    shop.start()
    directions = [(a, b) for a in shop.ends for b in shop.ends if a != b]
    for key, (born, updated) in enumerate(directions):
        shop.ends[born].insert(key, born, 1000 + key)
        shop.wait_row(updated, key, lambda row: row is not None)
        assert shop.ends[updated].update(key, 2000 + key) == 1
        for node in shop.ends:
            shop.wait_row(node, key, lambda row, key=key: row is not None and row[1] == 2000 + key)
    rows = shop.wait_equal()
    assert {k: name for k, (name, _) in rows.items()} == {k: a for k, (a, _) in enumerate(directions)}
    shop.pipeline.stop()
    assert not shop.recorded("conflicts")
    check_applied_once(shop.recorded("decisions"))
    check_fates(rows, shop.recorded)


def test_no_conflict_without_concurrency(shop: Shop, shape: tuple[str, ...]) -> None:
    """Case 17: alternating updates of one row, each after seeing the other's: no conflict, nothing lost."""
    shop.start()
    turns = size("TURNS", 300, 60, shape)
    nodes = list(shop.ends)
    shop.ends[nodes[0]].insert(1, "n", 0)
    for turn in range(turns):
        node = nodes[(turn + 1) % len(nodes)]
        shop.wait_row(node, 1, lambda row, turn=turn: row is not None and row[1] == turn)
        assert shop.ends[node].add(1) == 1
    for node in nodes:
        shop.wait_row(node, 1, lambda row: row == ("n", turns))
    shop.pipeline.stop()
    assert not shop.recorded("conflicts")
    check_applied_once(shop.recorded("decisions"))


def test_simultaneous_writes_converge(shop: Shop, dsns: dict[str, str], shape: tuple[str, ...]) -> None:
    """Case 18: all write the same keys before hearing of each other; each true conflict is recorded once."""
    shop.start()
    writes = size("WRITES", 1000, 300, shape)
    first = next(iter(shop.ends.values()))
    for key in range(1, 6):
        first.insert(key, "n", -key)
    shop.wait_equal(present=5)
    ledgers = [Ledger(n) for n in dsns]
    errors: list[BaseException] = []

    def write(number: int, end: End, ledger: Ledger) -> None:
        try:
            for i in range(writes):
                value, key = number + len(dsns) * i, 1 + i % 5
                ledger.puts[value] = key
                surely(end, key, value)
        except BaseException as error:  # noqa: BLE001  the test raises it
            errors.append(error)
        finally:
            end.close()

    threads = [
        threading.Thread(target=write, args=(i, open_end(n, dsn), ledgers[i]))
        for i, (n, dsn) in enumerate(dsns.items())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    first.insert(99, "end", 0)
    rows = shop.wait_equal(120, present=99)
    shop.pipeline.stop()
    conflicts = shop.recorded("conflicts")
    assert conflicts
    assert {n for c in conflicts for n in (c["left_node"], c["right_node"])} == set(dsns)
    written = [c for c in shop.recorded("changes/orders") if c["qty"] is not None and c["qty"] >= 0]
    for ledger in ledgers:
        ledger.check_captured([c for c in written if c["id"] < 99])
    check_fates(rows, shop.recorded, range(1, 6))


def surely(end: End, key: int, value: int) -> None:
    """Update a row, however often the database gives the lock to somebody else."""
    while True:
        try:
            assert end.update(key, value) == 1
            return
        except end.lost:
            continue


def test_backfill_under_load(shop: Shop, dsns: dict[str, str], shape: tuple[str, ...]) -> None:
    """Case 20: the initial copy runs while every end is written to, and is stopped once meanwhile."""
    whole = "ROWS" in os.environ and shape == SHAPES[-1]
    copied = int(os.environ["ROWS"]) if whole else size("COPIED", 100_000, 3_000, shape)
    source, patience = shape[0], 600 + copied / 100
    shop.ends[source].fill(1, copied)
    shop.copy_from(source)
    shop.start()
    writers = writers_of(shop, dsns, 0.002 if whole else 0.03)
    try:
        shop.wait_for(lambda: all(w.made > 50 for w in writers), 600)
        shop.pipeline.stop()
        shop.start()
        shop.wait_for(lambda: all(w.made > 100 for w in writers), 600)
        if whole:
            shop.wait_for(lambda: all(c.finished for c in shop.pipeline.copies), patience)
    finally:
        for writer in writers:
            writer.stop()
    shop.wait_for(lambda: all(c.finished for c in shop.pipeline.copies), patience)
    check(shop, writers)


def test_connections_are_cut(dsns: dict[str, str], tmp_path: Path) -> None:
    """Case 22, in part: each node's connections are cut, refused and stalled under load."""
    with ExitStack() as stack:
        proxies = {}
        for node, dsn in dsns.items():
            at = urlsplit(dsn)
            assert at.hostname
            assert at.port
            proxies[node] = stack.enter_context(FaultProxy(at.hostname, at.port))
        shop = Shop({n: through(dsn, proxies[n].port) for n, dsn in dsns.items()}, tmp_path / "audit", dsns)
        stack.callback(shop.close)
        shop.start()
        writers = writers_of(shop, dsns, 0.02)
        for writer in writers:
            stack.callback(writer.abandon)
        for number, proxy in enumerate(proxies.values()):
            proxy.cut()
            moves(shop, 10 * number)
            proxy.refuse()
            proxy.cut()
            shop.pipeline.stopping.wait(STALL)
            proxy.accept()
            moves(shop, 10 * number + 1)
            proxy.pause()
            shop.pipeline.stopping.wait(STALL)
            proxy.resume()
            moves(shop, 10 * number + 2)
        check(shop, writers)


def moves(shop: Shop, number: int) -> None:
    """A new row at each end comes to every other."""
    for i, (node, end) in enumerate(shop.ends.items()):
        key = 10_000 * (i + 1) + number
        end.insert(key, "probe", -key)
        for other in shop.ends:
            if other != node:
                shop.wait_row(other, key, lambda row: row is not None)
