"""The initial copy: against a bare COPY into the same target, and by several readers of a node far away."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import psycopg

from actors.limits import Limits
from cluster.servers.mysql_programs import NoMysql
from load.bench_bed import Bed, Group, Line, Sizes
from load.bench_flow import timed
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect

GOAL = 0.5
ROUND_TRIP_SECONDS = 0.005
WORKERS = (1, 2, 4)
NAMES = (
    "backfill postgres -> postgres",
    "backfill postgres -> mysql",
    *(f"backfill from afar, workers {n}" for n in WORKERS),
)
_INTO_BARE = "COPY bare FROM STDIN"
_FOR_MYSQL = """COPY (SELECT id, name, qty, price, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
 flag::int, note FROM bench) TO STDOUT"""


def measure(bed: Bed, sizes: Sizes) -> Iterable[Line]:
    """Every line of this file."""
    yield _backfill(bed, sizes, "postgres", _copy_to_postgres)
    try:
        yield _backfill(bed, sizes, "mysql", _copy_to_mysql)
    except NoMysql as error:
        yield Line(NAMES[1], str(error))
    for workers in WORKERS:
        yield _from_afar(bed, sizes, workers)


def _backfill(bed: Bed, sizes: Sizes, target: str, bare: Callable[[Group], float]) -> Line:
    """Our copy of a table, then a bare one of the same table into an empty one beside it."""
    with Group(bed, target, initial="a") as group:
        group.fill(sizes.rows)
        elapsed, sampler = timed(group, sizes)
        rate, limit = sizes.rows / elapsed, sizes.rows / bare(group)
    figure, ratio = f"{rate:,.0f} rows/s (bare {limit:,.0f})", rate / limit
    name = f"backfill postgres -> {target}"
    return Line(name, figure, f"{ratio:.2f}", f">= {GOAL:.2f}", ratio >= GOAL, sampler.verdict())


def _from_afar(bed: Bed, sizes: Sizes, workers: int) -> Line:
    """Our copy from a node whose answers take a round trip, by so many readers."""
    proxy_class: Any = import_module("tests.fixtures.proxy").FaultProxy
    server = bed.servers[0]
    with proxy_class("127.0.0.1", server.port) as proxy, Group(bed, initial="a", port=proxy.port) as group:
        group.fill(sizes.rows)
        proxy.delay(ROUND_TRIP_SECONDS / 2)
        elapsed, sampler = timed(group, sizes, Limits(copy_workers=workers))
        group.stop()
    figure = f"{sizes.rows / elapsed:,.0f} rows/s"
    limit = f"{ROUND_TRIP_SECONDS * 1000:.0f} ms of round trip to the source; {sampler.verdict()}"
    return Line(f"backfill from afar, workers {workers}", figure, limit=limit)


def _copy_to_postgres(group: Group) -> float:
    with psycopg.connect(group.left) as source, psycopg.connect(group.right) as target:
        target.execute("CREATE TABLE bare (LIKE bench INCLUDING ALL)")
        target.commit()
        began = time.perf_counter()
        with source.cursor().copy("COPY bench TO STDOUT") as out, target.cursor().copy(_INTO_BARE) as to:
            for block in out:
                to.write(block)
        target.commit()
        return time.perf_counter() - began


def _copy_to_mysql(group: Group) -> float:
    """Through a pipe: the server reads what PostgreSQL writes."""
    node = parse(group.engines["b"].node)
    with (
        tempfile.TemporaryDirectory(prefix="pipe-", dir=group.bed.folder) as folder,
        closing(connect(node, local_infile=True)) as c,
    ):
        c.query("CREATE TABLE bare LIKE bench")
        pipe = Path(folder) / "rows"
        os.mkfifo(pipe)
        writer = threading.Thread(target=_write_rows, args=(group.left, pipe))
        began = time.perf_counter()
        writer.start()
        c.query(f"LOAD DATA LOCAL INFILE '{pipe}' INTO TABLE bare CHARACTER SET utf8mb4")
        seconds = time.perf_counter() - began
        writer.join()
        with c.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM (TABLE bench EXCEPT TABLE bare) AS d")
            assert cursor.fetchone() == (0,), "both ways must have written the same rows"
    return seconds


def _write_rows(dsn: str, pipe: Path) -> None:
    file: BinaryIO
    with psycopg.connect(dsn) as source, pipe.open("wb") as file, source.cursor().copy(_FOR_MYSQL) as out:
        for block in out:
            file.write(block)
