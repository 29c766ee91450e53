"""How long a committed row takes to the other end: write a token, and look until it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np

from cluster.demo.ends import ERRORS, End

LOOK_SECONDS = 0.002
EVERY_SECONDS = 0.1


class Probe(threading.Thread):
    """Sends one token after the other in one direction, and keeps how long each took.

    Args:
        name: for people, `pg → mongo`.
        id: its row, which nobody else writes.
        here: connects where it writes.
        there: connects where it looks.
    """

    def __init__(self, name: str, id: int, here: Callable[[], End], there: Callable[[], End]) -> None:
        super().__init__(name=name, daemon=True)
        self.seconds: list[float] = []
        """From the end of the commit to the first sight of the row."""
        self.error: Exception | None = None
        self._id = id
        self._ends = (here, there)
        self._token = 0
        self._committed: float | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Send tokens; the thread's body."""
        try:
            with closing(self._ends[0]()) as here, closing(self._ends[1]()) as there:
                while not self._stopping.is_set() and self._send(here, there):
                    self._stopping.wait(EVERY_SECONDS)
        except ERRORS as error:
            self.error = error

    def stop(self) -> None:
        """End, and wait for that."""
        self._stopping.set()
        self.join()

    @property
    def under_way(self) -> float:
        """For how many seconds the present token has been on its way; 0 without one."""
        committed = self._committed
        return 0.0 if committed is None else time.monotonic() - committed

    def lag(self, quantile: float) -> float | None:
        """A quantile of the lag in seconds; None before a token has arrived."""
        return float(np.quantile(self.seconds, quantile)) if self.seconds else None

    def _send(self, here: End, there: End) -> bool:
        self._token += 1
        here.probe(self._id, self._token)
        self._committed = committed = time.monotonic()
        while there.token(self._id) != self._token:
            if self._stopping.wait(LOOK_SECONDS):
                if self.under_way < 1:
                    self._committed = None  # it was only just sent
                return False
        self.seconds.append(time.monotonic() - committed)
        self._committed = None
        return True
