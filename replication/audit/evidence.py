"""The files that proofs are made of: heads, the folder's own signing key, segments as they are stored.

Nothing that is encrypted is opened here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from replication.audit import store
from replication.audit.heads import SoftwareSigner, new_signing_key
from replication.audit.segment import DAMAGE_HINT, AuditDamaged, Header, committed_batches, recover
from replication.audit.stored import LEAF, Form
from replication.errors import ConfigError

HEADS = "heads.jsonl"
KEPT = ".leaves"
_KEY = "signing.key"
_CHUNK = 1 << 20


def head_lines(root: Path) -> Iterator[bytes]:
    """The heads as they were written, oldest first, without one that is only half there."""
    try:
        with (root / HEADS).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


def append_head(root: Path, line: bytes) -> None:
    """Write down a head, durably."""
    path = root / HEADS
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        store.append(descriptor, line + b"\n")
    finally:
        os.close(descriptor)
    if is_new:
        store.sync_folder(root)


def cut_torn_head(root: Path) -> None:
    """Remove what a crash left of the last head: it had not been signed for anybody yet."""
    try:
        with (root / HEADS).open("r+b") as file:
            end = whole = file.seek(0, os.SEEK_END)
            while whole > 0:
                start = max(0, whole - _CHUNK)
                file.seek(start)
                found = file.read(whole - start).rfind(b"\n")
                if found >= 0:
                    whole = start + found + 1
                    break
                whole = start
            if whole < end:
                file.truncate(whole)
                os.fsync(file.fileno())
    except FileNotFoundError:
        pass


def folder_signer(root: Path) -> SoftwareSigner:
    """The signer of a log that was given none: its key is beside the log, made at the first start."""
    path = root / _KEY
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        pem = new_signing_key()
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            store.append(descriptor, pem)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        store.sync_folder(root)
    return SoftwareSigner(pem)


def file_digest(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first `size` bytes; of fewer where it is shorter."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        rest = os.fstat(file.fileno()).st_size if size is None else size
        while rest > 0 and (data := file.read(min(rest, _CHUNK))):
            digest.update(data)
            rest -= len(data)
    return digest.hexdigest()


def sealed_names(root: Path) -> list[str]:
    """All Parquet segments, by `STREAM/FILE`, as heads name them."""
    return [
        f"{stream}/{file.path.name}"
        for stream in store.streams(root)
        for file in store.segments(store.stream_folder(root, stream))
        if file.sealed
    ]


def sealed_path(root: Path, name: str) -> Path:
    """Where the segment is that a head calls `name`."""
    stream, _, file = name.rpartition("/")
    return store.stream_folder(root, stream) / file


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment as it is stored.

    Attributes:
        header: what it says of itself.
        schema: the stored columns, with the header.
        batches: the stored rows, read as they are taken.
        rows: how many there are by its own account.
        digest: its running digest, which the next segment's header names.
        tree: the stream's tree at its end; empty if it was not kept.
        torn: bytes behind its last complete flush.
    """

    header: Header
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    rows: int
    digest: str
    tree: str
    torn: int = 0


def all_segments(folder: Path) -> list[store.SegmentFile]:
    """A stream's segments, and what is kept of those that were removed, oldest first."""
    return sorted([*store.pruned(folder), *store.segments(folder)], key=lambda file: file.number)


def keep_leaves(file: store.SegmentFile) -> str | None:
    """Write down a sealed segment's leaves beside it; gives the new file's SHA-256, None without leaves."""
    with pq.ParquetFile(file.path) as parquet:
        schema = parquet.schema_arrow
        if LEAF not in schema.names:
            return None
        leaves = parquet.read(columns=[LEAF]).replace_schema_metadata(schema.metadata)
    target = file.path.with_suffix(KEPT)
    temporary = target.with_name(target.name + ".tmp")
    pq.write_table(leaves, temporary, compression="none")
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.rename(target)
    store.sync_folder(target.parent)
    return file_digest(target)


def stored_segment(file: store.SegmentFile) -> StoredSegment | None:
    """A segment as it is stored, also while it is written; None if no flush of it is complete.

    Raises:
        AuditDamaged: it cannot be read; that may show only when the batches are taken.
    """
    if not file.sealed:
        try:
            data = file.path.read_bytes()
        except FileNotFoundError:
            file = store.SegmentFile(file.number, file.path.with_suffix(".parquet"), True)
        else:
            return _open(file, data)
    if not file.path.exists() and (kept := file.path.with_suffix(KEPT)).exists():
        file = store.SegmentFile(file.number, kept, True)  # removed since the folder was listed
    return _sealed(file)


def _open(file: store.SegmentFile, data: bytes) -> StoredSegment | None:
    stream = None
    batches, _ = committed_batches(data)
    if batches:
        stream = Header.of(batches[0].schema).stream
    segment = recover(data, stream or "", file.number)
    if segment is None:
        return None
    seen, size = committed_batches(data[: segment.size])
    if size != segment.size:
        message = f"{file.path}: not all records can be read"
        raise AuditDamaged(message, hint=DAMAGE_HINT)
    torn = len(data) - segment.size
    return StoredSegment(
        segment.header,
        segment.schema,
        iter(seen),
        segment.rows,
        segment.digest.hexdigest(),
        segment.tree,
        torn,
    )


def _sealed(file: store.SegmentFile) -> StoredSegment:
    try:
        parquet = pq.ParquetFile(file.path)
        schema = parquet.schema_arrow
        final = json.loads(schema.metadata[store.FINAL])
        return StoredSegment(
            Header.of(schema), schema, _row_groups(file.path, parquet), final["rows"], final["sha256"],
            final.get("tree", ""),
        )  # fmt: skip
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        message = f"{file.path}: not a segment that can be read"
        raise AuditDamaged(message, hint=DAMAGE_HINT) from error


def _row_groups(path: Path, parquet: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    with parquet:
        for group in range(parquet.num_row_groups):
            try:
                batches = parquet.read_row_group(group).to_batches()
            except (pa.ArrowException, OSError, ValueError) as error:
                message = f"{path}: records cannot be read"
                raise AuditDamaged(message, hint=DAMAGE_HINT) from error
            yield from batches


def leaves(root: Path, stream: str, count: int) -> list[bytes]:
    """The first `count` leaves of a stream as they are written down; fewer if there are fewer."""
    found: list[bytes] = []
    for file in all_segments(store.stream_folder(root, stream)):
        if len(found) >= count:
            break
        segment = stored_segment(file)
        for batch in segment.batches if segment else ():
            found += written_leaves(batch) or Form(batch.schema).leaves(batch, len(found))
    return found[:count]


def written_leaves(stored: pa.RecordBatch) -> list[bytes]:
    """The leaves that stand beside stored rows; none in segments that were begun before there were any."""
    return stored.column(LEAF).to_pylist() if LEAF in stored.schema.names else []


def stored_record(root: Path, stream: str, index: int) -> pa.RecordBatch | None:
    """One record as it is stored, by its place in its stream, or None if there are not so many."""
    start = 0
    for file in all_segments(store.stream_folder(root, stream)):
        segment = stored_segment(file)
        for batch in segment.batches if segment else ():
            if index < start + batch.num_rows:
                if batch.schema.names == [LEAF]:
                    message = f"record {index} of {stream} was removed; only its leaf is kept"
                    raise ConfigError(message, hint="give a record that is still there")
                return batch.slice(index - start, 1)
            start += batch.num_rows
    return None
