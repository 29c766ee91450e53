"""What a user gets of `sync-worker up` on a Ray of its own: latency, and what faults and size do to it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psycopg

from cluster.servers.process import ServerProcess
from load.bench_bed import FILL, GROUP, Bed, Line, Sizes, percentile
from load.bench_flow import P50_GOAL, P99_GOAL, commit_times, write
from load.processes import find, memory_bytes, used_seconds

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.1
RECOVERY_GOAL = 5.0
RECOVERY_RATE = 200
"""Changes per second while a part is killed."""
MEMORY_GOAL = 512 << 20
TIMES_LARGER = 25
"""Rows of the huge transaction: so often those of a throughput benchmark."""
PARTS = "capture a", "resolver 0", "applier b/0"
FAULTS = *(f"recovery, {p.split()[0]} killed" for p in PARTS), "memory, huge transaction"
_CONFIG = """\
group: {group}
nodes:
  a: {{engine: postgres, dsn: "{left}", priority: 20}}
  b: {{engine: postgres, dsn: "{right}", priority: 10}}
tables:
  bench: {{key: [id]}}
{settings}
"""
CHEAPEST = "audit: {path: audit}"
"""What cannot be left out: an audit log in clear."""


@dataclass(frozen=True, slots=True)
class Running:
    """`up` between two empty databases.

    Attributes:
        left: the source's address.
        right: the target's.
        pid: the process id of `up`.
    """

    left: str
    right: str
    pid: int


@contextmanager
def running(
    bed: Bed, sizes: Sizes, settings: str = CHEAPEST, event: str = "group_ready"
) -> Iterator[Running]:
    """`sync-worker up`, ready; a first row has gone through it.

    Args:
        bed: the servers.
        sizes: how long to wait.
        settings: sections of the configuration.
        event: what it logs once it is ready.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=bed.folder))
    with bed.database(0) as left, bed.database(1) as right:
        config = folder / "sync.yaml"
        config.write_text(_CONFIG.format(group=GROUP, left=left, right=right, settings=settings))
        log = folder / "up.log"
        command = [sys.executable, "-m", "cluster.cli", "up", "--no-dashboard", "-c", str(config)]
        up = ServerProcess("sync-worker up", command, log, lambda: f'"{event}"'.encode() in log.read_bytes())
        try:
            up.start(READY_SECONDS)
            write_through(left, right, 1, 1, sizes)
            assert up.child is not None
            yield Running(left, right, up.child.pid)
        finally:
            up.stop(timeout=STOP_SECONDS)


class Plain:
    """A group with nothing beside it, for stages that follow each other; started for the first that asks."""

    def __init__(self, bed: Bed, sizes: Sizes) -> None:
        self._bed, self._sizes = bed, sizes
        self._stack = ExitStack()
        self._running: Running | None = None
        self.next_row = 2
        """The first id that no row has."""

    def up(self) -> Running:
        """The group."""
        if self._running is None:
            self._running = self._stack.enter_context(running(self._bed, self._sizes))
        return self._running

    def close(self) -> None:
        """Stop it; whoever asks next has a new one."""
        self._running, self.next_row = None, 2
        self._stack.close()


def latency(plain: Plain, sizes: Sizes) -> list[Line]:
    """Single inserts at a steady rate, from the source's commit timestamp to the target's.

    The target notes its own when it begins to write the commit to disk, a moment before readers see the row.
    """
    up, count = plain.up(), int(sizes.rate * sizes.seconds)
    used, began = used_seconds(up.pid), time.monotonic()
    write_through(up.left, up.right, 2, count, sizes)
    busy = (used_seconds(up.pid) - used) / (time.monotonic() - began)
    committed, rate = commit_times(up.left)
    visible, _ = commit_times(up.right)
    plain.next_row = 2 + count
    delays = [(visible[i] - committed[i]) * 1000 for i in range(2, count + 2)]
    under = f"at {rate:,.0f} changes/s"
    held = rate >= 0.9 * sizes.rate
    limit = f"our processes and Ray's {busy:.0%} of a core, of {os.cpu_count()}"
    lines = []
    for share, goal in ((0.5, P50_GOAL), (0.99, P99_GOAL)):
        found = percentile(delays, share)
        name, figure = f"latency p{share * 100:.0f} on Ray", f"{found:.1f} ms {under}"
        lines.append(Line(name, figure, "", f"<= {goal:.0f} ms", held and found <= goal, limit))
    return lines


def faults(bed: Bed, sizes: Sizes) -> Iterator[Line]:
    """What a killed part costs, and what a transaction costs that is larger than any queue."""
    with running(bed, sizes) as up:
        first = 2
        for part in PARTS:
            yield _recovery(up, part, first, sizes)
            first += int(RECOVERY_RATE * sizes.seconds)
        yield _growth(up, first, sizes)


def _recovery(up: Running, part: str, first: int, sizes: Sizes) -> Line:
    """From `kill -9` of a part to the first commit, at the target, of a row that was written after it."""
    count = int(RECOVERY_RATE * sizes.seconds)
    killed: list[float] = []

    def kill() -> None:
        process = find(up.pid, part)
        if process is not None:
            killed.append(time.time())
            process.kill()

    timer = threading.Timer(sizes.seconds / 4, kill)
    timer.start()
    write_through(up.left, up.right, first, count, sizes, RECOVERY_RATE)
    timer.join()
    name, goal = f"recovery, {part.split()[0]} killed", f"<= {RECOVERY_GOAL:.0f} s"
    if not killed:
        return Line(name, f"no process of {part}", "", goal, met=False)
    committed, _ = commit_times(up.left)
    visible, _ = commit_times(up.right)
    again = min(visible[i] for i, at in committed.items() if at > killed[0]) - killed[0]
    return Line(name, f"{again:.2f} s", "", goal, again <= RECOVERY_GOAL, f"at {RECOVERY_RATE} changes/s")


def _growth(up: Running, first: int, sizes: Sizes) -> Line:
    """How much more memory all processes have, at most, while one huge transaction goes through."""
    count = sizes.rows * TIMES_LARGER
    before = memory_bytes(up.pid)
    began = time.monotonic()
    with psycopg.connect(up.left) as sql:
        sql.execute(FILL, [first, first + count - 1])
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, memory_bytes(up.pid))

    arrived(up.right, first, count, sizes.patience * TIMES_LARGER, look)
    seconds = time.monotonic() - began
    figure = f"{max(0, most - before) / (1 << 20):,.0f} MiB over {before / (1 << 20):,.0f}"
    limit = f"{count:,} rows in one transaction, {count / seconds:,.0f} rows/s"
    return Line("memory, huge transaction", figure, "", "<= 512 MiB", most - before <= MEMORY_GOAL, limit)


def write_through(left: str, right: str, first: int, count: int, sizes: Sizes, rate: int = 0) -> None:
    """Write rows at the source, at the rate of `sizes` by default, and wait until the target has them all."""
    rate = rate or sizes.rate
    writer = get_context("spawn").Process(target=write, args=(left, first, count, rate))
    writer.start()
    writer.join()
    arrived(right, first, count, sizes.patience)


def arrived(
    dsn: str, first: int, count: int, patience: float, look: Callable[[], None] = lambda: None
) -> None:
    """Wait until the target has so many rows from `first` on, and `look` meanwhile.

    Raises:
        TimeoutError: it has not in time.
    """
    deadline = time.monotonic() + patience
    last = "SELECT EXISTS (SELECT FROM bench WHERE id = %s)"  # the others came before it, or soon will
    every = "SELECT count(*) FROM bench WHERE id >= %s AND id < %s"
    end = first + count
    with closing(psycopg.connect(dsn, autocommit=True)) as c:

        def has_all() -> bool:
            if c.execute(last, [end - 1]).fetchone() != (True,):
                return False
            return c.execute(every, [first, end]).fetchone() == (count,)

        while not has_all():
            if time.monotonic() > deadline:
                message = "the target did not get all rows"
                raise TimeoutError(message)
            look()
            time.sleep(LOOK_SECONDS)
