"""Reading the audit log, also while a writer is at work. Only complete flushes are seen.

Nothing is locked and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replication.audit import store
from replication.audit.access import EVERYTHING, View
from replication.audit.printing import printable
from replication.audit.records import CHANGES, CONFLICTS, DECISIONS, ERASED, HOLDS, OPERATOR
from replication.audit.stored import DataKeys

KINDS = {
    "change": CHANGES,
    "decision": DECISIONS,
    "conflict": CONFLICTS,
    "hold": HOLDS,
    "operator": OPERATOR,
}
"""What records are called in the singular, and their stream."""
_TABLE_COLUMN = {DECISIONS: "_table", CONFLICTS: "table", HOLDS: "table"}


def streams(path: Path) -> list[str]:
    """The streams of an audit log: `changes/TABLE`, `decisions`, `conflicts`, `holds`, `operator`."""
    return store.streams(path)


def read(path: Path, stream: str, keys: DataKeys | None = None) -> Iterator[pa.RecordBatch]:
    """All records of one stream, oldest first. Batches may differ in columns where the table changed.

    Records that were erased are not among them.

    Args:
        path: the audit log's folder.
        stream: one of `streams`.
        keys: for a log that is encrypted.

    Raises:
        AuditKeyMissing: it is encrypted, and not with these.
    """
    for file in store.segments(store.stream_folder(path, stream)):
        for batch in store.read_segment(file, keys):
            yield batch.filter(pc.invert(batch.column(ERASED))) if ERASED in batch.schema.names else batch


def entries(path: Path, stream: str, keys: DataKeys | None = None) -> Iterator[dict[str, Any]]:
    """All records of one stream as dictionaries that JSON can hold, oldest first."""
    for batch in read(path, stream, keys) if stream in streams(path) else ():
        yield from printable(stream, batch)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: of one table, of one kind (see `KINDS`); None means all."""

    table: str | None = None
    kind: str | None = None

    def of(self, path: Path) -> list[str]:
        """The streams that can hold such records."""
        found = streams(path)
        if self.kind is not None:
            wanted = KINDS[self.kind]
            found = [s for s in found if s.partition("/")[0] == wanted]
        if self.table is not None:
            mine = f"{CHANGES}/{self.table}"
            found = [s for s in found if s == mine or s in _TABLE_COLUMN]
        return found

    def rows(self, stream: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that pass."""
        column = _TABLE_COLUMN.get(stream)
        if self.table is None or column is None:
            return batch
        return batch.filter(pc.equal(batch.column(column), self.table))


class Follower:
    """The newest records of all streams, and then what is added.

    Args:
        path: the audit log's folder.
        only: which records.
        keys: for a log that is encrypted.
        view: as whom.
    """

    def __init__(
        self,
        path: Path,
        only: Filter | None = None,
        keys: DataKeys | None = None,
        view: View = EVERYTHING,
    ) -> None:
        self._path = path
        self._keys = keys
        self._view = view
        self._only = only or Filter()
        self._cursors: dict[str, Cursor] = {}

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest `count` records, oldest first; `new` goes on from here."""
        found = []
        for stream in self._only.of(self._path):
            cursor = self._cursors[stream] = self._cursor(stream)
            missing = count
            for batch in cursor.skip_to_end():
                if missing == 0:
                    break
                rows = self._only.rows(stream, batch)
                newest = rows.slice(max(0, rows.num_rows - missing))
                found += printable(stream, self._view.rows(stream, newest))
                missing -= newest.num_rows
        found.sort(key=_recorded)
        return found[-count:] if count else []

    def new(self) -> list[dict[str, Any]]:
        """What was added since the last call, oldest first."""
        found = []
        for stream in self._only.of(self._path):
            if stream not in self._cursors:
                self._cursors[stream] = self._cursor(stream)
            for batch in self._cursors[stream].new():
                rows = self._view.rows(stream, self._only.rows(stream, batch))
                found += printable(stream, rows)
        found.sort(key=_recorded)
        return found

    def _cursor(self, stream: str) -> Cursor:
        return Cursor(store.stream_folder(self._path, stream), self._keys)


def tail(
    path: Path,
    count: int,
    only: Filter | None = None,
    keys: DataKeys | None = None,
    view: View = EVERYTHING,
) -> list[dict[str, Any]]:
    """The newest `count` records of all streams together, oldest first.

    Each is the record's columns and, first, `stream`. Bytes are hexadecimal text, times ISO text.
    """
    return Follower(path, only, keys, view).last(count)


class Cursor:
    """A place in one stream: in segment `number` after `rows` rows; they end at `offset` while it is open."""

    def __init__(self, folder: Path, keys: DataKeys | None) -> None:
        self.folder = folder
        self.keys = keys
        self.number = 0
        self.rows = 0
        self.offset = 0

    def skip_to_end(self) -> Iterator[pa.RecordBatch]:
        """Move to the end; gives all batches up to it, newest first, as far as they are taken."""
        files = store.segments(self.folder)
        if not files:
            return iter(())
        self.number = files[-1].number
        newest = list(self.new())
        return (b for part in (reversed(newest), _older(files[:-1], self.keys)) for b in part)

    def new(self) -> Iterator[pa.RecordBatch]:
        """Batches after this place, oldest first."""
        for file in store.segments(self.folder):
            if file.number < self.number:
                continue
            if file.number > self.number:
                self.number, self.rows, self.offset = file.number, 0, 0
            yield from self._rest(file)

    def _rest(self, file: store.SegmentFile) -> list[pa.RecordBatch]:
        try:
            if not file.sealed:
                batches, self.offset = store.read_since(file.path, self.offset, self.keys)
                self.rows += sum(b.num_rows for b in batches)
                return batches
        except FileNotFoundError:
            pass  # sealed since the folder was listed: `read_segment` finds the Parquet file
        skip, rest = self.rows, []
        if file.sealed and store.count_rows(file) == skip:
            return []
        for batch in store.read_segment(file, self.keys):
            if batch.num_rows > skip:
                rest.append(batch.slice(skip))
            skip = max(0, skip - batch.num_rows)
        self.rows += sum(b.num_rows for b in rest)
        return rest


def _older(files: list[store.SegmentFile], keys: DataKeys | None) -> Iterator[pa.RecordBatch]:
    for file in reversed(files):
        yield from store.read_tail(file, keys)


def _recorded(entry: dict[str, Any]) -> int:
    recorded: int = entry["_recorded"]
    return recorded
