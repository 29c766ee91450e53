"""The database itself, and the open ones by name.

A database lives from `open_database` to `drop_database`. One lock guards it, held by a transaction from its
beginning to its end; the same lock is the condition that sources wait on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from replication.engines.memory.faults import Faults
from replication.engines.memory.log import Ddl, Entry, StoredMarker, TransactionLog
from replication.engines.memory.store import TableStore
from replication.engines.memory.transaction import Draft, Transaction
from replication.schema import Column, TableSchema


def wall_clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class MemoryDatabase:
    """Tables, a log, and the group's own tables.

    Args:
        name: for messages.
        clock: gives the commit time of transactions that name none, microseconds since 1970.
        log_limit: how many transactions the log keeps; None keeps all.
    """

    def __init__(
        self, name: str, *, clock: Callable[[], int] = wall_clock, log_limit: int | None = None
    ) -> None:
        self.name = name
        self.clock = clock
        self.lock = threading.Condition()
        self.faults = Faults(self.lock)
        self.log = TransactionLog(log_limit)
        self.tables: dict[str, TableStore] = {}
        self.markers: dict[tuple[str, int], StoredMarker] = {}
        self.state: dict[str, str] = {}
        self.slots: dict[str, int] = {}
        """For each group the order up to which it needs the log no more."""
        self.leases: dict[str, tuple[Any, str]] = {}
        """For each group the session that may run it, and its holder."""
        self.incarnation = 0
        """Connections of an earlier incarnation are cut."""
        self.running = True

    def create_table(self, schema: TableSchema) -> None:
        """Create a table in canonical types; its name and columns are this database's own."""
        with self.lock:
            if schema.name in self.tables:
                message = f"table {schema.name} exists"
                raise ValueError(message)
            self.tables[schema.name] = TableStore(schema)

    def drop_table(self, table: str) -> None:
        """Drop a table; the log says so."""
        with self.lock:
            del self.tables[table]
            self._log_ddl(Ddl(table, "drop", f"table {table} was dropped"))

    def truncate(self, table: str) -> None:
        """Remove every row in one stroke; the log says so and names no row."""
        with self.lock:
            self.tables[table].clear()
            self._log_ddl(Ddl(table, "truncate", f"table {table} was truncated"))

    def add_column(self, table: str, column: Column, fill: pa.Scalar | None = None) -> None:
        """Add a column, null or `fill` in the rows that exist; the log says so."""
        with self.lock:
            store = self.tables[table]
            old = store.schema
            store.add_column(TableSchema(old.name, (*old.columns, column), old.key), fill)
            self._log_ddl(Ddl(table, "alter", f"column {column.name} was added to {table}"))

    def retype_column(self, table: str, column: Column) -> None:
        """Give a column another type that holds its values; the log says so."""
        with self.lock:
            store = self.tables[table]
            columns = tuple(column if c.name == column.name else c for c in store.schema.columns)
            store.cast_columns(TableSchema(table, columns, store.schema.key))
            self._log_ddl(Ddl(table, "alter", f"column {column.name} of {table} is now {column.type.kind}"))

    def rename_column(self, table: str, old: str, new: str) -> None:
        """Rename a column that is not part of the key; the log says so."""
        with self.lock:
            store = self.tables[table]
            if old in store.schema.key:
                message = f"{old} is part of the key of {table}"
                raise ValueError(message)
            columns = tuple(replace(c, name=new) if c.name == old else c for c in store.schema.columns)
            store.rename_columns(TableSchema(table, columns, store.schema.key))
            self._log_ddl(Ddl(table, "alter", f"column {old} of {table} is now {new}"))

    @contextmanager
    def transaction(self, at: int | None = None) -> Iterator[Transaction]:
        """A transaction of an application, committed at the end and undone by an exception.

        Args:
            at: commit time, microseconds since 1970; the database's clock by default.
        """
        with self.lock:
            draft = Draft(self.tables)
            try:
                yield Transaction(draft)
            except BaseException:
                draft.abort()
                raise
            self.commit(draft, at=at)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row in key order, as plain Python values."""
        with self.lock:
            store = self.tables[table]
            found: list[dict[str, Any]] = store.gather(store.find(store.keys_after(None))).to_pylist()
            return found

    def trim_log(self, order: int | None = None) -> None:
        """Discard the log up to `order`; by default up to where every group has confirmed it."""
        with self.lock:
            if order is None:
                order = min(self.slots.values(), default=self.log.end)
            self.log.trim(order)

    def cut_connections(self) -> None:
        """Every open connection fails from now on; new ones work."""
        with self.lock:
            self.incarnation += 1
            self.lock.notify_all()

    def stop(self) -> None:
        """Cut every connection and accept no new one. Nothing is lost."""
        with self.lock:
            self.running = False
            self.cut_connections()

    def start(self) -> None:
        """Accept connections again."""
        with self.lock:
            self.running = True

    def commit(
        self,
        draft: Draft,
        *,
        at: int | None = None,
        marker: StoredMarker | None = None,
        watermark: tuple[str, str] | None = None,
    ) -> None:
        """Append a draft to the log. The caller holds the lock."""
        blocks = draft.blocks()
        if blocks or marker or watermark:
            self._append(at, draft.last, blocks=blocks, marker=marker, watermark=watermark)

    def note(self) -> None:
        """Append a transaction that concerns nobody's rows, as a write to a table of ours."""
        self._append(None, 0)

    def _log_ddl(self, ddl: Ddl) -> None:
        self._append(None, 0, ddl=ddl)

    def _append(self, at: int | None, last: int, **what: Any) -> None:
        time_of_commit = self.clock() if at is None else at
        self.log.append(Entry(self.log.next_number, time_of_commit, last, **what))
        self.lock.notify_all()


_open: dict[str, MemoryDatabase] = {}
_open_lock = threading.Lock()


def open_database(
    name: str, *, clock: Callable[[], int] = wall_clock, log_limit: int | None = None
) -> MemoryDatabase:
    """Create an empty database, to be reached as `memory://NAME` from this process."""
    with _open_lock:
        if name in _open:
            message = f"memory database {name} is open already"
            raise ValueError(message)
        _open[name] = MemoryDatabase(name, clock=clock, log_limit=log_limit)
        return _open[name]


def drop_database(name: str) -> None:
    """Forget a database and cut its connections; no error if there is none."""
    with _open_lock:
        database = _open.pop(name, None)
    if database is not None:
        database.stop()


def find_database(name: str) -> MemoryDatabase | None:
    """The open database called `name`."""
    with _open_lock:
        return _open.get(name)


def names_of_open_databases() -> Sequence[str]:
    """What is open now; a test can check that it cleaned up."""
    with _open_lock:
        return sorted(_open)
