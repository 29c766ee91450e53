"""The bytes of one segment: an Arrow IPC stream that proves which of its flushes are complete. Pure.

    schema message          with the header in its metadata
    record batches          of one flush
    commit                  a record batch without rows; its metadata names the SHA-256 of all bytes before
    record batches, commit  of the next flush, and so on

Any Arrow reader can read such a file; commits are batches without rows to it. A flush is written in one go
and synced before the next one begins, so after a crash at most the last flush is torn, and the digest tells.
The key of the commit's metadata is derived from the header, so no user data can look like one.

Source of the framing: Arrow columnar format, "IPC Streaming Format" and "Encapsulated message format".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from replication.errors import Terminal

HEADER = b"sync_worker.segment"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
_END = 8  # bytes of the end-of-stream marker, which an open segment never has

Marks = Mapping[str, str]
"""Highest change order recorded, hexadecimal text, by `node/shard/shards`."""


class AuditDamaged(Terminal):
    """Acknowledged records can no longer be read back as they were written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself.

    Attributes:
        group: the group's name.
        stream: e.g. `changes/orders`.
        number: place in the stream, from 1.
        opened: when it was begun, microseconds since 1970.
        previous: running digest of the segment before, hexadecimal; empty for the first.
    """

    group: str
    stream: str
    number: int
    opened: int
    previous: str = ""

    def on(self, schema: pa.Schema) -> pa.Schema:
        """The schema with this header in its metadata."""
        return schema.with_metadata({HEADER: json.dumps(asdict(self))})

    @classmethod
    def of(cls, schema: pa.Schema) -> Header:
        """The header in a segment's schema."""
        return cls(**json.loads(schema.metadata[HEADER]))


@dataclass(slots=True)
class Segment:
    """An open segment's running state.

    Attributes:
        schema: with header.
        size: bytes up to the last commit.
        rows: rows up to the last commit.
        digest: running SHA-256 of those bytes.
        marks: as of the last commit.
    """

    schema: pa.Schema
    size: int = 0
    rows: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    marks: Marks = field(default_factory=dict)

    @property
    def header(self) -> Header:
        """What it says of itself."""
        return Header.of(self.schema)

    def encode(self, batches: Sequence[pa.RecordBatch], marks: Marks) -> bytes:
        """The bytes of one flush, to be appended and synced before the next one; the state moves on.

        Args:
            batches: at least one, with this segment's columns.
            marks: true once these batches are recorded.
        """
        alike = [pa.RecordBatch.from_arrays(b.columns, schema=self.schema) for b in batches]
        start, body = _messages(self.schema, alike)
        data = body if self.size else start + body
        self.digest.update(data)
        self.rows += sum(b.num_rows for b in batches)
        self.marks = marks
        commit = {"rows": self.rows, "sha256": self.digest.hexdigest(), "marks": dict(marks)}
        empty = pa.RecordBatch.from_pylist([], schema=self.schema)
        _, end = _messages(self.schema, [empty], {_commit_key(self.schema): json.dumps(commit)})
        self.digest.update(end)
        self.size += len(data) + len(end)
        return data + end


def recover(data: bytes) -> Segment | None:
    """The state at the last complete flush in a segment's bytes, or None if there is none.

    Raises:
        AuditDamaged: a flush before the last one is not what was written.
    """
    found: Segment | None = None
    segment: Segment | None = None
    start, key = 0, b""
    source = pa.BufferReader(data)
    view = memoryview(data)
    for message in _read_messages(source):
        end = source.tell()
        if segment is None:
            segment = Segment(pa.ipc.read_schema(message))
            key = _commit_key(segment.schema)
        elif key in message.metadata.to_pybytes():
            commit = _read_commit(segment.schema, view[start:end])
            if commit.get("sha256") != segment.digest.hexdigest():
                break
            segment.rows, segment.marks = commit["rows"], commit["marks"]
            segment.digest.update(view[start:end])
            found = Segment(segment.schema, end, segment.rows, segment.digest.copy(), segment.marks)
            start = end
            continue
        segment.digest.update(view[start:end])
        start = end
    size = found.size if found else 0
    # A torn flush has one commit at most. A second one means that the first had been acknowledged.
    if key and data.count(key, size) > 1:
        message = f"the records after byte {size} are damaged although they had been acknowledged"
        raise AuditDamaged(
            message, hint="restore the file from a backup, or move it away to go on without it"
        )
    return found


def committed_batches(data: bytes, schema: pa.Schema | None = None) -> tuple[list[pa.RecordBatch], int]:
    """The batches of all complete flushes, as a reader sees them while a writer may be appending.

    Args:
        data: bytes of a segment from its start, or from the end of a flush.
        schema: the segment's schema where `data` does not begin with it.

    Returns:
        the batches, and how many bytes of `data` they take.
    """
    source = pa.BufferReader(data)
    done: list[pa.RecordBatch] = []
    open_flush: list[pa.RecordBatch] = []
    size = 0
    for message in _read_messages(source):
        if schema is None:
            schema = pa.ipc.read_schema(message)
        elif _commit_key(schema) in message.metadata.to_pybytes():
            done += open_flush
            open_flush = []
            size = source.tell()
        else:
            open_flush.append(pa.ipc.read_record_batch(message, schema))
    return done, size


def _messages(
    schema: pa.Schema, batches: Sequence[pa.RecordBatch], metadata: Mapping[bytes, str] | None = None
) -> tuple[bytes, bytes]:
    """The schema's message, and the batches' messages after it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=_OPTIONS) as writer:
        for batch in batches:
            writer.write_batch(batch, custom_metadata=metadata)
    data = sink.getvalue()
    start = schema.serialize()
    return start.to_pybytes(), data.slice(start.size, data.size - start.size - _END).to_pybytes()


def _read_messages(source: pa.NativeFile) -> Iterator[pa.ipc.Message]:
    """Whole messages, up to the first that is not."""
    reader = pa.ipc.MessageReader.open_stream(source)
    while True:
        try:
            message = reader.read_next_message()
        except (StopIteration, OSError, pa.ArrowInvalid):
            return
        yield message


def _commit_key(schema: pa.Schema) -> bytes:
    return b"sync_worker.commit." + hashlib.sha256(schema.metadata[HEADER]).hexdigest()[:16].encode()


def _read_commit(schema: pa.Schema, message: memoryview) -> dict[str, Any]:
    """The commit's metadata; empty if it cannot be read."""
    try:
        with pa.ipc.open_stream(schema.serialize().to_pybytes() + bytes(message)) as reader:
            _, metadata = reader.read_next_batch_with_custom_metadata()
        return dict(json.loads(metadata[_commit_key(schema)]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
