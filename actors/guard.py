"""A node's breaker with a clock, as the parts that connect to the node use it; its changes are logged."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from replication.breaker import Breaker, State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """What an operator sees of a part's way to its node.

    Attributes:
        node: the node.
        part: which part connects to it.
        state: `closed`, `open`, `half-open`.
        failures: how many in a row.
        since: when the first of them was, ISO 8601 in UTC; empty while there is none.
        next_try: seconds until the next try.
        error: the last one.
    """

    node: str
    part: str
    state: str
    failures: int = 0
    since: str = ""
    next_try: float = 0.0
    error: str = ""


class Guard:
    """Decides when a part tries again at its node.

    Args:
        node: the node.
        part: which part it is.
        most: longest pause between two tries, seconds.
        clock: monotonic seconds.
        wall: seconds since 1970.
        luck: a number from 0 to 1.
    """

    def __init__(
        self,
        node: str,
        part: str,
        most: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self.node = node
        self.part = part
        self._breaker = Breaker(most=most)
        self._clock, self._wall, self._luck = clock, wall, luck
        self._error = self._since = ""

    def pause(self) -> float:
        """Seconds to wait before the try that is about to be made."""
        breaker, now = self._breaker, self._clock()
        left = max(0.0, breaker.next_try - now) if breaker.failures else 0.0
        before = breaker.state
        breaker.due(now + left)
        if breaker.state is not before:
            log.info("breaker_half_open", extra=self._detail())
        return left

    def failed(self, error: BaseException) -> None:
        """A try has failed."""
        breaker, before = self._breaker, self._breaker.state
        self._error = str(error)
        self._since = self._since or datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds")
        pause = breaker.fail(self._clock(), self._luck())
        detail = self._detail() | {"failures": breaker.failures, "pause": round(pause, 2)}
        detail["error"] = self._error
        if breaker.state is State.OPEN and before is not State.OPEN:
            log.warning("breaker_open", extra=detail)
        else:
            log.warning("tries_again", extra=detail)

    def succeeded(self) -> None:
        """A try has succeeded. Cheap while the breaker is closed."""
        breaker = self._breaker
        if breaker.since is None:
            return
        seconds, before = round(self._clock() - breaker.since, 1), breaker.state
        breaker.succeed()
        self._error = self._since = ""
        if before is not State.CLOSED:
            log.info("breaker_closed", extra=self._detail() | {"seconds": seconds})

    def status(self) -> GuardStatus:
        """What an operator sees."""
        breaker = self._breaker
        left = round(max(0.0, breaker.next_try - self._clock()), 1) if breaker.failures else 0.0
        state, failures = str(breaker.state), breaker.failures
        return GuardStatus(self.node, self.part, state, failures, self._since, left, self._error)

    def _detail(self) -> dict[str, object]:
        return {"node": self.node, "part": self.part}
