"""Bounds of a running group, and how many rows a node may be given at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from replication.pacing import USUAL_BOUNDS, Bounds

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a running group.

    Attributes:
        poll_rows: about the most changes read from a log at a time.
        batch_rows: about the most rows in one apply transaction: when as many wait for a node, the other logs
            are held back; one poll may come on top.
        max_backlog: rows on their way to one node above which the other logs are held back.
        max_away: the same for a node that does not answer or that catches up.
        whole: never split what waits for a node, so that a transaction of the source stays one.
        wait: seconds to wait on an idle log.
        heartbeat: seconds between heartbeats of an idle group.
        retry_max: longest pause between two tries of an apply, seconds.
        copy_workers: how many readers read for the initial copy from a node at once.
        copy_bounds: what a copy may make the nodes bear.
    """

    poll_rows: int = 10_000
    batch_rows: int = 20_000
    max_backlog: int = 100_000
    max_away: int = 500_000
    whole: bool = False
    wait: float = 0.2
    heartbeat: float = 10.0
    retry_max: float = 30.0
    copy_workers: int = 1
    copy_bounds: Bounds = USUAL_BOUNDS


FIRST_ROWS = 1_000
LEAST_ROWS = 200
MOST_BYTES = 32 << 20
"""About the most of one apply transaction; a few of its size are in memory at once, in several parts."""

UNRECORDED_BYTES = 4 * MOST_BYTES
"""Of changes that are not on record: as many stay in memory, however fast the nodes take them."""


class BatchSize:
    """How many rows the next transaction on a node may have: more after each that went through at once.

    A transaction that meets an application's is tried again as a whole, and the longer it takes, the more
    likely it meets the next. So a write conflict makes the ones after it smaller. Of long rows as many go
    as the last transaction had in `MOST_BYTES`.

    Args:
        most: the most rows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, FIRST_ROWS)

    def learn(self, rows: int, conflicts: int, size: int = 0) -> None:
        """A transaction of so many rows, of `size` bytes, went through after so many write conflicts."""
        if conflicts:
            self.rows = max(min(LEAST_ROWS, self._most), self.rows // (1 + conflicts))
        elif 2 * rows >= self.rows:
            self.rows = min(self._most, 2 * self.rows)
        if rows and size:
            self.rows = max(1, min(self.rows, MOST_BYTES * rows // size))


AWAY_SECONDS = 5.0


class Lag:
    """Whether a node is away, or catches up after it was, so that nobody waits for it.

    Args:
        node: its name.
        clock: monotonic seconds.
    """

    def __init__(self, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._asked = 0.0
        self._waiting = False
        self.since: float | None = None
        """When it was asked what it has not answered, while it lags."""

    def ask(self) -> None:
        """It was sent a transaction."""
        if not self._waiting:
            self._waiting, self._asked = True, self._clock()

    def answer(self, *, more: bool) -> None:
        """It has answered; `more` if another transaction is on its way."""
        self._waiting, self._asked = more, self._clock()

    def catch_up(self) -> None:
        """It was paused, and is to have what waited: nobody waits for it until then."""
        if self.since is None:
            self.since = self._clock()

    def look(self, waiting: int, enough: int) -> bool:
        """Whether it lags: it has not answered for long, and then until no more than `enough` rows wait."""
        silent = self._waiting and self._clock() - self._asked > AWAY_SECONDS
        if silent and self.since is None:
            self.since = self._asked
            log.warning("node_away", extra={"node": self._node, "waiting": waiting})
        elif self.since is not None and not silent and waiting <= enough:
            seconds = round(self._clock() - self.since, 1)
            self.since = None
            log.warning("node_caught_up", extra={"node": self._node, "seconds": seconds})
        return self.since is not None
