"""`python -m load.soak`: random schedules of the conflict core without end, in parallel processes.

Run it in the repository: the schedules and their invariants are those of the property tests. A schedule that
breaks one is named by its seed and policies, and can be run again alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing import get_context

TESTS = "tests.property.test_convergence"
CHUNK = 250
PROGRESS_SECONDS = 5.0
AHEAD = 4
"""Chunks that wait for each process."""

Chunk = tuple[tuple[str, ...], int, int]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of some schedules; `failure` describes the first that failed."""

    schedules: int = 0
    writes: int = 0
    conflicts: int = 0
    crashes: int = 0
    failure: str = ""

    def __add__(self, other: Result) -> Result:
        return Result(
            self.schedules + other.schedules,
            self.writes + other.writes,
            self.conflicts + other.conflicts,
            self.crashes + other.crashes,
            self.failure or other.failure,
        )


def run(chunk: Chunk) -> Result:
    """Run the schedules of one chunk, up to the first that fails."""
    explore = import_module(TESTS).explore
    policies, first, count = chunk
    total = Result()
    for seed in range(first, first + count):
        try:
            total += Result(1, *explore(policies, seed, 1))
        except Exception:  # noqa: BLE001  whatever it is, the schedule failed
            again = f'python -c "from {TESTS} import explore; explore({policies!r}, {seed}, 1)"'
            return total + Result(1, failure=f"seed {seed}: {again}\n{traceback.format_exc()}")
    return total


def chunks(schedules: int, base: int) -> Iterator[Chunk]:
    """Seeds from `base`, each with every list of policies in turn, until there are so many schedules."""
    policies: list[tuple[str, ...]] = import_module(TESTS).POLICIES
    left, seed = schedules, base
    while left:
        for each in policies:
            count = min(CHUNK, left)
            if count:
                yield each, seed, count
            left -= count
        seed += CHUNK


def soak(schedules: int, base: int, processes: int) -> Result:
    """Run so many schedules, with a line of progress now and then; stops early when one fails."""
    began = told = time.monotonic()
    total, todo = Result(), chunks(schedules, base)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running: set[Future[Result]] = {pool.submit(run, c) for c in islice(todo, processes * AHEAD)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                total += future.result()
                running |= {pool.submit(run, c) for c in islice(todo, 1)}
            if total.failure:
                pool.shutdown(cancel_futures=True)
                break
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                rate = total.schedules / (told - began)
                left = (schedules - total.schedules) / rate
                print(f"{total.schedules:,} schedules, {rate:,.0f}/s, {left:,.0f} s left", flush=True)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak.

    Returns:
        the exit code: 0 when every schedule held, 1 when one failed.
    """
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--schedules", type=int, default=int(os.environ.get("SCHEDULES", "1000000")))
    parser.add_argument("--base", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    total = soak(options.schedules, options.base, options.processes)
    print(
        f"{'FAILED' if total.failure else 'held'}: {total.schedules:,} schedules, {total.writes:,} writes, "
        f"{total.conflicts:,} conflicts, {total.crashes:,} crashes in {time.monotonic() - began:,.0f} s"
    )
    if total.failure:
        print(total.failure)
    return int(bool(total.failure))


if __name__ == "__main__":
    sys.exit(main())
