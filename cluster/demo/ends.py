"""The databases of the demo as its parts need them: change a row, look a key up, count, write a probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import pymysql
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from cluster.demo.data import FLIGHTS, KEYS, PROBES
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig

Values = Mapping[str, Any]
ERRORS = (psycopg.Error, pymysql.Error, PyMongoError)
"""What the drivers raise."""
_WRITE_CONFLICT = 112
_SQL_CONFLICTS = (1205, 1213)
"""InnoDB: a lock was waited for too long, and a deadlock. An application tries again."""


class End(ABC):
    """One connection to one database, for one thread."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    def upsert(self, table: str, id: int, values: Values) -> int:
        """Write some columns of a row, which is made if it is missing. Returns how many rows that changed."""

    @abstractmethod
    def update(self, table: str, id: int, values: Values) -> int:
        """Write some columns of a row that is there. Returns how many rows that changed."""

    @abstractmethod
    def delete(self, table: str, id: int) -> int:
        """Delete a row. Returns how many there were."""

    @abstractmethod
    def has(self, table: str, key: Any) -> bool:
        """Whether there is a row with this key."""

    @abstractmethod
    def count(self, table: str) -> int:
        """How many rows there are."""

    @abstractmethod
    def token(self, id: int) -> int | None:
        """The token of a probe."""

    def probe(self, id: int, token: int) -> None:
        """Commit a probe's token."""
        self.upsert(PROBES, id, {"token": token})

    def flights(self) -> int:
        """How many flights there are."""
        return self.count(FLIGHTS)


class _SqlEnd(ABC):
    """Statements that PostgreSQL and MySQL take alike; every name in them is one of our own."""

    @abstractmethod
    def _run(self, query: str, values: list[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        """Run one statement, and again where it met another: rows concerned, and rows found."""

    def update(self, table: str, id: int, values: Values) -> int:
        """See `End`."""
        changes = ", ".join(f"{name} = %s" for name in values)
        return self._run(f"UPDATE {table} SET {changes} WHERE id = %s", [*values.values(), id])[0]

    def delete(self, table: str, id: int) -> int:
        """See `End`."""
        return self._run(f"DELETE FROM {table} WHERE id = %s", [id])[0]

    def has(self, table: str, key: Any) -> bool:
        """See `End`."""
        name = KEYS[table][0]
        return bool(self._run(f"SELECT 1 FROM {table} WHERE {name} = %s", [key])[1])

    def count(self, table: str) -> int:
        """See `End`."""
        return int(self._run(f"SELECT count(*) FROM {table}", [])[1][0][0])

    def token(self, id: int) -> int | None:
        """See `End`."""
        found = self._run(f"SELECT token FROM {PROBES} WHERE id = %s", [id])[1]
        return found[0][0] if found else None

    def _insert(self, table: str, id: int, values: Values, otherwise: str) -> int:
        names, places = ", ".join(["id", *values]), ", ".join(["%s"] * (1 + len(values)))
        changes = ", ".join(f"{name} = %s" for name in values)
        query = f"INSERT INTO {table} ({names}) VALUES ({places}) {otherwise} {changes}"
        return self._run(query, [id, *values.values(), *values.values()])[0]


class PostgresEnd(_SqlEnd, End):
    """PostgreSQL."""

    def __init__(self, dsn: str) -> None:
        self._session = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        """See `End`."""
        self._session.close()

    def upsert(self, table: str, id: int, values: Values) -> int:
        """See `End`."""
        return self._insert(table, id, values, "ON CONFLICT (id) DO UPDATE SET")

    def _run(self, query: str, values: list[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        cursor = self._session.execute(query.encode(), values)
        return cursor.rowcount, cursor.fetchall() if cursor.description else []


class MysqlEnd(_SqlEnd, End):
    """MySQL."""

    def __init__(self, dsn: str) -> None:
        self._session = connect(parse(NodeConfig("my", "mysql", dsn)))
        self._session.autocommit(True)

    def close(self) -> None:
        """See `End`."""
        self._session.close()

    def upsert(self, table: str, id: int, values: Values) -> int:
        """See `End`."""
        # It counts an insert as one row, and an update that changes something as two.
        return min(1, self._insert(table, id, values, "ON DUPLICATE KEY UPDATE"))

    def _run(self, query: str, values: list[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        while True:
            try:
                with self._session.cursor() as cursor:
                    cursor.execute(query, values)
                    return cursor.rowcount, list(cursor.fetchall())
            except pymysql.OperationalError as error:
                if error.args[0] not in _SQL_CONFLICTS:
                    raise


class MongoEnd(End):
    """MongoDB; a write that meets another is tried again, as drivers and applications do."""

    def __init__(self, dsn: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(dsn)
        self._db = self._client.get_default_database()

    def close(self) -> None:
        """See `End`."""
        self._client.close()

    def update(self, table: str, id: int, values: Values) -> int:
        """See `End`."""
        return self._set(table, id, values, upsert=False)

    def upsert(self, table: str, id: int, values: Values) -> int:
        """See `End`."""
        return self._set(table, id, values, upsert=True)

    def delete(self, table: str, id: int) -> int:
        """See `End`."""
        return _again(lambda: self._db[table].delete_one({"_id": id}).deleted_count)

    def has(self, table: str, key: Any) -> bool:
        """See `End`."""
        return self._db[table].find_one({"_id": key}, {"_id": 1}) is not None

    def count(self, table: str) -> int:
        """See `End`."""
        return self._db[table].count_documents({})

    def token(self, id: int) -> int | None:
        """See `End`."""
        row = self._db[PROBES].find_one({"_id": id})
        return None if row is None else row["token"]

    def _set(self, table: str, id: int, values: Values, *, upsert: bool) -> int:
        def write() -> int:
            done = self._db[table].update_one({"_id": id}, {"$set": values}, upsert=upsert)
            return 1 if done.upserted_id is not None else done.modified_count

        return _again(write)


def _again(write: Callable[[], int]) -> int:
    while True:
        try:
            return write()
        except OperationFailure as error:
            if error.code != _WRITE_CONFLICT:
                raise


def open_end(engine: str, dsn: str) -> End:
    """Connect to a database of the demo."""
    if engine == "postgres":
        return PostgresEnd(dsn)
    return MysqlEnd(dsn) if engine == "mysql" else MongoEnd(dsn)
