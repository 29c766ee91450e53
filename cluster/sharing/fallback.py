"""A store elsewhere with one nearer behind it: an outage costs exactness, and nobody waits for it.

A thread connects and asks every second whether it is there still, so an outage is seen without a request,
and is over by itself. A request meets it at most once: whoever fails hands over to the nearer store for all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from actors.guard import Guard
from cluster.sharing.store import SharedHealth, SharedStore
from replication.errors import Transient

log = logging.getLogger(__name__)
PROBE_SECONDS = 1.0
LONGEST_PAUSE = 5.0
_Given = TypeVar("_Given")


class WithFallback:
    """See `SharedStore`; raises nothing for a store that is away.

    Args:
        kind: what it is, `redis` or `ray`.
        connect: connects to it.
        near: what does its work meanwhile.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kind: str,
        connect: Callable[[], SharedStore],
        near: SharedStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind, self._connect, self._near = kind, connect, near
        self._far: SharedStore | None = None
        self._guard = Guard(kind, "api", LONGEST_PAUSE, clock)
        self._lock = threading.Lock()
        self._ended, self._wake = False, threading.Event()
        self._reach()
        self._thread = threading.Thread(target=self._watch, name=f"{kind} watch", daemon=True)
        self._thread.start()

    def hit(self, kind: str, who: str, most: int) -> float:
        """See `Rates`."""
        return self._use(lambda store: store.hit(kind, who, most))

    def put(self, shelf: str, name: str, value: bytes, seconds: float) -> None:
        """See `Board`."""
        self._use(lambda store: store.put(shelf, name, value, seconds))

    def get(self, shelf: str, name: str) -> bytes | None:
        """See `Board`. What was put while the other store was at work is not found."""
        return self._use(lambda store: store.get(shelf, name))

    def all(self, shelf: str) -> dict[str, bytes]:
        """See `Board`."""
        return self._use(lambda store: store.all(shelf))

    def health(self) -> SharedHealth:
        """See `SharedStore`."""
        with self._lock:
            guard = self._guard.status()
        return SharedHealth(self._kind, guard.since, guard.error)

    def close(self) -> None:
        """See `SharedStore`."""
        self._ended = True
        self._wake.set()
        self._thread.join()
        if self._far is not None:
            self._far.close()
        self._near.close()

    def _use(self, work: Callable[[SharedStore], _Given]) -> _Given:
        far = self._far
        if far is not None:
            try:
                return work(far)
            except Transient as away:
                self._lost(far, away)
        return work(self._near)

    def _lost(self, far: SharedStore, away: Transient) -> None:
        with self._lock:
            if self._far is not far:
                return  # somebody else has met it before
            self._far = None
            self._guard.failed(away)
        self._wake.set()  # other threads may be using it: it is closed with the last of them, not here

    def _reach(self) -> None:
        with self._lock:
            self._guard.pause()  # it is over; says that a try is made
        try:
            far = self._connect()
        except Transient as away:
            with self._lock:
                self._guard.failed(away)
            return
        with self._lock:
            self._far = far
            self._guard.succeeded()

    def _watch(self) -> None:
        while not self._ended:
            with self._lock:
                pause = self._guard.pause() if self._far is None else PROBE_SECONDS
            self._wake.wait(pause)
            self._wake.clear()
            if self._ended:
                return
            if self._far is not None:
                self._use(lambda store: store.get("probe", ""))
            elif not self._guard.status().next_try:
                self._reach()
