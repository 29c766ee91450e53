"""RabbitMQ with the local store behind it: an outage of the broker is nothing but a detour.

While the broker is away, what is to be kept goes to the local store; what it holds itself comes when it is
back. Then everything in the local store moves to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from actors.guard import Guard
from replication.errors import Transient
from replication.retries import DeadLetter, Deferred, RetryStore, StoreHealth

log = logging.getLogger(__name__)
LONGEST_PAUSE = 30.0


class WithFallback:
    """See `RetryStore`; raises nothing for a broker that is away.

    Args:
        connect: connects to the broker.
        local: the local store.
        most: longest pause between two tries to connect, seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], RetryStore],
        local: RetryStore,
        most: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._local = local
        self._broker: RetryStore | None = None
        self._clock = clock
        self._next = 0.0
        self._guard = Guard("rabbitmq", "retries", most, clock)
        self._connections = 0

    def _reach(self, now: float) -> None:
        """Connect if it is time to, and move what the local store holds."""
        if self._broker is not None or self._clock() < self._next:
            return
        self._guard.pause()
        try:
            broker = self._connect()
        except Transient as away:
            self._failed(away)
            return
        self._broker = broker
        if self._try(lambda b: self._move(b, now)):
            self._guard.succeeded()
            self._connections += 1

    def recall(self, now: float) -> list[Deferred]:
        """See `RetryQueue`. Of a broker that is away nothing is known."""
        self._reach(now)
        found: list[Deferred] = []
        self._try(lambda broker: found.extend(broker.recall(now)))
        return found + self._local.recall(now)

    def defer(self, entries: Sequence[Deferred], now: float) -> None:
        """See `RetryQueue`."""
        if entries and not self._try(lambda broker: broker.defer(entries, now)):
            self._local.defer(entries, now)

    def due(self, now: float) -> list[Deferred]:
        """See `RetryQueue`."""
        self._reach(now)
        found: list[Deferred] = []
        self._try(lambda broker: found.extend(broker.due(now)))
        return found + self._local.due(now)

    def confirm(self, entries: Sequence[Deferred]) -> None:
        """See `RetryQueue`. What the broker does not hear, it delivers again."""
        self._try(lambda broker: broker.confirm(entries))
        self._local.confirm(entries)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters`."""
        if letters and not self._try(lambda broker: broker.bury(letters)):
            self._local.bury(letters)

    def buried(self) -> list[DeadLetter]:
        """See `DeadLetters`."""
        found: list[DeadLetter] = []
        self._try(lambda broker: found.extend(broker.buried()))
        return list({letter.ident: letter for letter in found + self._local.buried()}.values())

    def take(self, idents: Collection[str]) -> None:
        """See `DeadLetters`."""
        self._try(lambda broker: broker.take(idents))
        self._local.take(idents)

    def health(self) -> StoreHealth:
        """See `RetryStore`."""
        guard = self._guard.status()
        return StoreHealth("rabbitmq", self._connections, guard.since, guard.error)

    def close(self) -> None:
        """See `RetryStore`."""
        self._let_go()
        self._local.close()

    def _try(self, use: Callable[[RetryStore], object]) -> bool:
        """Use the broker; False if it is away."""
        if self._broker is None:
            return False
        try:
            use(self._broker)
        except Transient as away:
            self._failed(away)
            return False
        return True

    def _failed(self, away: Transient) -> None:
        self._let_go()
        self._guard.failed(away)
        self._next = self._clock() + self._guard.status().next_try

    def _let_go(self) -> None:
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def _move(self, broker: RetryStore, now: float) -> None:
        entries, letters = self._local.recall(now), self._local.buried()
        broker.defer(entries, now)
        broker.bury(letters)
        self._local.confirm(entries)
        self._local.take([letter.ident for letter in letters])
        if entries or letters:
            log.info("retries_moved", extra={"entries": len(entries), "dead": len(letters)})
