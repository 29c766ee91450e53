"""One stream from any place on, batch after batch, and then what is added: for whoever must miss nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from replication.audit import store
from replication.audit.feed import Added
from replication.audit.reader import Cursor
from replication.audit.segment import committed_batches
from replication.audit.stored import DataKeys

BATCH_BYTES = 4 << 20
"""About so much is given at a time, and at least one record."""


class StreamReader:
    """Gives the records of a stream in order, from a place on.

    Args:
        path: the audit log's folder.
        stream: its name; it need not be there yet.
        place: of the first record to give, counted from 0.
        keys: for a log that is encrypted.

    Attributes:
        place: of the record that comes next.
        missed: how many records were gone before they could be given: somebody removed them.
    """

    def __init__(self, path: Path, stream: str, place: int, keys: DataKeys | None = None) -> None:
        self._folder = store.stream_folder(path, stream)
        self._stream = stream
        self._keys = keys
        self.place = place
        self.missed = 0
        self._rest = pa.RecordBatch.from_arrays([], names=[])
        self._begin()

    def next(self, most: int) -> Added | None:
        """The next records, at most so many; None at the end of the stream, for now."""
        if self._rest.num_rows == 0 and not self._load():
            return None
        count = min(most, self._rest.num_rows)
        if (size := self._rest.nbytes) > BATCH_BYTES:
            count = max(1, min(count, self._rest.num_rows * BATCH_BYTES // size))
        added = Added(self._stream, self.place, self._rest.slice(0, count))
        self._rest = self._rest.slice(count)
        self.place += count
        return added

    def sync(self) -> None:
        """Let what was given be on disk: a reader may see what the writer has not synced yet."""
        open_file = self._folder / f"{self._cursor.number:08}.arrow"
        with suppress(FileNotFoundError):  # it became Parquet, which is synced first
            descriptor = os.open(open_file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _begin(self) -> None:
        """Find the segment that holds the place."""
        self._cursor = Cursor(self._folder, self._keys)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest = pa.RecordBatch.from_arrays([], names=[])
        self._at = store.pruned_rows(self._folder)
        """The place of what the cursor gives next."""
        if self.place < self._at:
            self.missed += self._at - self.place
            self.place = self._at
        for file in store.segments(self._folder):
            self._cursor.number = file.number
            if not file.sealed or self._at + (count := store.count_rows(file)) > self.place:
                break
            self._at += count
            self._cursor.number += 1

    def _load(self) -> bool:
        """The next rows at the place or after it; whether there are any."""
        while (rows := self._next_batch()) is not None:
            begin, self._at = self._at, self._at + rows.num_rows
            if self._at > self.place:
                self._rest = rows.slice(max(0, self.place - begin))
                return True
        if self._at < self.place:  # it is shorter than it was: another log, or a damaged one
            self.place = 0
            self._begin()
            return self._load()
        return False

    def _next_batch(self) -> pa.RecordBatch | None:
        number = self._cursor.number
        if (rows := next(self._batches, None)) is None:
            self._batches = self._cursor.new()
            rows = next(self._batches, None)
        if self._cursor.number != number and store.pruned_rows(self._folder) > self._at:
            self._begin()  # segments that had not been read are gone
            return self._next_batch()
        return rows


class StreamEnd:
    """How many records a stream has, again and again; reads only what is new.

    Args:
        path: the audit log's folder.
        stream: its name.
    """

    def __init__(self, path: Path, stream: str) -> None:
        self._folder = store.stream_folder(path, stream)
        self._counts: dict[int, int] = {}
        self._open = (0, 0, 0)
        """Of the open segment: its number, how many bytes were read, how many records they hold."""

    def place(self) -> int:
        """That of the record which comes next."""
        while True:
            try:
                files = store.segments(self._folder)
                counts = [self._sealed(file) if file.sealed else self._opened(file) for file in files]
                return store.pruned_rows(self._folder) + sum(counts)
            except FileNotFoundError:  # it became Parquet, or was removed, since the folder was listed
                continue

    def _sealed(self, file: store.SegmentFile) -> int:
        if file.number not in self._counts:
            self._counts[file.number] = store.count_rows(file)
        return self._counts[file.number]

    def _opened(self, file: store.SegmentFile) -> int:
        number, offset, rows = self._open if self._open[0] == file.number else (file.number, 0, 0)
        with file.path.open("rb") as opened:
            schema = None
            if offset:
                with pa.ipc.open_stream(opened) as reader:
                    schema = reader.schema
                opened.seek(offset)
            batches, size = committed_batches(opened.read(), schema)
        self._open = (number, offset + size, rows + sum(b.num_rows for b in batches))
        return self._open[2]
