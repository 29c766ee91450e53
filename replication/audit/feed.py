"""What is added to the audit log, as it is added, each batch with its place: what many listeners share.

Only what is new is read. A listener who cannot keep up asks the log itself, by its own places: see `query`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from replication.audit import store
from replication.audit.reader import Cursor, streams
from replication.audit.stored import DataKeys


@dataclass(frozen=True, slots=True)
class Added:
    """Records that were added to a stream.

    Attributes:
        stream: which.
        place: that of the first of them, counted in records from 0.
        rows: the records.
    """

    stream: str
    place: int
    rows: pa.RecordBatch


class Feed:
    """The end of a log, from now on.

    Args:
        path: the log's folder.
        keys: for a log that is encrypted.

    Attributes:
        gaps: how often something was left out; never, of one that reads the log.
    """

    gaps = 0

    def __init__(self, path: Path, keys: DataKeys | None = None) -> None:
        self._path = path
        self._keys = keys
        self._cursors: dict[str, Cursor] = {}
        self.places: dict[str, int] = {}
        """For each stream the place of what comes next."""
        for stream in streams(path) if path.is_dir() else ():
            self._begin_at_end(stream)

    def new(self) -> list[Added]:
        """What was added since the last call, by stream."""
        found = []
        for stream in streams(self._path) if self._path.is_dir() else ():
            if stream not in self._cursors:  # a table's first change
                folder = store.stream_folder(self._path, stream)
                self._cursors[stream] = Cursor(folder, self._keys)
                self.places[stream] = store.pruned_rows(folder)
            for rows in self._cursors[stream].new():
                found.append(Added(stream, self.places[stream], rows))
                self.places[stream] += rows.num_rows
        return found

    def close(self) -> None:
        """Nothing is kept open."""

    def _begin_at_end(self, stream: str) -> None:
        folder = store.stream_folder(self._path, stream)
        cursor = self._cursors[stream] = Cursor(folder, self._keys)
        cursor.skip_to_end()
        before = [file for file in store.segments(folder) if file.number < cursor.number]
        older = sum(self._count(file) for file in before)
        self.places[stream] = store.pruned_rows(folder) + older + cursor.rows

    def _count(self, file: store.SegmentFile) -> int:
        if file.sealed:
            return store.count_rows(file)
        return sum(rows for rows, _ in store.parts(file, self._keys))
