"""How long a committed row takes to the other end: write a token, and look until it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import psycopg
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from cluster.demo.data import PROBES

LOOK_SECONDS = 0.002
EVERY_SECONDS = 0.1


class End(Protocol):
    """One database, as a probe needs it."""

    def write(self, id: int, token: int) -> None:
        """Commit the row."""

    def read(self, id: int) -> int | None:
        """The token that is there."""

    def close(self) -> None:
        """Disconnect."""


class PostgresEnd:
    """See `End`."""

    def __init__(self, dsn: str) -> None:
        self._session = psycopg.connect(dsn, autocommit=True)
        self.close = self._session.close

    def write(self, id: int, token: int) -> None:
        """See `End`."""
        self._session.execute(
            f"INSERT INTO {PROBES} VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET token = EXCLUDED.token",
            [id, token],
        )

    def read(self, id: int) -> int | None:
        """See `End`."""
        row = self._session.execute(f"SELECT token FROM {PROBES} WHERE id = %s", [id]).fetchone()
        return None if row is None else row[0]


class MongoEnd:
    """See `End`."""

    def __init__(self, dsn: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(dsn)
        self._rows = self._client.get_default_database()[PROBES]
        self.close = self._client.close

    def write(self, id: int, token: int) -> None:
        """See `End`."""
        self._rows.update_one({"_id": id}, {"$set": {"token": token}}, upsert=True)

    def read(self, id: int) -> int | None:
        """See `End`."""
        row = self._rows.find_one({"_id": id})
        return None if row is None else row["token"]


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
        except (psycopg.Error, PyMongoError) as error:
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
        here.write(self._id, self._token)
        self._committed = committed = time.monotonic()
        while there.read(self._id) != self._token:
            if self._stopping.wait(LOOK_SECONDS):
                return False
        self.seconds.append(time.monotonic() - committed)
        self._committed = None
        return True
