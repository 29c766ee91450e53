"""Latency through the processes that a user runs: `sync-worker up` on a Ray of its own."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import psutil
import psycopg

from cluster.servers.process import ServerProcess
from load.bench_bed import GROUP, Bed, Line, Sizes, percentile
from load.bench_flow import P50_GOAL, P99_GOAL, commit_times, write

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
_CONFIG = """\
group: {group}
nodes:
  a: {{engine: postgres, dsn: "{left}", priority: 20}}
  b: {{engine: postgres, dsn: "{right}", priority: 10}}
tables:
  bench: {{key: [id]}}
audit: {{path: audit}}
"""


def latency(bed: Bed, sizes: Sizes) -> list[Line]:
    """Single inserts at a steady rate, from the source's commit timestamp to the target's.

    The target notes its own when it begins to write the commit to disk, a moment before readers see the row.
    """
    count = int(sizes.rate * sizes.seconds)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=bed.folder))
    with bed.database(0) as left, bed.database(1) as right:
        config = folder / "sync.yaml"
        config.write_text(_CONFIG.format(group=GROUP, left=left, right=right))
        log = folder / "up.log"
        command = [sys.executable, "-m", "cluster.cli", "up", "-c", str(config)]
        up = ServerProcess("sync-worker up", command, log, lambda: b'"group_ready"' in log.read_bytes())
        try:
            up.start(READY_SECONDS)
            _write(left, right, 1, 1, sizes)
            assert up.child is not None
            used, began = _used(up.child.pid), time.monotonic()
            _write(left, right, 2, count, sizes)
            busy = (_used(up.child.pid) - used) / (time.monotonic() - began)
        finally:
            up.stop(timeout=STOP_SECONDS)
        committed, rate = commit_times(left)
        visible, _ = commit_times(right)
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


def _write(left: str, right: str, first: int, count: int, sizes: Sizes) -> None:
    """Write rows at the source, and wait until the target has them all.

    Raises:
        TimeoutError: it has not in time.
    """
    writer = get_context("spawn").Process(target=write, args=(left, first, count, sizes.rate))
    writer.start()
    writer.join()
    last = first + count - 1
    deadline = time.monotonic() + sizes.patience
    with closing(psycopg.connect(right, autocommit=True)) as c:
        while c.execute("SELECT count(*) FROM bench WHERE id <= %s", [last]).fetchone() != (last,):
            if time.monotonic() > deadline:
                message = "the target did not get all rows"
                raise TimeoutError(message)
            time.sleep(0.1)


def _used(pid: int) -> float:
    """Processor seconds of a process and all that it started."""
    seconds = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        seconds += times.user + times.system
    return seconds
