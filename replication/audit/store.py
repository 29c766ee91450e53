"""The audit log's folder; with `evidence.py` all of `replication.audit` that touches files.

    lock                          held by the one writer
    manifest.json                 group, shards
    keys.json                     wrapped data keys, see `keys.py`
    heads.jsonl                   signed tree heads, see `heads.py`
    signing.key                   the key that signs them, where no other was named
    STREAM/00000001.parquet       sealed segment, zstd
    STREAM/00000001.leaves        what is kept of a segment that was removed: its leaves
    STREAM/00000002.arrow         open segment; `segment.py` says what is inside

A segment is sealed by writing `.parquet.tmp`, syncing and renaming it, and only then removing the `.arrow`.
Whatever the moment of a crash, each record is in exactly one file once `recover_stream` has looked at the
folder; a reader that finds both files of a segment takes the sealed one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from replication.audit.segment import (
    DAMAGE_HINT,
    AuditDamaged,
    Marks,
    Segment,
    committed_batches,
    committed_flushes,
    recover,
)
from replication.audit.stored import DataKeys, Form
from replication.errors import ConfigError, Terminal

FINAL = b"sync_worker.final"
KEYS = "keys.json"
_FORMAT = 1
_ROW_GROUP = 1 << 16


class AuditInUse(Terminal):
    """Another process is writing to this folder."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Whose log it is.

    Attributes:
        group: the group's name.
        shards: how many shards the last run had.
        logs: how often each node's log has begun anew; 0 where it is not named.
    """

    group: str
    shards: int
    logs: dict[str, int] = field(default_factory=dict)
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment on disk; `sealed` ones are Parquet."""

    number: int
    path: Path
    sealed: bool


def lock(root: Path) -> int:
    """Become the folder's one writer; gives the descriptor that holds the lock until it is closed.

    Raises:
        AuditInUse: somebody else is.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        message = f"the audit log in {root} is being written by process {owner}"
        raise AuditInUse(message, hint="stop it, or give this group an audit path of its own") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def read_manifest(root: Path) -> Manifest | None:
    """The manifest, or None if nothing has been written here yet."""
    try:
        text = (root / "manifest.json").read_text()
    except FileNotFoundError:
        return None
    found: dict[str, Any] = json.loads(text)
    if found.get("format") != _FORMAT:
        message = f"the audit log in {root} has format {found.get('format')}, this release reads {_FORMAT}"
        raise ConfigError(message, hint="use the release that wrote it, or another audit path")
    found.pop("drained", None)  # which earlier ones say
    return Manifest(**found)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably."""
    replace_file(root / "manifest.json", json.dumps(asdict(manifest), indent=1).encode())


def read_keys(root: Path) -> list[dict[str, str]]:
    """The data keys as they are written down, oldest first."""
    try:
        found: list[dict[str, str]] = json.loads((root / KEYS).read_text())["keys"]
    except FileNotFoundError:
        return []
    return found


def write_keys(root: Path, keys: list[dict[str, str]]) -> None:
    """Replace the data keys, durably."""
    replace_file(root / KEYS, json.dumps({"format": 1, "keys": keys}, indent=1).encode())


def streams(root: Path) -> list[str]:
    """The names of all streams that have a folder, sorted."""
    found = [p.name for p in root.glob("*") if p.is_dir() and p.name != "changes"]
    found += [f"changes/{unquote(p.name)}" for p in root.glob("changes/*") if p.is_dir()]
    return sorted(found)


def stream_folder(root: Path, stream: str) -> Path:
    """Where a stream's segments are; a table's name is percent-encoded where it must be."""
    kind, _, table = stream.partition("/")
    return root / kind / quote(table, safe="") if table else root / kind


def segments(folder: Path) -> list[SegmentFile]:
    """A stream's segments, oldest first; of a segment that is both open and sealed, the sealed file."""
    found: dict[int, SegmentFile] = {}
    for path in sorted(folder.glob("*.arrow")) + sorted(folder.glob("*.parquet")):
        number = int(path.stem)
        found[number] = SegmentFile(number, path, path.suffix == ".parquet")
    return [found[number] for number in sorted(found)]


def pruned(folder: Path) -> list[SegmentFile]:
    """What is kept of segments that were removed, oldest first: Parquet with the column `_leaf` only."""
    there = {file.number for file in segments(folder)}
    paths = sorted(folder.glob("*.leaves"))
    return [SegmentFile(int(p.stem), p, True) for p in paths if int(p.stem) not in there]


def pruned_rows(folder: Path) -> int:
    """How many records of a stream were removed; they were its oldest."""
    return sum(count_rows(file) for file in pruned(folder))


def newest_time(file: SegmentFile) -> int:
    """The highest `_recorded` of a sealed segment; only its footer is read."""
    metadata = pq.read_metadata(file.path)
    column = metadata.schema.names.index("_recorded")
    groups = range(metadata.num_row_groups)
    return max(int(metadata.row_group(group).column(column).statistics.max) for group in groups)


def read_segment(file: SegmentFile, keys: DataKeys | None = None) -> Iterator[pa.RecordBatch]:
    """A segment's rows as they were recorded, oldest first; also while it is written or being sealed."""
    for _, opened in parts(file, keys):
        yield from opened()


def parts(
    file: SegmentFile, keys: DataKeys | None = None
) -> Iterator[tuple[int, Callable[[], Iterator[pa.RecordBatch]]]]:
    """A segment in parts, oldest first: how many rows, and what reads them, at once or never."""
    if not file.sealed:
        try:
            data = file.path.read_bytes()
        except FileNotFoundError:
            file = SegmentFile(file.number, file.path.with_suffix(".parquet"), True)
        else:
            form: Form | None = None
            for batch in committed_batches(data)[0]:
                form = form or Form(batch.schema, keys)
                yield batch.num_rows, partial(_opened, form, batch)
            return
    with pq.ParquetFile(file.path) as parquet:
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            yield rows, partial(_read_group, parquet, group, keys)


def read_tail(file: SegmentFile, keys: DataKeys | None = None) -> Iterator[pa.RecordBatch]:
    """A segment's batches, newest first; only as much is read as is taken."""
    if not file.sealed:
        yield from reversed(list(read_segment(file, keys)))
        return
    with pq.ParquetFile(file.path) as parquet:
        for group in reversed(range(parquet.num_row_groups)):
            for batch in reversed(parquet.read_row_group(group).to_batches()):
                yield from _clear([batch], keys)


def count_rows(file: SegmentFile) -> int:
    """How many rows a sealed segment holds; only its footer is read."""
    return int(pq.read_metadata(file.path).num_rows)


def read_since(path: Path, offset: int, keys: DataKeys | None = None) -> tuple[list[pa.RecordBatch], int]:
    """What complete flushes an open segment has gained after the byte `offset`, and the offset after them.

    Raises:
        FileNotFoundError: it has been sealed meanwhile.
    """
    with path.open("rb") as file:
        schema = None
        if offset:
            with pa.ipc.open_stream(file) as reader:
                schema = reader.schema
            file.seek(offset)
        batches, size = committed_batches(file.read(), schema)
    return list(_clear(batches, keys)), offset + size


def seal(path: Path, stream: str) -> str:
    """Turn a finished `.arrow` segment into Parquet, atomically; gives the new file's SHA-256.

    The Parquet file's metadata keeps the header and, under `sync_worker.final`, rows, digest, marks and tree.
    """
    data = path.read_bytes()
    segment = _recover(path, stream, data)
    message = f"{path}: not all records of this finished segment can be read"
    if segment is None:
        raise AuditDamaged(message, hint=DAMAGE_HINT)
    final = {"rows": segment.rows, "sha256": segment.digest.hexdigest(), "marks": dict(segment.marks)}
    final["tree"] = segment.tree
    schema = segment.schema.with_metadata({**segment.schema.metadata, FINAL: json.dumps(final)})
    temporary, rows = path.with_suffix(".parquet.tmp"), 0
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in _groups(b for batches, _ in committed_flushes(data) for b in batches):
            writer.write_table(pa.Table.from_batches(group).replace_schema_metadata(schema.metadata))
            rows += sum(batch.num_rows for batch in group)
    if rows != segment.rows:
        temporary.unlink()
        raise AuditDamaged(message, hint=DAMAGE_HINT)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    temporary.rename(path.with_suffix(".parquet"))
    sync_folder(path.parent)
    path.unlink()
    return digest


@dataclass(slots=True)
class Recovered:
    """What a stream looks like after a crash or a stop.

    Attributes:
        next_number: number of the next segment to begin.
        marks: as of the last complete flush.
        digest: running digest of the last segment, hexadecimal.
        tree: the stream's tree; empty if it was not kept.
        open: the segment to go on with, and its file.
        to_seal: finished segments that are not Parquet yet.
        cut: bytes of a torn flush that were cut off.
    """

    next_number: int = 1
    marks: Marks | None = None
    digest: str = ""
    tree: str = ""
    open: tuple[Segment, Path] | None = None
    to_seal: list[Path] | None = None
    cut: int = 0


def recover_stream(folder: Path, stream: str) -> Recovered:
    """Bring a stream's folder into order: cut off what is torn, drop what is there twice.

    Raises:
        AuditDamaged: acknowledged records are damaged.
    """
    for path in folder.glob("*.tmp"):
        path.unlink()
    for path in folder.glob("*.arrow"):
        if path.with_suffix(".parquet").exists():
            path.unlink()
    files = segments(folder)
    result = Recovered(files[-1].number + 1 if files else 1, {}, to_seal=[])
    while files:
        last = files.pop()
        if last.sealed:
            metadata = pq.read_metadata(last.path).metadata
            final = json.loads(metadata[FINAL])
            result.marks, result.digest = final["marks"], final["sha256"]
            result.tree = final.get("tree", "")
            break
        segment = _recover_open(last.path, stream, result)
        if segment is not None:
            result.marks, result.digest = segment.marks, segment.digest.hexdigest()
            result.tree = segment.tree
            result.open = (segment, last.path)
            break
        result.next_number = last.number  # nothing of it is left
    result.to_seal = [f.path for f in files if not f.sealed]
    sync_folder(folder)
    return result


def _recover(path: Path, stream: str, data: bytes) -> Segment | None:
    try:
        return recover(data, stream, int(path.stem))
    except AuditDamaged as error:
        message = f"{path}: {error.message}"
        raise AuditDamaged(message, hint=error.hint) from error


def _recover_open(path: Path, stream: str, result: Recovered) -> Segment | None:
    data = path.read_bytes()
    segment = _recover(path, stream, data)
    size = segment.size if segment else 0
    result.cut += len(data) - size
    if segment is None:
        path.unlink()
    elif len(data) > size:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
    return segment


def append(descriptor: int, data: bytes) -> None:
    """Write all of `data` and sync it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make created, renamed and removed names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in the place of another, durably: whatever happens, one of them is there, whole."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        append(descriptor, data)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    sync_folder(path.parent)


def _opened(form: Form, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    yield form.clear(batch)


def _read_group(parquet: pq.ParquetFile, group: int, keys: DataKeys | None) -> Iterator[pa.RecordBatch]:
    return _clear(parquet.read_row_group(group).to_batches(), keys)


def _clear(batches: Iterable[pa.RecordBatch], keys: DataKeys | None) -> Iterator[pa.RecordBatch]:
    """The rows as they were recorded, without our metadata; the batches are of one segment."""
    form: Form | None = None
    for batch in batches:
        form = form or Form(batch.schema, keys)
        yield form.clear(batch)


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches in groups of about a row group's size."""
    group: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        if rows >= _ROW_GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group
