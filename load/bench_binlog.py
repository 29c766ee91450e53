"""Capture from MySQL: our reader, the library's own and a bare dump, over the same binlog in the same run."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent

from cluster.servers.mysql import MysqlServer
from cluster.servers.mysql_programs import NoMysql
from load.bench_bed import GROUP, Line, Sampler, Sizes, read_table
from load.bench_mysql_bed import DDL, fill
from load.bench_stages import poll
from replication.engines import load_engine
from replication.engines.mysql.config import MysqlConfig, parse
from replication.engines.mysql.connection import connect
from replication.engines.mysql.position import Token, position_now
from replication.engines.mysql.stream import BinlogStream
from replication.position import Position
from replication.schema import NodeConfig, TableMapping

MAPPING = TableMapping("bench", ("id",), {"a": "bench"})
GOAL = 250_000
TIMES_THE_LIBRARY = 5
_DATABASE = "binlog"


def measure(sizes: Sizes) -> list[Line]:
    """The lines, on a server of their own; without one the line says why."""
    with tempfile.TemporaryDirectory(prefix="sync-bench-binlog-") as folder:
        try:
            server = MysqlServer(Path(folder))
        except NoMysql as error:
            return [Line("capture binlog", str(error))]
        with server:
            return _measure(server, sizes)


def _measure(server: MysqlServer, sizes: Sizes) -> list[Line]:
    node = NodeConfig("a", "mysql", server.create_database(_DATABASE))
    engine, config = load_engine(node, GROUP), parse(node)
    with server.connect(_DATABASE) as c:
        c.query(DDL.format("bench"))
        table = read_table(engine, MAPPING)
        start = position_now(c)
        fill(c, sizes.rows)
        end = position_now(c)
    size = Token.unpack(end.token).offset - Token.unpack(start.token).offset
    bare, ours = [], []
    _dump(config, start, size)  # the first pass over a log is slower than the next ones
    for _ in range(2):
        bare.append(_dump(config, start, size))
        with Sampler() as sampler:
            ours.append(poll(engine, table, start, sizes.rows))
    few = sizes.rows // TIMES_THE_LIBRARY
    library = few / _library(config, start, few)
    limit, rate = sizes.rows / min(bare), sizes.rows / min(ours)
    figure = f"{rate:,.0f} rows/s (bare {limit:,.0f})"
    times = rate / library
    against = f"{library:,.0f} rows/s by the library alone"
    fast, far = rate >= GOAL, times >= TIMES_THE_LIBRARY
    return [
        Line(
            "capture binlog", figure, f"{rate / limit:.2f}", f">= {GOAL // 1000} k/s", fast, sampler.verdict()
        ),
        Line("capture binlog: times as fast", against, f"{times:.1f}", f">= {TIMES_THE_LIBRARY}", far),
    ]


class _Bare(BinlogStream):
    def receive(self) -> int:
        """Bytes of the log, without a look into them."""
        connection: Any = self._connection
        connection._sock.setblocking(True)
        return len(connection._sock.recv(1 << 18))


def _dump(config: MysqlConfig, start: Position, size: int) -> float:
    """Seconds to receive so many bytes."""
    with closing(_Bare(config, GROUP)) as stream:
        stream.open(start)
        began, seen = time.perf_counter(), 0
        while seen < size:
            seen += stream.receive()
        return time.perf_counter() - began


def _library(config: MysqlConfig, start: Position, rows: int) -> float:
    """Seconds until the library's own reader has given so many rows as dictionaries."""

    def connected(**given: Any) -> Any:
        return connect(config, **{k: v for k, v in given.items() if k == "cursorclass"})

    token = Token.unpack(start.token)
    reader = BinLogStreamReader(
        {},
        4_000_000_000,
        blocking=True,
        resume_stream=True,
        log_file=token.file,
        log_pos=token.offset,
        only_events=[WriteRowsEvent],
        only_tables=["bench"],
        pymysql_wrapper=connected,
        enable_logging=False,
    )
    with closing(reader):
        began, seen = time.perf_counter(), 0
        for event in reader:
            seen += len(event.rows)
            if seen >= rows:
                break
        return (time.perf_counter() - began) * rows / seen
