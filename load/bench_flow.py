"""The whole flow: drain of a backlog, initial copy, processor time, and latency from commit to visible."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread

import psycopg

from load.bench_bed import FILL, Bed, Group, Line, Sampler, Sizes, fill, percentile

WRITERS = 4
OBSERVE_SECONDS = 0.001
P50_GOAL, P99_GOAL = 15.0, 50.0


def drain(bed: Bed, sizes: Sizes, bare: float, target: str = "postgres") -> list[Line]:
    """Write while the group is stopped, then start it and time until the target has everything.

    Args:
        bed: the servers.
        sizes: how many rows.
        bare: rows per second that the target takes bare; 0 when unknown.
        target: the engine of the target.
    """
    with Group(bed, target) as group:
        fill(group.left, 1, sizes.rows)
        elapsed, sampler = _timed(group, sizes)
    rate = sizes.rows / elapsed
    ratio = f"{rate / bare:.2f}" if bare else ""
    figure = f"{rate:,.0f} rows/s"
    name = f"drain postgres -> {target}"
    seconds = sampler.cpu / sizes.rows * 1e6
    return [
        Line(name, figure, ratio, limit=sampler.verdict()),
        Line(f"processor, {name[6:]}", f"{seconds:.1f} s per million rows", limit=_top(sampler)),
    ]


def copy(bed: Bed, sizes: Sizes, bare: float) -> Line:
    """The initial copy of a table that nobody writes to."""
    with Group(bed, initial="a") as group:
        fill(group.left, 1, sizes.rows)
        elapsed, sampler = _timed(group, sizes)
    rate = sizes.rows / elapsed
    return Line(
        "initial copy", f"{rate:,.0f} rows/s", f"{rate / bare:.2f}" if bare else "", limit=sampler.verdict()
    )


def _timed(group: Group, sizes: Sizes) -> tuple[float, Sampler]:
    with closing(_Arrived(group, sizes.rows)) as arrived, Sampler() as sampler:
        began = time.perf_counter()
        group.start()
        group.wait(arrived.last, sizes.patience)
        group.wait(arrived.every, sizes.patience)
        elapsed = time.perf_counter() - began
    group.stop()
    return elapsed, sampler


def _top(sampler: Sampler) -> str:
    whole = sum(sampler.threads.values()) or 1
    return ", ".join(f"{t} {n / whole:.0%}" for t, n in sampler.threads.most_common(4))


class _Arrived:
    """Whether the target has the rows: cheaply the last one, then all of them."""

    def __init__(self, group: Group, rows: int) -> None:
        self._rows = rows
        self.close: Callable[[], None]
        if group.target == "postgres":
            self._sql = psycopg.connect(group.right, autocommit=True)
            self.last, self.every, self.close = self._last, self._every, self._sql.close
        else:
            snapshot = group.engines["b"].snapshot()
            table = group.tables[0]
            self.every = lambda: snapshot.estimate_rows(table) == rows
            self.last, self.close = self.every, snapshot.close

    def _last(self) -> bool:
        found = self._sql.execute("SELECT 1 FROM bench WHERE id = %s", [self._rows], prepare=True)
        return found.fetchone() is not None

    def _every(self) -> bool:
        return self._sql.execute("SELECT count(*) FROM bench").fetchone() == (self._rows,)


def latency(bed: Bed, sizes: Sizes) -> list[Line]:
    """Single inserts at a steady rate; writers and observer are processes of their own.

    A row's time starts with the source's commit timestamp and ends when a reader of the target sees it.
    """
    count = int(sizes.rate * sizes.seconds)
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with Group(bed) as group:
        group.start()
        fill(group.left, 1, 1)
        with closing(_Arrived(group, 1)) as arrived:
            group.wait(arrived.every, sizes.patience)
        observer = context.Process(target=observe, args=(group.right, 2, count, theirs, sizes.patience))
        writer = context.Process(target=write, args=(group.left, 2, count, sizes.rate))
        observer.start()
        try:
            ours.recv()  # it is connected
            with Sampler() as sampler:
                writer.start()
                writer.join()
                seen: dict[int, float] = ours.recv()
        finally:
            for process in (writer, observer):
                if process.is_alive():
                    process.terminate()
                if process.pid is not None:
                    process.join()
        committed, rate = _committed(group.left)
        group.stop()
    for end in (ours, theirs):
        end.close()
    delays = [(seen[i] - committed[i]) * 1000 for i in range(2, count + 2)]
    p50, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
    under = f"at {rate:,.0f} changes/s"
    held = rate >= 0.9 * sizes.rate  # else the writers had no time to write, and the goal was not tried
    return [
        Line(
            "latency p50",
            f"{p50:.1f} ms {under}",
            "",
            "<= 15 ms",
            held and p50 <= P50_GOAL,
            sampler.verdict(),
        ),
        Line("latency p99", f"{p99:.1f} ms {under}", "", "<= 50 ms", held and p99 <= P99_GOAL, _top(sampler)),
    ]


def _committed(dsn: str) -> tuple[dict[int, float], float]:
    """Commit time of every row, seconds since 1970, and how many there were per second."""
    query = "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM bench WHERE id > 1"
    with psycopg.connect(dsn) as c:
        times: dict[int, float] = dict(c.execute(query).fetchall())
    span = max(times.values()) - min(times.values())
    return times, len(times) / span if span else 0.0


def write(dsn: str, first: int, count: int, rate: int) -> None:
    """Insert rows one by one, each a transaction, spread evenly over time."""
    began = time.monotonic() + 0.2

    def insert(offset: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as c:
            for i in range(offset, count, WRITERS):
                time.sleep(max(0.0, began + i / rate - time.monotonic()))
                c.execute(FILL, [first + i, first + i], prepare=True)

    threads = [Thread(target=insert, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def observe(dsn: str, first: int, count: int, answer: Connection, patience: float) -> None:
    """Note when each row is first seen; answers a dictionary from id to seconds since 1970."""
    seen: dict[int, float] = {}
    low, query = first, "SELECT id FROM bench WHERE id >= %s ORDER BY id"
    with psycopg.connect(dsn, autocommit=True) as c:
        c.execute(query, [low], prepare=True)
        answer.send(None)
        deadline = time.monotonic() + patience
        while len(seen) < count and time.monotonic() < deadline:
            found = c.execute(query, [low], prepare=True).fetchall()
            now = time.time()
            for (number,) in found:
                seen.setdefault(number, now)
            while low in seen:
                low += 1
            time.sleep(OBSERVE_SECONDS)
    answer.send(seen)
    answer.close()
