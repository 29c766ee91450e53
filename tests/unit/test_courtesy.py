"""When work that nobody waits for leaves the processor to others."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from actors.courtesy import LONGEST_SECONDS, TIMES, Courtesy, stood_in_line


class Machine:
    """Its two clocks, as the test sets them."""

    def __init__(self) -> None:
        self.now = self.line = 0.0

    def courtesy(self, most_late: float = 10.0) -> Courtesy:
        return Courtesy(most_late, lambda: self.now, lambda: self.line)

    def work(self, took: float, stood: float) -> None:
        self.now += took
        self.line += stood


@pytest.mark.parametrize(
    ("took", "stood", "pause"),
    [(0.1, 0.0, 0.0), (0.1, 0.01, 0.0), (0.1, 0.05, TIMES * 0.1), (60.0, 50.0, LONGEST_SECONDS), (0, 0, 0)],
)
def test_it_pauses_where_it_stood_in_line_for_the_processor(took: float, stood: float, pause: float) -> None:
    machine = Machine()
    courtesy = machine.courtesy()
    courtesy.begin()
    machine.work(took, stood)
    assert courtesy.pause(0.0) == pytest.approx(pause)


def test_the_pause_itself_does_not_count() -> None:
    machine = Machine()
    courtesy = machine.courtesy()
    machine.work(0.1, 0.05)
    assert courtesy.pause(0.0) > 0
    machine.work(0.8, 0.0)
    courtesy.begin()
    machine.work(0.1, 0.0)
    assert courtesy.pause(0.0) == 0


def test_what_is_very_late_does_not_pause() -> None:
    machine = Machine()
    courtesy = machine.courtesy(most_late=5.0)
    machine.work(0.1, 0.1)
    assert courtesy.pause(4.9) > 0
    assert courtesy.pause(5.0) == 0


def test_without_a_limit_of_lateness_it_never_pauses() -> None:
    machine = Machine()
    courtesy = machine.courtesy(most_late=0.0)
    machine.work(0.1, 0.1)
    assert courtesy.pause(0.0) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_linux_counts_how_long_a_thread_stands_in_line() -> None:
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    spin = f"import os; os.sched_setaffinity(0, {one})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            os.sched_setaffinity(0, one)
            before, deadline = stood_in_line(), time.monotonic() + 60
            while stood_in_line() - before < 0.01:
                assert time.monotonic() < deadline, "two share a processor, and nobody stands in line"
        finally:
            os.sched_setaffinity(0, allowed)
            other.kill()
