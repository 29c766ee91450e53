"""MySQL's stages: apply against a bare multi-row upsert, and capture against a goal in rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from cluster.servers.mysql import MysqlServer
from cluster.servers.mysql_programs import NoMysql
from load.bench_bed import GROUP, Line, Sampler, Sizes, read_table
from load.bench_mysql_bed import DDL, OPTIONS, fill
from load.bench_stages import arrow_batches, poll
from replication.batch import ApplyBatch, Outcome, TableRows
from replication.engine import Engine
from replication.engines import load_engine
from replication.engines.mysql.literals import literals, rows_of_literals
from replication.engines.mysql.types import local_type
from replication.marker import Marker
from replication.schema import NodeConfig, Table, TableMapping

MAPPING = TableMapping("bench", ("id",), {"a": "bench"})
CAPTURE_GOAL = 250_000
_DATABASE = "bench"
_ROWS_AT_ONCE = 1_000


def measure(sizes: Sizes) -> tuple[list[Line], float]:
    """Both stages, on a server of their own; without one the lines say why.

    Returns:
        the lines, and the rows per second of a bare upsert, which bounds every target; 0 if it is unknown.
    """
    with tempfile.TemporaryDirectory(prefix="sync-bench-mysql-") as folder:
        try:
            server = MysqlServer(Path(folder), options=OPTIONS)
        except NoMysql as error:
            return [Line(name, str(error)) for name in ("capture mysql", "apply mysql")], 0.0
        with server:
            node = NodeConfig("a", "mysql", server.create_database(_DATABASE))
            return _measure(server, load_engine(node, GROUP), sizes)


def _measure(server: MysqlServer, engine: Engine, sizes: Sizes) -> tuple[list[Line], float]:
    with server.connect(_DATABASE) as c:
        c.query(DDL.format("bench"))
        table = read_table(engine, MAPPING)
        with closing(engine.control()) as control:
            start = control.prepare([table])
            (marker,) = control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
        fill(c, sizes.rows)
        seconds = []
        for _ in range(2):
            with Sampler() as sampler:
                seconds.append(poll(engine, table, start, sizes.rows))
        rate = sizes.rows / min(seconds)
        goal = f">= {CAPTURE_GOAL // 1000} k/s"
        captured = Line(
            "capture mysql", f"{rate:,.0f} rows/s", "", goal, rate >= CAPTURE_GOAL, sampler.verdict()
        )
        batches = arrow_batches(engine, table, sizes.batch)
        c.query("DROP TABLE bench")
        c.query(DDL.format("bench"))
    with Sampler() as sampler:
        bare, ours = _alternate(server, engine, table, marker, batches)
    limit, rate = 2 * sizes.rows / bare, 2 * sizes.rows / ours
    figure = f"{rate:,.0f} rows/s (bare {limit:,.0f})"
    ratio = rate / limit
    applied = Line("apply mysql", figure, f"{ratio:.2f}", ">= 0.70", ratio >= 0.7, sampler.verdict())
    return [captured, applied], limit


def _alternate(
    server: MysqlServer, engine: Engine, table: Table, marker: Marker, batches: Sequence[pa.RecordBatch]
) -> tuple[float, float]:
    """Seconds to write the batches bare and by the applier, in turns."""
    bare = ours = 0.0
    seq = marker.seq
    with closing(engine.applier([table], [])) as applier, server.connect(_DATABASE) as c:
        c.query(DDL.format("bare"))
        for rows in batches:
            statements = _upserts(table, rows)
            began = time.perf_counter()
            c.begin()
            for statement in statements:
                c.query(statement)
            c.commit()
            between = time.perf_counter()
            batch_marker = Marker(GROUP, 0, 1, marker.epoch, seq + 1, seq)
            applied = applier.apply(ApplyBatch("a", batch_marker, [TableRows("bench", rows)]))
            ours += time.perf_counter() - between
            bare += between - began
            assert applied.outcome is Outcome.COMMITTED
            seq += 1
        with c.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM (TABLE bench EXCEPT TABLE bare) AS d")
            assert cursor.fetchone() == (0,), "both ways must have written the same rows"
    return bare, ours


def _upserts(table: Table, rows: pa.RecordBatch) -> list[bytes]:
    """What a program would send that knows its rows as text already."""
    names = [c.name for c in table.schema.columns]
    columns = [
        literals(rows.column(c.name), c.type, local_type(bare, bare))
        for c in table.schema.columns
        if (bare := c.type.native.split("(")[0])
    ]
    values = rows_of_literals(columns)
    change = ", ".join(f"{n} = new.{n}" for n in names[1:])
    head = f"INSERT INTO bare ({', '.join(names)}) VALUES ".encode()
    tail = f" AS new ON DUPLICATE KEY UPDATE {change}".encode()
    return [
        head + b",".join(values.slice(at, _ROWS_AT_ONCE).to_pylist()) + tail
        for at in range(0, len(values), _ROWS_AT_ONCE)
    ]
