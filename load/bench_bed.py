"""What every benchmark stands on: servers, the table, its rows, groups, and a profiler of threads."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

from actors.limits import Limits
from actors.pipeline import Pipeline, prepare
from cluster.servers.mysql import MysqlServer
from cluster.servers.postgres import PostgresServer
from load.bench_mysql_bed import DDL as MYSQL_DDL
from load.bench_mysql_bed import OPTIONS as MYSQL_OPTIONS
from load.bench_mysql_bed import TRANSACTION
from load.bench_mysql_bed import fill as fill_mysql
from replication.audit.writer import AuditWriter
from replication.engine import Engine
from replication.engines import load_engine
from replication.engines.memory import drop_database, open_database
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig, Table, TableMapping

GROUP = "bench"
SETTINGS = {"max_wal_size": "8GB", "shared_buffers": "512MB"}
DDL = """CREATE TABLE {} (id bigint PRIMARY KEY, name text NOT NULL, qty int, price numeric(12,2),
 at timestamptz, flag boolean, note text)"""
FILL = """INSERT INTO bench SELECT i, 'name ' || i, i %% 1000, (i %% 100000) / 100.0,
 timestamptz '2024-01-01 00:00:00+00' + i * interval '1 second', i %% 2 = 0,
 'a note of about thirty letters ' || i %% 97 FROM generate_series(%s::bigint, %s::bigint) i"""
SAMPLE_SECONDS = 0.005
PACKAGES = ("/replication/", "/actors/")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each benchmark does.

    Attributes:
        rows: rows of the throughput benchmarks.
        batch: rows of one apply batch.
        rate: changes per second of the latency benchmark.
        seconds: how long it lasts.
        patience: seconds after which a run counts as stuck.
    """

    rows: int = 200_000
    batch: int = 20_000
    rate: int = 1_000
    seconds: float = 10.0
    patience: float = 300.0


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the budget.

    Attributes:
        name: what was measured.
        figure: the measured value with its unit.
        ratio: against the bare limit of the same run, or empty.
        goal: what the budget asks for, or empty.
        met: whether the goal is met; None without a goal.
        limit: what limits it, as measured.
    """

    name: str
    figure: str
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    limit: str = ""


class Bed:
    """Two PostgreSQL servers, and a MySQL server once it is asked for; stopped and removed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sync-bench-"))
        self.folder = Path(folder)
        self.folder.chmod(0o755)
        self.servers: list[PostgresServer] = []
        self._mysql: MysqlServer | None = None
        self._number = 0

    def __enter__(self) -> Self:
        with self._stack:
            for name in ("left", "right"):
                server = PostgresServer(self.folder / name, settings=SETTINGS)
                self.servers.append(self._stack.enter_context(server))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def mysql(self) -> MysqlServer:
        """The MySQL server.

        Raises:
            NoMysql: this machine has none and cannot fetch one.
        """
        if self._mysql is None:
            server = MysqlServer(self.folder / "mysql", options=MYSQL_OPTIONS)
            self._mysql = self._stack.enter_context(server)
        return self._mysql

    @contextmanager
    def mysql_database(self, *, table: bool = True) -> Iterator[str]:
        """A new MySQL database, with the empty table if wanted; dropped at the end."""
        self._number += 1
        name = f"bench_{self._number}"
        try:
            dsn = self.mysql.create_database(name)
            if table:
                with self.mysql.connect(name) as c:
                    c.query(MYSQL_DDL.format("bench"))
            yield dsn
        finally:
            self.mysql.drop_database(name)

    @contextmanager
    def database(self, server: int, *, table: bool = True) -> Iterator[str]:
        """A new database, with the empty table if wanted; dropped at the end with its slots."""
        self._number += 1
        name = f"bench_{self._number}"
        try:
            dsn = self.servers[server].create_database(name)
            if table:
                with psycopg.connect(dsn, autocommit=True) as c:
                    c.execute(DDL.format("bench").encode())
            yield dsn
        finally:
            self.servers[server].drop_database(name)


def fill(dsn: str, first: int, last: int) -> None:
    """Insert the rows `first` to `last`, in transactions of `TRANSACTION` rows."""
    with psycopg.connect(dsn, autocommit=True) as c:
        for start in range(first, last + 1, TRANSACTION):
            c.execute(FILL, [start, min(start + TRANSACTION - 1, last)])
        c.execute("CHECKPOINT")


def read_table(engine: Engine, mapping: TableMapping) -> Table:
    """The mapped table, as the engine's node declares it."""
    with closing(engine.catalog()) as catalog:
        schema = catalog.read_schema(mapping)
    assert schema is not None
    return Table(mapping, schema)


@dataclass
class Group:
    """Two nodes `a` and `b`, and a pipeline between them that can be started.

    Args:
        bed: where databases are made.
        source: the engine of `a`, `postgres` or `mysql`.
        target: the engine of `b`.
        initial: the node whose rows are copied at the start, or `none`.
        port: where the group reaches `a`, if not where `left` says.
    """

    bed: Bed
    target: str = "postgres"
    initial: str = "none"
    source: str = "postgres"
    port: int = 0
    left: str = ""
    right: str = ""
    engines: dict[str, Engine] = field(default_factory=dict)
    pipeline: Pipeline | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            mysql, postgres = self.bed.mysql_database, self.bed.database
            self.left = stack.enter_context(mysql() if self.source == "mysql" else postgres(0))
            if self.target == "postgres":
                self.right = stack.enter_context(postgres(1, table=False))
            elif self.target == "mysql":
                self.right = stack.enter_context(mysql(table=False))
            else:
                self.right = "memory://bench"
                open_database("bench")
                stack.callback(drop_database, "bench")
            stack.callback(self.stop)
            nodes = [
                NodeConfig("a", self.source, _through(self.left, self.port), 20),
                NodeConfig("b", self.target, self.right, 10),
            ]
            self.engines = {n.name: load_engine(n, GROUP) for n in nodes}
            mapping = TableMapping("bench", ("id",), {"a": "bench", "b": "bench"}, initial=self.initial)
            self.tables = [read_table(self.engines["a"], mapping)]
            with closing(self.engines["b"].catalog()) as catalog:
                catalog.create_table(self.tables[0], self.source)
            if self.initial == "none":
                prepare(GROUP, self.engines, self.tables, 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, rows: int) -> None:
        """Write the rows 1 to `rows` at the source: before its log begins, where they are to be copied."""
        if self.source == "mysql":
            with connect(parse(self.engines["a"].node)) as c:
                fill_mysql(c, rows)
        else:
            fill(self.left, 1, rows)
        if self.initial != "none":
            prepare(GROUP, self.engines, self.tables, 1)

    def start(self, limits: Limits | None = None) -> Pipeline:
        """Start a pipeline; its audit log is a new one."""
        folder = Path(tempfile.mkdtemp(prefix="audit-", dir=self.bed.folder))
        writer = AuditWriter(folder, GROUP, lambda: time.time_ns() // 1000)
        self.pipeline = Pipeline(GROUP, self.engines, self.tables, writer, limits=limits)
        return self.pipeline

    def stop(self) -> None:
        """Stop the pipeline, if one runs."""
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            pipeline.stop()

    def wait(self, done: Callable[[], bool], patience: float) -> None:
        """Wait until `done`; between looks, block on the pipeline's own end.

        Raises:
            TimeoutError: not in time, or the pipeline ended.
        """
        assert self.pipeline is not None
        deadline = time.monotonic() + patience
        while not done():
            if self.pipeline.stopping.wait(0.01) or time.monotonic() > deadline:
                message = f"the target did not get all rows: {self.pipeline.error!r}"
                raise TimeoutError(message) from self.pipeline.error


def _through(dsn: str, port: int) -> str:
    """The same address at another port of this machine."""
    parts = urlsplit(dsn)
    account, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{account}{at}127.0.0.1:{port}")) if port else dsn


class Sampler(threading.Thread):
    """Attributes the processor time of every thread to the function of ours that it was in.

    Reads each thread's own time from Linux's /proc, so waiting costs nothing; elsewhere it knows nothing.
    """

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self.places: Counter[str] = Counter()
        self.threads: Counter[str] = Counter()
        self._over = threading.Event()
        self.cpu = self.elapsed = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._cpu = cpu_seconds()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed = time.monotonic() - self._began
        self.cpu = cpu_seconds() - self._cpu
        self._over.set()
        self.join()

    def run(self) -> None:
        """Sample until the end."""
        used: dict[int, int] = {}
        while not self._over.wait(SAMPLE_SECONDS):
            frames = sys._current_frames()
            for thread in threading.enumerate():
                now = _thread_time(thread.native_id)
                before = used.get(thread.native_id or 0, now)
                used[thread.native_id or 0] = now
                frame = frames.get(thread.ident or 0)
                if thread is not self and frame is not None and now > before:
                    self.threads[thread.name] += now - before
                    self.places[_place(frame)] += now - before

    def verdict(self) -> str:
        """The busiest thread, the hottest functions, and whether our process was busy at all."""
        share = self.cpu / self.elapsed
        if not self.threads:
            return f"our process {share:.0%} of a core"
        busiest, used = self.threads.most_common(1)[0]
        whole = sum(self.places.values())
        places = ", ".join(f"{p} {n / whole:.0%}" for p, n in self.places.most_common(3))
        waits = "" if share > 0.85 else "the servers: "
        return (
            f"{waits}our process {share:.0%} of a core, {busiest} {used / 1e9 / self.elapsed:.0%}; {places}"
        )


def cpu_seconds() -> float:
    """Processor seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _thread_time(native_id: int | None) -> int:
    """Nanoseconds of processor time."""
    try:
        return int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0])
    except (OSError, IndexError):
        return 0


def _place(frame: FrameType) -> str:
    """The innermost function of ours that a frame is in."""
    inner: FrameType | None = frame
    while inner is not None:
        if any(p in inner.f_code.co_filename for p in PACKAGES):
            return f"{Path(inner.f_code.co_filename).stem}.{inner.f_code.co_name}"
        inner = inner.f_back
    return "outside"
