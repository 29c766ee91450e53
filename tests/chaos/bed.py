"""A group on Ray between two or three servers, a writer at each end, and what must hold in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from load.processes import find
from replication.audit.reader import read
from tests.fixtures.commands import ask, sync_worker
from tests.fixtures.ends import ENGINES, LOST, PRIORITIES, Row, SqlEnd, open_end
from tests.fixtures.ledger import CLOCK, check_fates
from tests.fixtures.writer import Writer

SHARED = range(1, 16)
PROBES = 10_000
"""The first key of the probes that are written at the first node; the next node's begin so much later."""
COPIED = 100, 300
MOVES = 0.15
"""How often an application gives a row another key."""
SCALES = 1.0
"""So many seconds after a change of the number of shards has begun, `up` is killed, at most."""
SHARDS = int(os.environ.get("SHARDS", "1"))


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
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(sync_worker(self.config, "up"), stderr=file, stdout=file)

    def logged(self, event: str) -> bool:
        """Whether the process that was started last has logged an event."""
        return f'"{event}"' in self.log.read_text()

    def status(self) -> Any:
        """What `sync-worker status` says."""
        code, shown = ask(self.config, "status", "--json")
        assert code == 0, shown
        return json.loads(shown)

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return '"group_ready"' in self.log.read_text()

    def find(self, part: str) -> psutil.Process | None:
        """See `load.processes.find`."""
        assert self.process is not None
        return find(self.process.pid, part)

    def kill(self, part: str) -> bool:
        """SIGKILL a part, or `up` itself. False when no such process runs now."""
        found = self.find(part)
        if found is None:
            return False
        with suppress(psutil.NoSuchProcess):
            found.kill()
        if part == "up" and self.process is not None:
            self.process.wait()
        return True

    def freeze(self, part: str) -> Callable[[], None] | None:
        """SIGSTOP a part; gives what lets it go on. None when no such process runs now."""
        found = self.find(part)
        if found is None:
            return None

        def thaw() -> None:
            with suppress(psutil.NoSuchProcess):
                found.resume()

        with suppress(psutil.NoSuchProcess):
            found.suspend()
        return thaw

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(180)
        finally:
            self.process.kill()
            self.process.wait()


class Bed:
    """The whole of it.

    Args:
        dsns: what the group connects to, by node; the first holds the rows to begin with.
        direct: what the writers and the test connect to, by node.
        limits: those of the configuration.
        schema: the table's policy for changes of its columns.
    """

    def __init__(
        self,
        folder: Path,
        dsns: dict[str, str],
        direct: dict[str, str],
        seed: int,
        limits: str = "",
        schema: str = "ignore",
    ) -> None:
        self.folder = folder
        self.ends = {n: open_end(n, dsn) for n, dsn in direct.items()}
        first, *_ = direct
        end = self.ends[first]
        assert isinstance(end, SqlEnd), "the first node declares the table"
        end.execute(end.create)
        end.fill(*COPIED)
        lines = [
            f'  {n}: {{engine: {ENGINES[n]}, dsn: "{dsn}", priority: {PRIORITIES[n]}}}\n'
            for n, dsn in dsns.items()
        ]
        self.up = Up(
            folder,
            f"group: chaos\nnodes:\n{''.join(lines)}"
            f"tables:\n  orders: {{key: [id], schema: {schema}, initial: {{from: {first}}}}}\n"
            f"create_tables: true\nshards: {SHARDS}\naudit: {{path: audit}}\nlimits: {{{limits}}}\n",
        )
        self.shards = SHARDS
        self.clock = CLOCK
        """See `check_fates`."""
        self.writers: list[Writer] = []
        self._direct, self._seed, self._probes = direct, seed, 0

    @property
    def parts(self) -> list[str]:
        """The processes of the group that may be killed."""
        shards = range(self.shards)
        each = [p for n in self.ends for p in (f"capture {n}", *(f"applier {n}/{s}" for s in shards))]
        return [*each, *(f"resolver {s}" for s in shards), "audit", f"copy {next(iter(self.ends))}"]

    def start(self) -> None:
        """Start the group and the writers."""
        self.up.start()
        self.wait(self.up.ready, "ready")
        self.writers = [
            Writer(
                open_end(n, dsn),
                i,
                len(self._direct),
                self._seed + i,
                own(i),
                SHARED,
                moves=MOVES,
                careful=True,
            )
            for i, (n, dsn) in enumerate(self._direct.items())
        ]

    def scale(self, shards: int, luck: random.Random) -> None:
        """Kill `up`, start it with another number of shards, and kill it once more while it changes that."""
        up, text = self.up, self.up.config.read_text()
        up.kill("up")
        up.config.write_text(text.replace(f"shards: {self.shards}\n", f"shards: {shards}\n"))
        up.start()
        self.wait(lambda: up.logged("shards_changing") or up.ready(), "the change begins")
        self.passes(luck.uniform(0.0, SCALES))
        up.kill("up")
        up.start()
        self.wait(up.ready, "ready")
        while len(up.status()["shards"]) != shards:  # two wrote a row in just that moment, five times
            assert up.logged("shards_kept")
            up.stop()
            up.start()
            self.wait(up.ready, "ready")
        self.shards = shards

    def wait(self, done: Callable[[], object], what: str, seconds: float = 240) -> None:
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

    def moves(self, nodes: Iterable[str] | None = None) -> float:
        """Wait until a new row at each end, or of `nodes`, has come to the others; the seconds that took."""
        began = time.monotonic()
        copied = nodes is None and self.copied()
        self._probes += 1
        ends = {n: self.ends[n] for n in nodes or self.ends}
        keys = {n: PROBES * (i + 1) + self._probes for i, n in enumerate(self.ends) if n in ends}
        for node, end in ends.items():
            self.wait(lambda end=end, key=keys[node]: end.put(key, "probe", -self._probes), "write")
        for node, end in ends.items():
            for key in keys.values():
                self.wait(lambda end=end, key=key: end.row(key), f"probe {key} at {node}")
        for writer in self.writers if copied else ():  # what it had put in the place of writes is undone, too
            writer.careful = False
        return time.monotonic() - began

    def copied(self) -> bool:
        """Whether the initial copy has finished."""
        return any('"copy_finished"' in log.read_text() for log in self.folder.glob("up-*.log"))

    def rows(self) -> dict[int, Row] | None:
        """What all nodes hold; None while they differ."""
        first, *others = [end.rows() for end in self.ends.values()]
        return first if all(rows == first for rows in others) else None

    def finish(self) -> None:
        """Stop the writers, wait until all ends are equal, end the group, and check everything.

        Not before each has given a row another key.
        """
        if any(writer.careful for writer in self.writers):
            self.wait(self.copied, "copied")
            self.moves()
        self.wait(lambda: all(writer.moved for writer in self.writers), "moved")
        for writer in self.writers:
            writer.stop()
            assert writer.error is None, writer.error
        self.moves()
        self.wait(lambda: self.rows() is not None, "equal")
        self.wait(self.up.ready, "ready")
        assert self.up.stop() == 0, self.up.log.read_text()[-4000:]
        rows = self.rows()
        assert rows is not None, "not equal after the end"
        for writer in self.writers:
            writer.check_own(rows, self.history)
            keys = {*writer.own, *writer.shared}
            changes = [c for c in self.recorded("changes/orders") if c["id"] in keys]
            writer.ledger.check_captured(changes)
        keys = {*SHARED, *(k for w in self.writers for k in w.own)}
        check_fates(rows, self.recorded, keys, self.clock)

    def history(self, key: int, names: set[str]) -> str:
        """What is on record of a key, and of those that rows of these names have had, for a failed test."""
        changes = self.recorded("changes/orders")
        canonical = {c["_key"] for c in changes if c["id"] == key or c["name"] in names}
        lines = []
        for stream in ("changes/orders", "decisions", "conflicts"):
            found = [r for r in self.recorded(stream) if canonical & {r.get("_key"), r.get("key")}]
            lines += [f"{stream} { ({k: v for k, v in r.items() if v is not None}) }" for r in found]
        return "\n".join(lines)

    def recorded(self, stream: str) -> list[dict[str, Any]]:
        """What the audit log holds."""
        return [row for batch in read(self.folder / "audit", stream) for row in batch.to_pylist()]

    def close(self) -> None:
        """End whatever still runs."""
        with ExitStack() as stack:
            for end in self.ends.values():
                stack.callback(end.close)
            if self.up.process is not None and self.up.process.poll() is None:
                stack.callback(self.up.stop)
            for writer in self.writers:
                stack.callback(writer.abandon)


def own(number: int) -> range:
    """The keys that one writer alone writes."""
    return range(1000 * (number + 1), 1000 * (number + 1) + 60)


def _tried(done: Callable[[], object]) -> object:
    """What `done` says; not yet where a database is away."""
    try:
        return done()
    except LOST:
        return None


def seed() -> int:
    """SEED from the environment, or a new one; it is printed, so that a failing run can be repeated."""
    value = int(os.environ.get("SEED") or random.randrange(2**31))
    print(json.dumps({"seed": value}))
    return value
