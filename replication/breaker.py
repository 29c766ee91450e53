"""A circuit breaker: when to try again at a node that does not answer.

Pure: the time and the luck for the jitter are arguments. `closed` while the node answers and after a first
failure, which may be a cut connection; then `open`: nothing is tried until the pause is over; then
`half-open`: one try, which closes it or opens it again, with twice the pause.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """One breaker. Times are seconds of any clock that does not go back.

    Args:
        first: the pause after the first failure, seconds.
        most: the longest pause.
        threshold: how many failures in a row open it.

    Attributes:
        state: see `State`.
        failures: how many in a row.
        since: when the first of them was; None while there is none.
        next_try: when the pause is over.
    """

    def __init__(self, first: float = 0.1, most: float = 30.0, threshold: int = 2) -> None:
        self._first = min(first, most)
        self._most = most
        self._threshold = threshold
        self.state = State.CLOSED
        self.failures = 0
        self.since: float | None = None
        self.next_try = 0.0

    def due(self, now: float) -> bool:
        """Whether to try now. An open breaker whose pause is over becomes half-open."""
        if self.failures and now < self.next_try:
            return False
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN
        return True

    def fail(self, now: float, luck: float) -> float:
        """A try has failed.

        Args:
            now: the time.
            luck: from 0 to 1; chosen at random, so that not all who wait try at the same moment.

        Returns:
            seconds until the next try: between half the pause and the whole of it.
        """
        if self.since is None:
            self.since = now
        longest = self._first
        for _ in range(self.failures):  # a power would be beyond any number after a day
            longest *= 2
            if longest >= self._most:
                longest = self._most
                break
        self.failures += 1
        if self.state is State.HALF_OPEN or self.failures >= self._threshold:
            self.state = State.OPEN
        pause = longest * (0.5 + 0.5 * luck)
        self.next_try = now + pause
        return pause

    def succeed(self) -> None:
        """A try has succeeded."""
        self.state = State.CLOSED
        self.failures = 0
        self.since = None
