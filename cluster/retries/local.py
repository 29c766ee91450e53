"""The local retry store: one SQLite file in the audit log's folder. Needs nothing but the disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from replication.retries import DeadLetter, Deferred, StoreHealth

FILE = "retries.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS deferred (ident TEXT, tries INTEGER, due REAL, PRIMARY KEY (ident, tries));
CREATE TABLE IF NOT EXISTS dead (ident TEXT PRIMARY KEY, letter TEXT);
"""


class LocalStore:
    """See `RetryStore`. Used by one thread at a time.

    Args:
        folder: where the file is.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._sql = sqlite3.connect(folder / FILE, isolation_level=None, check_same_thread=False)
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.executescript(_TABLES)
        self._out: set[tuple[str, int]] = set()

    def recall(self, now: float) -> list[Deferred]:
        """See `RetryQueue`."""
        self._out.clear()
        return [Deferred(*row) for row in self._sql.execute("SELECT ident, tries, due FROM deferred")]

    def defer(self, entries: Sequence[Deferred], now: float) -> None:
        """See `RetryQueue`."""
        rows = [(e.ident, e.tries, e.due) for e in entries]
        self._out.difference_update((e.ident, e.tries) for e in entries)
        with self._sql:
            self._sql.execute("BEGIN")
            self._sql.executemany("INSERT OR REPLACE INTO deferred VALUES (?, ?, ?)", rows)

    def due(self, now: float) -> list[Deferred]:
        """See `RetryQueue`."""
        found = self._sql.execute("SELECT ident, tries, due FROM deferred WHERE due <= ? ORDER BY due", [now])
        entries = [e for row in found if ((e := Deferred(*row)).ident, e.tries) not in self._out]
        self._out.update((e.ident, e.tries) for e in entries)
        return entries

    def confirm(self, entries: Sequence[Deferred]) -> None:
        """See `RetryQueue`; one that was deferred again meanwhile stays."""
        self._out.difference_update((e.ident, e.tries) for e in entries)
        rows = [(e.ident, e.tries, e.due) for e in entries]
        with self._sql:
            self._sql.execute("BEGIN")
            self._sql.executemany("DELETE FROM deferred WHERE ident = ? AND tries = ? AND due = ?", rows)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters`."""
        rows = [(letter.ident, json.dumps(asdict(letter))) for letter in letters]
        with self._sql:
            self._sql.execute("BEGIN")
            self._sql.executemany("INSERT OR REPLACE INTO dead VALUES (?, ?)", rows)

    def buried(self) -> list[DeadLetter]:
        """See `DeadLetters`."""
        return [DeadLetter(**json.loads(text)) for (text,) in self._sql.execute("SELECT letter FROM dead")]

    def take(self, idents: Collection[str]) -> None:
        """See `DeadLetters`."""
        with self._sql:
            self._sql.execute("BEGIN")
            self._sql.executemany("DELETE FROM dead WHERE ident = ?", [(i,) for i in idents])

    def health(self) -> StoreHealth:
        """See `RetryStore`."""
        return StoreHealth("local")

    def close(self) -> None:
        """See `RetryStore`."""
        self._sql.close()
