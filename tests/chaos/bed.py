"""A group on Ray between two servers, writers at both ends, and what must hold in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from replication.audit.reader import read
from replication.change import Op

OWN = {"pg": range(1000, 1060), "mongo": range(2000, 2060)}
SHARED = range(1, 16)
PROBES = {"pg": 10_000, "mongo": 20_000}
ROW = ("name", "qty")
PARTS = ("capture pg", "capture mongo", "resolver 0", "applier pg/0", "applier mongo/0", "audit", "copy pg")


class Postgres:
    """Rows of table orders on PostgreSQL. Every call connects again when the connection is lost."""

    node = "pg"
    lost = (psycopg.OperationalError, psycopg.InterfaceError)

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._sql: psycopg.Connection[Any] | None = None

    def put(self, key: int, name: str, qty: int, *, whole: bool = False) -> int:
        """Insert a row; where there is one, set `qty`, or the whole of it."""
        change = "qty = excluded.qty" + (", name = excluded.name" if whole else "")
        upsert = f"INSERT INTO orders VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET {change}"
        return self._execute(upsert, (key, name, qty)).rowcount

    def delete(self, key: int) -> int:
        """How many rows went."""
        return self._execute("DELETE FROM orders WHERE id = %s", (key,)).rowcount

    def rows(self) -> dict[int, tuple[Any, ...]]:
        """All rows by key."""
        return {r[0]: r[1:] for r in self._execute("SELECT id, name, qty FROM orders", ())}

    def close(self) -> None:
        if self._sql is not None:
            self._sql.close()
            self._sql = None

    def _execute(self, statement: str, values: tuple[object, ...]) -> psycopg.Cursor[Any]:
        if self._sql is None:
            self._sql = psycopg.connect(self._dsn, autocommit=True)
        try:
            return self._sql.execute(statement, values)
        except self.lost:
            self.close()
            raise


class Mongo:
    """The same on MongoDB."""

    node = "mongo"
    lost = (PyMongoError,)

    def __init__(self, dsn: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            dsn, serverSelectionTimeoutMS=2000, retryWrites=False
        )
        self._docs = self._client.get_default_database()["orders"]

    def put(self, key: int, name: str, qty: int, *, whole: bool = False) -> int:
        change = {"$set": {"qty": qty}, "$setOnInsert": {"name": name}}
        if whole:
            change = {"$set": {"qty": qty, "name": name}}
        self._docs.update_one({"_id": key}, change, upsert=True)
        return 1

    def delete(self, key: int) -> int:
        return self._docs.delete_one({"_id": key}).deleted_count

    def rows(self) -> dict[int, tuple[Any, ...]]:
        return {d["_id"]: tuple(d.get(c) for c in ROW) for d in self._docs.find()}

    def close(self) -> None:
        self._client.close()


End = Postgres | Mongo


class Writer:
    """Writes at one end until stopped: every value of `qty` once. A write whose answer is lost is made again.

    Attributes:
        last: own key to the row last written, None when it was deleted.
        puts: value of `qty` to the key it was written to.
        again: values and keys whose write was made more than once, perhaps.
        deletes: key to how often it was deleted.
    """

    def __init__(self, end: End, seed: int, pause: float = 0.03) -> None:
        self.end = end
        self.last: dict[int, tuple[str, int] | None] = {}
        self.puts: dict[int, int] = {}
        self.deletes: Counter[int] = Counter()
        self.again: set[int] = set()
        self.again_deleted: set[int] = set()
        self._random = random.Random(seed)
        self._pause = pause
        self._abandoned = False
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer-{end.node}")
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join()
        self.end.close()

    def abandon(self) -> None:
        """Stop, also where a write cannot be made."""
        self._abandoned = True
        self.stop()

    def _run(self) -> None:
        try:
            number = 0 if self.end.node == "pg" else 1  # no value is written at both ends
            while not self.stopping.wait(self._pause):
                number += 2
                shared = self._random.random() < 0.25
                key = self._random.choice(SHARED if shared else OWN[self.end.node])
                self._write(key, number, delete=self._random.random() < 0.2)
        except BaseException as error:  # noqa: BLE001  the test raises it
            self.error = error
            self.stopping.set()

    def _write(self, key: int, number: int, *, delete: bool) -> None:
        name = f"{self.end.node} {number}"
        if delete:
            self.deletes[key] += self._surely(lambda: self.end.delete(key), self.again_deleted, key)
            self.last[key] = None
        else:
            self.puts[number] = key
            before = self.last.get(key)
            # A row that it deleted may be back for a moment: a copy of it crossed the delete (ADR 4).
            whole = before is None
            self._surely(lambda: self.end.put(key, name, number, whole=whole), self.again, number)
            self.last[key] = (before[0] if before else name, number)

    def _surely(self, write: Callable[[], int], again: set[int], mark: int) -> int:
        while True:
            try:
                return write()
            except self.end.lost:
                if self._abandoned:
                    raise
                again.add(mark)
                self.stopping.wait(0.1)


class Up:
    """`sync-worker up` as a process, started again by `start`."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = folder / "sync.yaml"
        self.config.write_text(config)
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the process wrote since it was started last."""
        return self.folder / f"up-{self.starts}.log"

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, "-m", "cluster.cli", "up", "-c", str(self.config)]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file, stdout=file)

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return '"group_ready"' in self.log.read_text()

    def kill(self, part: str) -> bool:
        """SIGKILL a part, or `up` itself. False when no such process runs now."""
        assert self.process is not None
        if part == "up":
            self.process.kill()
            self.process.wait()
            return True
        title = f"ray::{part}"
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                found = " ".join(child.cmdline()).strip()
                if found == title or found.startswith((title + ".", title + ":")):
                    child.kill()
                    return True
        return False

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


class Bed:
    """The whole of it.

    Args:
        dsns: what the group connects to, by node.
        direct: what the writers and the test connect to, by node.
    """

    def __init__(self, folder: Path, dsns: dict[str, str], direct: dict[str, str], seed: int) -> None:
        self.folder = folder
        self.pg, self.mongo = Postgres(direct["pg"]), Mongo(direct["mongo"])
        with psycopg.connect(direct["pg"], autocommit=True) as sql:
            sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text, qty int)")
            sql.execute("INSERT INTO orders SELECT i, 'old', 0 FROM generate_series(100, 300) i")
        self.up = Up(
            folder,
            f'group: chaos\nnodes:\n  pg: {{engine: postgres, dsn: "{dsns["pg"]}", priority: 30}}\n'
            f'  mongo: {{engine: mongodb, dsn: "{dsns["mongo"]}", priority: 10}}\n'
            "tables:\n  orders: {key: [id], initial: {from: pg}}\ncreate_tables: true\nshards: 1\n"
            "audit: {path: audit}\n",
        )
        self.writers: list[Writer] = []
        self._direct, self._seed, self._probes = direct, seed, 0

    def start(self) -> None:
        """Start the group and the writers."""
        self.up.start()
        self.wait(self.up.ready, "ready")
        ends: list[End] = [Postgres(self._direct["pg"]), Mongo(self._direct["mongo"])]
        self.writers = [Writer(end, self._seed + i) for i, end in enumerate(ends)]

    def wait(self, done: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Wait for `done`; between looks, block on the writers' end."""
        deadline = time.monotonic() + seconds
        woken = self.writers[0].stopping if self.writers else threading.Event()
        while not _tried(done):
            assert time.monotonic() < deadline, f"{what}: not in time\n{self.up.log.read_text()[-4000:]}"
            for writer in self.writers:
                assert writer.error is None, writer.error
            if woken.is_set():
                woken = threading.Event()
            woken.wait(0.05)

    def passes(self, seconds: float) -> None:
        """Let the writers write for so long, whatever becomes of it."""
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > until, "time")

    def moves(self) -> float:
        """Wait until a new row at each end has come to the other; how many seconds that took."""
        began = time.monotonic()
        self._probes += 1
        keys = {n: first + self._probes for n, first in PROBES.items()}
        for end in (self.pg, self.mongo):
            self.wait(lambda end=end: end.put(keys[end.node], "probe", self._probes), "write")
        self.wait(
            lambda: keys["pg"] in self.mongo.rows() and keys["mongo"] in self.pg.rows(),
            f"probe {self._probes}",
        )
        return time.monotonic() - began

    def finish(self) -> None:
        """Stop the writers, wait until both ends are equal, end the group, and check everything."""
        for writer in self.writers:
            writer.stop()
            assert writer.error is None, writer.error
        self.moves()
        self.wait(lambda: self.pg.rows() == self.mongo.rows(), "equal")
        rows = self.pg.rows()
        for writer in self.writers:
            for key in OWN[writer.end.node]:
                if key in writer.last:
                    assert rows.get(key) == writer.last[key], f"{writer.end.node}: key {key}"
        self.wait(self.up.ready, "ready")
        assert self.up.stop() == 0, self.up.log.read_text()[-4000:]
        assert self.pg.rows() == self.mongo.rows()
        for writer in self.writers:
            self._check_audit(writer)

    def _check_audit(self, writer: Writer) -> None:
        """Each write was captured, and each captured change is written down once."""
        node = writer.end.node
        found = [
            r
            for b in read(self.folder / "audit", "changes/orders")
            for r in b.to_pylist()
            if r["_node"] == node and r["_op"] != Op.READ
        ]
        orders = Counter((r["_hi"], r["_lo"]) for r in found)
        assert not [o for o, count in orders.items() if count > 1], "written down twice"
        mine = [r for r in found if r["id"] in SHARED or r["id"] in OWN[node]]
        puts = Counter(r["qty"] for r in mine if r["_op"] != Op.DELETE)
        missing = {n: writer.puts[n] for n in writer.puts.keys() - puts.keys()}
        assert not missing, f"{node}: not to be found, value to key: {missing}; tried again: {writer.again}"
        assert not [n for n, count in puts.items() if count > 1 and n not in writer.again], "captured twice"
        deletes = Counter(r["id"] for r in found if r["_op"] == Op.DELETE)
        sure = deletes.keys() | writer.deletes.keys()
        assert all(deletes[k] == writer.deletes[k] for k in sure - writer.again_deleted), "deletes"

    def close(self) -> None:
        """End whatever still runs."""
        with ExitStack() as stack:
            stack.callback(self.pg.close)
            stack.callback(self.mongo.close)
            if self.up.process is not None and self.up.process.poll() is None:
                stack.callback(self.up.stop)
            for writer in self.writers:
                stack.callback(writer.abandon)


def _tried(done: Callable[[], object]) -> object:
    """What `done` says; not yet where a database is away."""
    try:
        return done()
    except (*Postgres.lost, *Mongo.lost):
        return None


def seed() -> int:
    """SEED from the environment, or a new one; it is printed, so that a failing run can be repeated."""
    value = int(os.environ.get("SEED") or random.randrange(2**31))
    print(json.dumps({"seed": value}))
    return value
