"""Bounds of a running group, and how many rows a node may be given at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a running group.

    Attributes:
        poll_rows: about the most changes read from a log at a time.
        batch_rows: about the most rows in one apply transaction: when as many wait for a node, the other logs
            are held back; one poll may come on top.
        max_backlog: rows on their way to one node above which the other logs are held back.
        wait: seconds to wait on an idle log.
        heartbeat: seconds between heartbeats of an idle group.
        retry_max: longest pause between two tries of an apply, seconds.
    """

    poll_rows: int = 10_000
    batch_rows: int = 20_000
    max_backlog: int = 100_000
    wait: float = 0.2
    heartbeat: float = 10.0
    retry_max: float = 30.0


FIRST_ROWS = 1_000
LEAST_ROWS = 200


class BatchSize:
    """How many rows the next transaction on a node may have: more after each that went through at once.

    A transaction that meets an application's is tried again as a whole, and the longer it takes, the more
    likely it meets the next. So a write conflict makes the ones after it smaller.

    Args:
        most: the most rows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, FIRST_ROWS)

    def learn(self, rows: int, conflicts: int) -> None:
        """A transaction of so many rows went through after so many write conflicts."""
        if conflicts:
            self.rows = max(min(LEAST_ROWS, self._most), self.rows // (1 + conflicts))
        elif 2 * rows >= self.rows:
            self.rows = min(self._most, 3 * self.rows // 2 + 1)
