"""Applications that write flights at every end: at a steady rate, and now and then the same row at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

from cluster.demo.data import FLIGHTS
from cluster.demo.ends import ERRORS, End

HOT_ROWS = 20
HOT_SHARE = 0.05
"""So large a part of the changes goes to the first `HOT_ROWS` flights."""
_COLUMNS = ("dep_delay", "arr_delay", "air_time")
_PAUSE = 0.004


class Writer(threading.Thread):
    """Makes changes at a rate until stopped, or as fast as its database takes them.

    Args:
        node: its name.
        connect: to its database.
        rate: changes per second.
        flights: ids go from 1 to this at the start.
        first_new: the id of its first new flight.
        step: every so many ids from there on is one of its own.
    """

    def __init__(
        self, node: str, connect: Callable[[], End], rate: float, flights: int, first_new: int, step: int
    ) -> None:
        super().__init__(name=f"writer-{node}", daemon=True)
        self.node = node
        self.counts: Counter[str] = Counter()
        self.error: Exception | None = None
        self._connect = connect
        self._rate = rate
        self._flights = flights
        self._next = first_new
        self._step = step
        self._random = random.Random(first_new)
        self._stopping = threading.Event()

    @property
    def done(self) -> int:
        """How many changes it has committed."""
        return sum(self.counts.values())

    def stop(self) -> None:
        """End after the change at hand, and wait for that."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Write; the thread's body."""
        try:
            with closing(self._connect()) as end:
                self._write(end, time.monotonic())
        except ERRORS as error:
            self.error = error

    def _write(self, end: End, started: float) -> None:
        tried = 0
        while not self._stopping.is_set():
            if tried >= (time.monotonic() - started) * self._rate:
                self._stopping.wait(_PAUSE)
                continue
            tried += 1
            name, changed = self._change(end)
            self.counts[name] += changed

    def _change(self, end: End) -> tuple[str, int]:
        """One change: what it was, and how many rows it concerned."""
        draw = self._random
        values = {draw.choice(_COLUMNS): draw.randint(-30, 300)}
        if draw.random() < HOT_SHARE:
            id = draw.randint(1, HOT_ROWS)
            if draw.random() < 0.1:
                return "delete", end.delete(FLIGHTS, id)
            return "update", end.upsert(FLIGHTS, id, values)
        what = draw.random()
        if what < 0.1:
            self._next += self._step
            return "insert", end.upsert(FLIGHTS, self._next, {"carrier": "SW", **values})
        id = draw.randint(HOT_ROWS + 1, self._flights)
        if what < 0.15:
            return "delete", end.delete(FLIGHTS, id)
        return "update", end.update(FLIGHTS, id, values)
