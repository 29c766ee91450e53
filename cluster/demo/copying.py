"""How far the initial copy has come.

Counting a collection may take the server seconds; looking a key up does not. The copy goes in the order of
the keys, so the number of copied rows is found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import psycopg
import pyarrow as pa
from pymongo import MongoClient

from cluster.demo.data import FLIGHTS, KEYS


class CopyProgress:
    """Looks into MongoDB.

    Args:
        dsn: its database.
        tables: what is copied, in the order of the keys.
    """

    def __init__(self, dsn: str, tables: Mapping[str, pa.Table]) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(dsn)
        self._db = self._client.get_default_database()
        self._keys = {name: table.column(KEYS[name][0]) for name, table in tables.items()}

    def copied(self) -> int:
        """About how many rows are there."""
        return sum(self._copied(name) for name in self._keys)

    def finished(self) -> bool:
        """Are all rows there? Counted only when the last ones are."""
        last = all(self._has(name, len(keys) - 1) for name, keys in self._keys.items())
        return last and all(
            self._db[name].count_documents({}) == len(keys) for name, keys in self._keys.items()
        )

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def _copied(self, name: str) -> int:
        places = range(len(self._keys[name]))
        return bisect_left(places, True, key=lambda place: not self._has(name, place))

    def _has(self, name: str, place: int) -> bool:
        key = self._keys[name][place].as_py()
        return self._db[name].find_one({"_id": key}, {"_id": 1}) is not None


def count_flights(postgres: str, mongodb: str) -> tuple[int, int]:
    """How many flights there are in PostgreSQL, and in MongoDB."""
    client: MongoClient[dict[str, Any]] = MongoClient(mongodb)
    with psycopg.connect(postgres) as c, client:
        row = c.execute(f"SELECT count(*) FROM {FLIGHTS}").fetchone()
        return row[0] if row else 0, client.get_default_database()[FLIGHTS].count_documents({})
