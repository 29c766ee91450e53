"""The bytes of one segment: an Arrow IPC stream that proves which of its flushes are complete. Pure.

    schema message          with the header in its metadata
    record batches          of one flush
    commit                  a record batch without rows; its metadata has the running SHA-256
    record batches, commit  of the next flush, and so on

Any Arrow reader can read such a file; commits are batches without rows to it. A flush is written in one go
and synced before the next one begins, so after a crash at most the last flush is torn, and the digest tells.
The digest runs over all bytes but the commits', and over each commit's note. The key of a commit's metadata
names the segment and counts the flushes: no user data looks like one by chance, and a commit that is more
than one ahead of the last good one shows that records in between had been acknowledged and are damaged.

Source of the framing: Arrow columnar format, "IPC Streaming Format" and "Encapsulated message format".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from replication.errors import Terminal

DAMAGE_HINT = "restore the file from a backup, or move it away to go on without it"
HEADER = b"sync_worker.segment"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
_END = 8  # bytes of the end-of-stream marker, which an open segment never has

Marks = Mapping[str, str]
"""Highest change order, or epoch and number of a batch, recorded: hexadecimal, by `node/shard/shards/log`."""


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
        key: name of the key that its payload is encrypted with; empty if it is not.
        columns: the columns before encryption, as `stored.schema_text` has them; empty without.
    """

    group: str
    stream: str
    number: int
    opened: int
    previous: str = ""
    key: str = ""
    columns: str = ""

    def on(self, schema: pa.Schema) -> pa.Schema:
        """The schema with this header in its metadata."""
        return schema.with_metadata({HEADER: json.dumps(asdict(self))})

    @classmethod
    def of(cls, schema: pa.Schema) -> Header:
        """The header in a segment's schema."""
        return cls(**json.loads(schema.metadata[HEADER]))

    @property
    def commit_key(self) -> bytes:
        """See `commit_key`."""
        return commit_key(self.stream, self.number)


@dataclass(slots=True)
class Segment:
    """An open segment's running state.

    Attributes:
        schema: with header.
        size: bytes up to the last commit.
        rows: rows up to the last commit.
        flushes: commits so far.
        digest: running SHA-256 of those bytes.
        marks: as of the last commit.
        tree: the stream's tree after these rows, see `merkle.Frontier.state`; empty if it was not kept.
        raw: running SHA-256 of all bytes up to the last commit, its own included.
    """

    schema: pa.Schema
    size: int = 0
    rows: int = 0
    flushes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    marks: Marks = field(default_factory=dict)
    tree: str = ""
    raw: Any = field(default_factory=hashlib.sha256, compare=False)

    @property
    def header(self) -> Header:
        """What it says of itself."""
        return Header.of(self.schema)

    def encode(self, batches: Sequence[pa.RecordBatch], marks: Marks, tree: str = "") -> bytes:
        """The bytes of one flush, to be appended and synced before the next one; the state moves on.

        Args:
            batches: at least one, with this segment's columns.
            marks: true once these batches are recorded.
            tree: likewise.
        """
        alike = [pa.RecordBatch.from_arrays(b.columns, schema=self.schema) for b in batches]
        start, body = _messages(self.schema, alike)
        data = body if self.size else start + body
        self.rows += sum(b.num_rows for b in batches)
        self.flushes += 1
        self.marks = marks
        self.tree = tree
        note = json.dumps({"rows": self.rows, "marks": dict(marks), "tree": tree}, separators=(",", ":"))
        self.digest.update(data)
        self.digest.update(note.encode())
        key = b"%s%d" % (self.header.commit_key, self.flushes)
        empty = pa.RecordBatch.from_pylist([], schema=self.schema)
        commit = json.dumps({"sha256": self.digest.hexdigest(), "note": note})
        _, end = _messages(self.schema, [empty], {key: commit})
        self.size += len(data) + len(end)
        self.raw.update(data)
        self.raw.update(end)
        return data + end


def commit_key(stream: str, number: int) -> bytes:
    """What the keys of this segment's commits begin with; the number of the flush follows."""
    name = hashlib.sha256(f"{stream}/{number}".encode()).hexdigest()[:24]
    return b"sync_worker.commit.%s." % name.encode()


def recover(data: bytes, stream: str, number: int) -> Segment | None:
    """The state at the last complete flush in a segment's bytes, or None if there is none.

    Raises:
        AuditDamaged: a flush before the last one is not what was written.
    """
    key = commit_key(stream, number)
    found = _last_complete(data, key)
    size, flushes = (found.size, found.flushes) if found else (0, 0)
    later = [int(n) for n in re.findall(re.escape(key) + rb"(\d+)", data[size:])]
    if any(number > flushes + 1 for number in later):
        message = f"the records after byte {size} are damaged although they had been acknowledged"
        raise AuditDamaged(message, hint=DAMAGE_HINT)
    if found is not None:
        found.raw.update(memoryview(data)[:size])
    return found


def _last_complete(data: bytes, key: bytes) -> Segment | None:
    source = pa.BufferReader(data)
    view = memoryview(data)
    messages = _read_messages(source)
    first = next(messages, None)
    schema = _read_header(first) if first is not None else None
    if schema is None:
        return None
    segment = Segment(schema)
    found: Segment | None = None
    start = source.tell()
    segment.digest.update(view[:start])
    for message in messages:
        end = source.tell()
        if key not in message.metadata.to_pybytes():
            segment.digest.update(view[start:end])
        elif not _read_commit(segment, key, view[start:end]):
            break
        else:
            segment.size = end
            found = replace(segment, digest=segment.digest.copy())
        start = end
    return found


def committed_batches(data: bytes, schema: pa.Schema | None = None) -> tuple[list[pa.RecordBatch], int]:
    """The batches of all complete flushes, as a reader sees them while a writer may be appending.

    Args:
        data: bytes of a segment from its start, or from the end of a flush.
        schema: the segment's schema where `data` does not begin with it.

    Returns:
        the batches, and how many bytes of `data` they take.
    """
    done: list[pa.RecordBatch] = []
    size = 0
    for batches, size in committed_flushes(data, schema):  # noqa: B007  the last is what is wanted
        done += batches
    return done, size


def committed_flushes(
    data: bytes, schema: pa.Schema | None = None
) -> Iterator[tuple[list[pa.RecordBatch], int]]:
    """The same flush by flush, each read when it is taken: its batches, and the place of its end."""
    source = pa.BufferReader(data)
    open_flush: list[pa.ipc.Message] = []
    for message in _read_messages(source):
        if schema is None:
            if (schema := _read_header(message)) is None:
                break
        elif Header.of(schema).commit_key in message.metadata.to_pybytes():
            try:
                batches = [pa.ipc.read_record_batch(m, schema) for m in open_flush]
            except (pa.ArrowException, OSError):
                break  # what a power failure left of a flush; `recover` will cut it off
            yield batches, source.tell()
            open_flush = []
        else:
            open_flush.append(message)


def _read_header(message: pa.ipc.Message) -> pa.Schema | None:
    """A segment's schema with its header, or None where a power failure left something else."""
    try:
        schema = pa.ipc.read_schema(message)
        Header.of(schema)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError):
        return None
    return schema


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
        except (StopIteration, OSError, pa.ArrowException):
            return
        yield message


def _read_commit(segment: Segment, key: bytes, message: memoryview) -> bool:
    """Move the state on by a commit, if that is the next one and its digest is right."""
    try:
        with pa.ipc.open_stream(segment.schema.serialize().to_pybytes() + bytes(message)) as reader:
            _, metadata = reader.read_next_batch_with_custom_metadata()
        commit = json.loads(metadata[b"%s%d" % (key, segment.flushes + 1)])
        segment.digest.update(commit["note"].encode())
        if commit["sha256"] != segment.digest.hexdigest():
            return False
        note = json.loads(commit["note"])
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    segment.rows, segment.marks, segment.tree = note["rows"], note["marks"], note.get("tree", "")
    segment.flushes += 1
    return True
