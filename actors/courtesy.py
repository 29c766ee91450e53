"""Leaving the processor to others, where there is too little of it: for work that nobody waits for.

Priorities do not do it: what a process of low priority leaves is only as much as others ask for in the very
moments in which it could run, and each of those asks for little and often.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SCARCE = 0.2
"""The processor is scarce where work has stood in line for it for such a share of its time."""
TIMES, LONGEST_SECONDS = 8.0, 2.0
"""Then it pauses for so many times its own time, and at most so long."""


def stood_in_line() -> float:
    """How many seconds this thread has been ready to run and did not, since it began; 0 where no one counts.

    Source: `Documentation/scheduler/sched-stats.rst` of Linux, the second number of a task's `schedstat`.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as counts:
            return int(counts.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class Courtesy:
    """Says how long to pause after a piece of work; asked by the thread that does it.

    Args:
        most_late: where work is later than so many seconds, it does not pause.
        clock: seconds, monotonic.
        line: seconds in which this thread stood in line.
    """

    def __init__(
        self,
        most_late: float,
        clock: Callable[[], float] = time.monotonic,
        line: Callable[[], float] = stood_in_line,
    ) -> None:
        self._most_late, self._clock, self._line = most_late, clock, line
        self.begin()

    def begin(self) -> None:
        """A piece of work begins."""
        self._began, self._stood = self._clock(), self._line()

    def pause(self, late: float) -> float:
        """Seconds to pause, now that it is done; `late` is how many seconds it came after its time."""
        took, stood = self._clock() - self._began, self._line() - self._stood
        if late >= self._most_late or stood <= SCARCE * took:
            return 0.0
        return min(TIMES * took, LONGEST_SECONDS)
