"""Applications that write flights at both ends: at a steady rate, and now and then the same row at once."""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from cluster.demo.data import FLIGHTS

HOT_ROWS = 20
HOT_SHARE = 0.05
"""So large a part of the changes goes to the first `HOT_ROWS` flights."""
_COLUMNS = ("dep_delay", "arr_delay", "air_time")
_PAUSE = 0.004
_WRITE_CONFLICT = 112


class Writer(threading.Thread, ABC):
    """Makes changes at a rate until stopped, or as fast as its database takes them.

    Args:
        node: its name.
        rate: changes per second.
        flights: ids go from 1 to this at the start.
        first_new: the id of its first new flight; every second one from there on is its own.
    """

    def __init__(self, node: str, rate: float, flights: int, first_new: int) -> None:
        super().__init__(name=f"writer-{node}", daemon=True)
        self.node = node
        self.counts: Counter[str] = Counter()
        self.error: Exception | None = None
        self._rate = rate
        self._flights = flights
        self._next = first_new
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
            with closing(self._connect()):
                self._write(time.monotonic())
        except (psycopg.Error, PyMongoError) as error:
            self.error = error

    def _write(self, started: float) -> None:
        tried = 0
        while not self._stopping.is_set():
            if tried >= (time.monotonic() - started) * self._rate:
                self._stopping.wait(_PAUSE)
                continue
            tried += 1
            name, changed = self._change()
            self.counts[name] += changed

    def _change(self) -> tuple[str, int]:
        """One change: what it was, and how many rows it concerned."""
        draw = self._random
        values = {draw.choice(_COLUMNS): draw.randint(-30, 300)}
        if draw.random() < HOT_SHARE:
            id = draw.randint(1, HOT_ROWS)
            if draw.random() < 0.1:
                return "delete", self._remove(id)
            return "update", self._upsert(id, values)
        what = draw.random()
        if what < 0.1:
            self._next += 2
            return "insert", self._upsert(self._next, {"carrier": "SW", **values})
        id = draw.randint(HOT_ROWS + 1, self._flights)
        if what < 0.15:
            return "delete", self._remove(id)
        return "update", self._update(id, values)

    @abstractmethod
    def _connect(self) -> Any:
        """Connect; what has `close`."""

    @abstractmethod
    def _update(self, id: int, values: Mapping[str, Any]) -> int: ...

    @abstractmethod
    def _upsert(self, id: int, values: Mapping[str, Any]) -> int: ...

    @abstractmethod
    def _remove(self, id: int) -> int: ...


class PostgresWriter(Writer):
    """Writes to PostgreSQL, each change a transaction."""

    def __init__(self, dsn: str, rate: float, flights: int, first_new: int) -> None:
        super().__init__("pg", rate, flights, first_new)
        self._dsn = dsn

    def _connect(self) -> psycopg.Connection:
        self._session = psycopg.connect(self._dsn, autocommit=True)
        return self._session

    def _update(self, id: int, values: Mapping[str, Any]) -> int:
        query = sql.SQL("UPDATE {} SET {} WHERE id = %s").format(sql.Identifier(FLIGHTS), _assign(values))
        return self._session.execute(query, [*values.values(), id]).rowcount

    def _upsert(self, id: int, values: Mapping[str, Any]) -> int:
        query = sql.SQL("INSERT INTO {} (id, {}) VALUES (%s, {}) ON CONFLICT (id) DO UPDATE SET {}").format(
            sql.Identifier(FLIGHTS),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
            _assign(values),
        )
        return self._session.execute(query, [id, *values.values(), *values.values()]).rowcount

    def _remove(self, id: int) -> int:
        return self._session.execute(f"DELETE FROM {FLIGHTS} WHERE id = %s", [id]).rowcount


class MongoWriter(Writer):
    """Writes to MongoDB, each change an operation."""

    def __init__(self, dsn: str, rate: float, flights: int, first_new: int) -> None:
        super().__init__("mongo", rate, flights, first_new)
        self._dsn = dsn

    def _connect(self) -> MongoClient[dict[str, Any]]:
        client: MongoClient[dict[str, Any]] = MongoClient(self._dsn)
        self._flights_docs = client.get_default_database()[FLIGHTS]
        return client

    def _update(self, id: int, values: Mapping[str, Any]) -> int:
        return self._set(id, values, upsert=False)

    def _upsert(self, id: int, values: Mapping[str, Any]) -> int:
        return self._set(id, values, upsert=True)

    def _set(self, id: int, values: Mapping[str, Any], *, upsert: bool) -> int:
        while True:
            try:
                done = self._flights_docs.update_one({"_id": id}, {"$set": values}, upsert=upsert)
            except OperationFailure as error:
                if error.code != _WRITE_CONFLICT:
                    raise
            else:
                return 1 if done.upserted_id is not None else done.modified_count

    def _remove(self, id: int) -> int:
        while True:
            try:
                return self._flights_docs.delete_one({"_id": id}).deleted_count
            except OperationFailure as error:
                if error.code != _WRITE_CONFLICT:
                    raise


def _assign(values: Mapping[str, Any]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
