"""The whole flow: drain of a backlog, initial copy, processor time, and latency from commit to visible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from threading import Thread
from typing import Any

import psycopg
from pymysql.connections import Connection

from actors.limits import Limits
from cluster.servers.mysql_programs import NoMysql
from load.bench_bed import FILL, Bed, Group, Line, Sampler, Sizes, fill, percentile
from replication.batch import Applied, ApplyBatch
from replication.engine import Applier, Engine
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import Table

WRITERS = 4
P50_GOAL, P99_GOAL = 15.0, 50.0


def drain(bed: Bed, sizes: Sizes, bare: float, way: str, goal: float = 0.0) -> list[Line]:
    """Write while the group is stopped, then start it and time until the target has everything.

    Args:
        bed: the servers.
        sizes: how many rows.
        bare: rows per second of the slower bare stage, which is the target's; 0 when unknown.
        way: the engines, as in `postgres -> mysql`.
        goal: the share of `bare` that is asked for; 0 for none.
    """
    source, _, target = way.split()
    name = f"drain {way}"
    try:
        with Group(bed, target, source=source) as group:
            group.fill(sizes.rows)
            elapsed, sampler = timed(group, sizes)
    except NoMysql as error:
        return [Line(name, str(error))]
    rate = sizes.rows / elapsed
    ratio = rate / bare if bare else 0.0
    figure = f"{rate:,.0f} rows/s" + (f" (bare {bare:,.0f})" if bare else "")
    asked, met = (f">= {goal:.2f}", ratio >= goal) if goal and bare else ("", None)
    seconds = sampler.cpu / sizes.rows * 1e6
    return [
        Line(name, figure, f"{ratio:.2f}" if bare else "", asked, met, sampler.verdict()),
        Line(f"processor, {way}", f"{seconds:.1f} s per million rows", limit=_top(sampler)),
    ]


def copy(bed: Bed, sizes: Sizes, bare: float) -> Line:
    """The initial copy of a table that nobody writes to."""
    with Group(bed, initial="a") as group:
        group.fill(sizes.rows)
        elapsed, sampler = timed(group, sizes)
    rate = sizes.rows / elapsed
    return Line(
        "initial copy", f"{rate:,.0f} rows/s", f"{rate / bare:.2f}" if bare else "", limit=sampler.verdict()
    )


def timed(group: Group, sizes: Sizes, limits: Limits | None = None) -> tuple[float, Sampler]:
    """Start the group, and stop it once the target has every row: seconds, and who took the processor."""
    with closing(_Arrived(group, sizes.rows)) as arrived, Sampler() as sampler:
        began = time.perf_counter()
        group.start(limits)
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
        self.last: Callable[[], bool]
        self.every: Callable[[], bool]
        self.close: Callable[[], None]
        if group.target == "mysql":
            mysql = connect(parse(group.engines["b"].node))
            self.last, self.every = partial(_last, mysql, rows), partial(_every, mysql, rows)
            self.close = mysql.close
        elif group.target == "postgres":
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


def _last(c: Connection, rows: int) -> bool:
    return _ask(c, f"SELECT 1 FROM bench WHERE id = {rows}") is not None


def _every(c: Connection, rows: int) -> bool:
    return _ask(c, "SELECT COUNT(*) FROM bench") == (rows,)


def _ask(c: Connection, query: str) -> tuple[Any, ...] | None:
    with c.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


def latency(bed: Bed, sizes: Sizes) -> list[Line]:
    """Single inserts at a steady rate, by writers in a process of their own.

    A row's time starts with the source's commit timestamp, and ends when the target has answered our COMMIT:
    by then every reader sees the row. A reader that asks for it thousands of times a second would tell the
    same, and take a good part of two cores.
    """
    count = int(sizes.rate * sizes.seconds)
    with Group(bed) as group:
        noted = group.engines["b"] = _Noted(group.engines["b"])
        group.start()
        fill(group.left, 1, 1)
        with closing(_Arrived(group, 1)) as arrived:
            group.wait(arrived.every, sizes.patience)
        writer = get_context("spawn").Process(target=write, args=(group.left, 2, count, sizes.rate))
        with Sampler() as sampler, closing(_Arrived(group, count + 1)) as arrived:
            writer.start()
            writer.join()
            group.wait(arrived.every, sizes.patience)
        committed, rate = commit_times(group.left)
        group.stop()
    visible = noted.times()
    delays = [(visible[i] - committed[i]) * 1000 for i in range(2, count + 2)]
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


class _Noted:
    """An engine whose applier notes when each batch was committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._batches: list[tuple[ApplyBatch, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> Applier:
        """See `Engine.applier`."""
        applier = self._engine.applier(tables, sources)
        return _NotedApplier(applier, self._batches)

    def times(self) -> dict[int, float]:
        """When each row was there, seconds since 1970, by id."""
        times: dict[int, float] = {}
        for batch, at in self._batches:
            for part in batch.tables:
                for number in part.rows.column("id").to_pylist():
                    times.setdefault(number, at)
        return times


class _NotedApplier:
    def __init__(self, applier: Applier, batches: list[tuple[ApplyBatch, float]]) -> None:
        self._applier = applier
        self._batches = batches
        self.close = applier.close

    def apply(self, batch: ApplyBatch) -> Applied:
        applied = self._applier.apply(batch)
        self._batches.append((batch, time.time()))
        return applied


def commit_times(dsn: str) -> tuple[dict[int, float], float]:
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
