"""One stream of the audit log as its writer has it: what waits to be written, the open segment, the tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice, takewhile
from pathlib import Path

import pyarrow as pa

from replication.audit import evidence, store
from replication.audit.heads import OpenSegment, StreamHead
from replication.audit.keys import Keyring
from replication.audit.merkle import Frontier
from replication.audit.segment import Header, Segment
from replication.audit.stored import Form, schema_text
from replication.audit.subjects import Subjects, has_subjects, whose

_MESSAGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rolling:
    """When a segment is finished: at this size, or this long after it was begun.

    Attributes:
        bytes: its size.
        seconds: its age.
        head_seconds: how long after a tree head the next one is signed, if there is something new.
    """

    bytes: int = 64 * 1024 * 1024
    seconds: int = 3600
    head_seconds: int = 60


ROLLING = Rolling()
"""As it is where nothing else is asked for."""


class Stream:
    """One stream.

    Args:
        root: the log's folder.
        name: the stream's.
        keys: what new segments are encrypted with; in clear without them.
        subjects: the tables that have keys per subject.
    """

    def __init__(
        self, root: Path, name: str, keys: Keyring | None = None, subjects: Subjects | None = None
    ) -> None:
        self.name = name
        self.folder = store.stream_folder(root, name)
        self._keys = keys
        self._subjects = subjects or {}
        self._by_subject = keys is not None and has_subjects(self._subjects, name)
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            store.sync_folder(self.folder.parent)
            store.sync_folder(root)
        found = store.recover_stream(self.folder, name)
        self.number = found.next_number
        self.digest = found.digest
        self.cut = found.cut
        self.to_seal = list(found.to_seal or ())
        self.recorded = dict(found.marks or {})
        """Marks of what is in the file."""
        self.added = dict(self.recorded)
        """Marks with what waits, too."""
        self.waiting: list[tuple[pa.RecordBatch, str, str]] = []
        self.tree = Frontier.of(found.tree) if found.tree else _grown(self.folder)
        self.segment: Segment | None = None
        self.path = Path()
        self.descriptor = -1
        if found.open:
            self.segment, self.path = found.open
            self._form = Form(self.segment.schema, keys)
            if found.tree:
                self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            else:
                self.finish()  # it was begun before trees were kept

    @property
    def head(self) -> StreamHead:
        """What is in the files."""
        written = None
        if (segment := self.segment) is not None:
            written = OpenSegment(segment.header.number, segment.size, segment.raw.hexdigest())
        return StreamHead(self.tree.size, self.tree.root.hex(), written)

    @property
    def kind(self) -> str:
        """The name without a table."""
        return self.name.partition("/")[0]

    def sealed_before(self, time: int, place: int | None = None) -> list[tuple[str, store.SegmentFile]]:
        """The oldest sealed segments with older records only, and the stream's name; never the newest.

        Args:
            time: records are older that were recorded before.
            place: no record from this place on is among them.
        """
        files = store.segments(self.folder)[:-1]
        old = list(takewhile(lambda file: file.sealed and store.newest_time(file) < time, files))
        if place is not None:
            ends = accumulate((store.count_rows(f) for f in old), initial=store.pruned_rows(self.folder))
            old = [file for file, end in zip(old, islice(ends, 1, None), strict=True) if end <= place]
        return [(self.name, file) for file in old]

    def add(self, rows: pa.RecordBatch, mark: str = "", order: str = "") -> None:
        """Add rows, and what is on record once they are."""
        self.waiting.append((rows, mark, order))
        if mark:
            self.added[mark] = order

    def write(self, group: str, rolling: Rolling, now: int) -> None:
        """Append what waits, durably; segments that this finishes are in `to_seal`."""
        waiting, self.waiting = self.waiting, []
        for _, alike in groupby(waiting, key=lambda item: item[0].schema):
            items = list(alike)
            segment = self._segment_for(items[0][0].schema, group, rolling, now)
            self.recorded.update((mark, order) for _, mark, order in items if mark)
            is_first = segment.size == 0
            batches = []
            for rows in _join([b for b, _, _ in items]):
                stored, leaves = self._form.store(rows, self.tree.size, self._subjects_of(rows))
                batches.append(stored)
                self.tree.extend(leaves)
            store.append(self.descriptor, segment.encode(batches, self.recorded, self.tree.state))
            if is_first:
                store.sync_folder(self.folder)

    def _subjects_of(self, rows: pa.RecordBatch) -> Sequence[bytes | None]:
        """The names of the keys of the rows' subjects, which are durable before the rows are."""
        if self._keys is None or not self._by_subject:
            return ()
        return self._keys.subjects.names_of(whose(self._subjects, self.name, rows))

    def finish(self) -> None:
        """End the open segment, if there is one."""
        if self.segment is not None:
            self.close()
            self.digest = self.segment.digest.hexdigest()
            self.segment = None
            self.to_seal.append(self.path)

    def close(self) -> None:
        """Let the open segment's file go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _segment_for(self, schema: pa.Schema, group: str, rolling: Rolling, now: int) -> Segment:
        key = self._keys.current(self.name) if self._keys else ""
        if self.segment is not None:
            header = self.segment.header
            old = self.segment.size >= rolling.bytes or now - header.opened >= rolling.seconds * 1_000_000
            alike = self._form.clear_schema.equals(schema) and self._form.by_subject == self._by_subject
            if not old and header.key == key and alike:
                return self.segment
            self.finish()
        columns = schema_text(schema) if key else ""
        header = Header(group, self.name, self.number, now, self.digest, key, columns)
        self.segment = Segment(Form.schema_of(schema, header, by_subject=self._by_subject))
        self._form = Form(self.segment.schema, self._keys)
        self.path = self.folder / f"{self.number:08}.arrow"
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self.number += 1
        return self.segment


def _grown(folder: Path) -> Frontier:
    """The tree over all that a stream holds, for one that was begun before trees were kept."""
    tree = Frontier()
    for file in store.segments(folder):
        segment = evidence.stored_segment(file)
        for batch in segment.batches if segment else ():
            tree.extend(Form(batch.schema).leaves(batch, tree.size))
    return tree


def _join(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Fewer, larger batches, since each costs a message; of bounded size, since offsets have 32 bits."""
    joined: list[pa.RecordBatch] = []
    part: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if part and size + batch.nbytes > _MESSAGE_BYTES:
            joined.append(pa.concat_batches(part))
            part, size = [], 0
        part.append(batch)
        size += batch.nbytes
    return [*joined, pa.concat_batches(part)]
