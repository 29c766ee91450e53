"""Checking a log against its heads: offline, without any key, also while a writer is at work.

Each stream is read from its beginning. A record must be what its leaf says, segments must follow each other,
and where a head was signed, the tree of the records so far must have the root that the head names. The check
of a stream ends at its first fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from replication.audit import evidence, store
from replication.audit.heads import Head, OpenSegment, first_fault
from replication.audit.merkle import Frontier
from replication.audit.segment import AuditDamaged
from replication.audit.stored import Form
from replication.errors import Terminal

_UNREADABLE = (pa.ArrowException, ValueError, LookupError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
        stream: where; empty for the heads themselves.
        record: place of the first bad record in its stream, from 0; None where no record is named.
        file: the segment, by `STREAM/FILE`, or the file of heads.
        what: what is wrong.
    """

    stream: str
    record: int | None
    file: str
    what: str


@dataclass(frozen=True, slots=True)
class Range:
    """Only these records are hashed again; the tree takes the others' leaves as they are written down.

    Attributes:
        stream: the stream.
        low: the first record, from 0.
        high: the one after the last.
    """

    stream: str
    low: int
    high: int


@dataclass(slots=True)
class Verified:
    """What a check has found.

    Attributes:
        records: how many records each stream has, up to its first fault.
        sealed: how many of them heads cover.
        pruned: how many of them were removed; their leaves are kept.
        heads: how many heads there are.
        last: the newest head that holds.
        signers: the public keys that have signed, hexadecimal.
        faults: what does not hold, heads first, then by stream.
    """

    records: dict[str, int] = field(default_factory=dict)
    sealed: dict[str, int] = field(default_factory=dict)
    pruned: dict[str, int] = field(default_factory=dict)
    heads: int = 0
    last: Head | None = None
    signers: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class _Broken(Exception):
    def __init__(self, record: int | None, file: str, what: str) -> None:
        super().__init__(what)
        self.record = record
        self.file = file
        self.what = what


def verify(
    root: Path, *, trusted: Sequence[bytes] = (), given: Head | None = None, only: Range | None = None
) -> Verified:
    """Check a log.

    Args:
        root: the log's folder.
        trusted: public keys; if there are any, every head must be signed by one of them.
        given: a head that was kept elsewhere; the log must still hold all that it names.
        only: which records are hashed again; all of all streams without it.
    """
    found = Verified()
    heads = _heads(root, found, trusted, given)
    names = {name for head in heads for name in head.streams} | set(store.streams(root))
    for name in [only.stream] if only else sorted(names):
        check = _Stream(root, name, heads, only)
        try:
            check.run()
        except _Broken as broken:
            found.faults.append(Fault(name, broken.record, broken.file, broken.what))
        except AuditDamaged as error:
            found.faults.append(Fault(name, check.tree.size, check.file, error.message))
        except (*_UNREADABLE, Terminal):
            found.faults.append(Fault(name, check.tree.size, check.file, "cannot be read"))
        found.records[name] = check.tree.size
        found.sealed[name] = check.sealed
        found.pruned[name] = check.pruned
    return found


def read_heads(root: Path) -> list[Head]:
    """The heads of a log, up to the first that cannot be read."""
    heads = []
    for line in evidence.head_lines(root):
        try:
            heads.append(Head.of(line))
        except ValueError:
            break
    return heads


def _heads(root: Path, found: Verified, trusted: Sequence[bytes], given: Head | None) -> list[Head]:
    """The heads that the log is held against; faults of the heads themselves go to `found`."""

    def fault(what: str) -> None:
        found.faults.append(Fault("", None, evidence.HEADS, what))

    lines = sum(1 for _ in evidence.head_lines(root))
    heads = read_heads(root)
    if (wrong := first_fault(heads, trusted)) is not None:
        good, what = wrong
        fault(what)
        heads = heads[:good]
    elif len(heads) < lines:
        fault(f"head {len(heads) + 1} cannot be read")
    found.heads = len(heads)
    found.signers = sorted({head.signer for head in heads})
    if given is not None:
        if not given.is_signed or (trusted and given.signer not in {k.hex() for k in trusted}):
            fault("the head that was given is not what was signed")
            return heads
        if given.number > len(heads):
            fault(f"head {given.number}, which was given, is missing: the heads end with {len(heads)}")
        elif heads[given.number - 1].digest != given.digest:
            fault(f"head {given.number} is not the one that was given")
        heads = [*heads, given]
    found.last = max(heads, key=lambda h: h.number, default=None)
    return heads


class _Stream:
    """The check of one stream."""

    def __init__(self, root: Path, name: str, heads: Sequence[Head], only: Range | None) -> None:
        self._root = root
        self._name = name
        self._group = heads[-1].group if heads else None
        self._only = only
        self._files = {file: digest for head in heads for file, digest in head.files.items()}
        self._open: dict[int, OpenSegment] = {}
        places: dict[tuple[int, str], int] = {}
        for head in heads:
            if (stream := head.streams.get(name)) is not None:
                places[stream.records, stream.root] = head.number
                if stream.open is not None:
                    self._open[stream.open.number] = stream.open
        self._places = sorted((size, head, root_) for (size, root_), head in places.items())
        self.tree = Frontier()
        self.sealed = 0
        self.pruned = 0
        self.file = ""

    def run(self) -> None:
        """Check it; raises `_Broken` at the first fault."""
        self._reach()
        number, digest = 1, ""
        for file in evidence.all_segments(store.stream_folder(self._root, self._name)):
            self.file = f"{self._name}/{file.path.name}"
            segment = evidence.stored_segment(file)
            if segment is None:
                break
            header = segment.header
            if file.number != number and header.previous != digest:
                self._break(f"segment {number} is missing")
            if (header.stream, header.number) != (self._name, file.number):
                self._break(f"segment {header.number} of {header.stream} is in its place")
            if header.previous != digest or self._group not in (None, header.group):
                self._break("it does not follow the segment before")
            before = self.tree.size
            is_pruned = file.path.suffix == evidence.KEPT
            for batch in segment.batches:
                if is_pruned:
                    self.pruned += batch.num_rows
                    self._extend(evidence.written_leaves(batch))
                else:
                    self._take(batch)
            if self.tree.size - before != segment.rows:
                self._break(f"it has {self.tree.size - before} records, by its own account {segment.rows}")
            if segment.tree and segment.tree != self.tree.state:
                self._break("its records are not those of its own account", before)
            self._check_file(file, before)
            number, digest = file.number + 1, segment.digest
        if self._places:
            size, head, _ = self._places[-1]
            first, last = self.tree.size, size - 1
            which = f"record {first} is" if first == last else f"records {first} to {last} are"
            self._break(f"{which} missing, which head {head} names")

    def _break(self, what: str, record: int | None = None) -> NoReturn:
        raise _Broken(self.tree.size if record is None else record, self.file, what)

    def _take(self, batch: pa.RecordBatch) -> None:
        written = evidence.written_leaves(batch)
        only, start = self._only, self.tree.size
        is_outside = only and (start >= only.high or start + batch.num_rows <= only.low)
        leaves = written if written and is_outside else Form(batch.schema).leaves(batch, start)
        bad = next(
            (i for i, pair in enumerate(zip(leaves, written, strict=False)) if pair[0] != pair[1]), None
        )
        self._extend(leaves if bad is None else leaves[:bad])
        if bad is not None:
            recorded = batch.column("_recorded")[bad].as_py() if "_recorded" in batch.schema.names else None
            self._break(f"the record is not what was written (_recorded {recorded})")

    def _extend(self, leaves: Sequence[bytes]) -> None:
        """Add leaves; wherever a head was signed, stop and compare."""
        while leaves:
            until = self._places[0][0] - self.tree.size if self._places else len(leaves)
            self.tree.extend(leaves[:until])
            leaves = leaves[until:]
            self._reach()

    def _reach(self) -> None:
        """Compare with the heads that were signed at this size."""
        while self._places and self._places[0][0] == self.tree.size:
            size, head, root = self._places.pop(0)
            if root != self.tree.root.hex():
                what = f"records {self.sealed} to {size - 1} are not those that head {head} names"
                self._break(what, self.sealed)
            self.sealed = size

    def _check_file(self, file: store.SegmentFile, first: int) -> None:
        """The bytes around the records, too, must be what a head names."""
        try:
            if not file.sealed:
                wanted = self._open.get(file.number)
                if self._places:
                    return  # records are missing, and that says more
                if wanted and evidence.file_digest(file.path, wanted.bytes) != wanted.sha256:
                    self._break("its bytes are not those that a head names", first)
                return
        except FileNotFoundError:
            return  # sealed meanwhile; its records were compared
        listed = self._files.get(self.file)
        if listed is None and file.path.suffix == evidence.KEPT:
            self._break("its records were removed, and no head says so", first)
        if listed and evidence.file_digest(file.path) != listed:
            self._break("its bytes are not those that a head names, though its records are", first)


def faults_of(found: Verified) -> Iterator[str]:
    """Each fault as a line."""
    for fault in found.faults:
        place = "" if fault.record is None else f" record {fault.record}"
        file = f" ({fault.file})" if fault.file else ""
        where = f"{fault.stream}{place}{file}" if fault.stream else fault.file
        yield f"{where}: {fault.what}"
