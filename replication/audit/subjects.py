"""Keys per subject: what a person's records are encrypted with besides the table's key, so that it can be
destroyed. The records stay, as ciphertext that nobody can open, and so do their hashes and every proof.

A table names the column that says whose a row is. Each of its values has a random key of 32 bytes, under a
random name: `subjects.jsonl` beside the log holds them, one a line, encrypted with a data key of the log.
Which value a key belongs to is there as HMAC under the same data key, so the file says nothing without the
master key; once a key is destroyed, its name alone is left. The writer adds keys, durably, before the first
record that needs them. Only destroying one rewrites the file.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from replication.audit import store
from replication.audit.printing import printable_column
from replication.audit.records import CHANGES, CONFLICTS, DECISIONS, HOLDS
from replication.audit.stored import NAME_BYTES, AuditKeyMissing
from replication.errors import Terminal

FILE = "subjects.jsonl"
_KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Subject:
    """What says whose a table's rows are.

    Attributes:
        column: the column.
        is_key: it is the table's whole key, so that records with nothing but a key are a subject's, too.
    """

    column: str
    is_key: bool = False


Subjects = Mapping[str, Subject]
"""By table, for those that have keys per subject."""


def by_key(table: str, key: bytes) -> bytes:
    """Who is meant by a canonical key."""
    return b"%s\0key\0%s" % (table.encode(), key)


def by_value(table: str, value: Any) -> bytes:
    """Who is meant by a column's value."""
    return b"%s\0value\0%s" % (table.encode(), str(value).encode())


def has_subjects(subjects: Subjects, stream: str) -> bool:
    """Whether records of a stream can be a subject's."""
    kind, _, table = stream.partition("/")
    if kind == CHANGES:
        return table in subjects
    any_key = any(subject.is_key for subject in subjects.values())
    return bool(subjects) if kind == CONFLICTS else any_key if kind in (DECISIONS, HOLDS) else False


def whose(subjects: Subjects, stream: str, rows: pa.RecordBatch) -> list[tuple[bytes, ...]]:
    """For each record the subjects that it is about: none where it does not say, at most two."""
    kind, _, table = stream.partition("/")
    if kind == CHANGES:
        return _of_changes(table, subjects[table], rows)
    if kind == CONFLICTS:
        return [of_conflict(subjects, row) for row in rows.to_pylist()]
    columns = ("_table", "_key") if kind == DECISIONS else ("table", "key")
    pairs = zip(*(rows.column(name).to_pylist() for name in columns), strict=True)
    return [(by_key(t, key),) if (s := subjects.get(t)) and s.is_key and key else () for t, key in pairs]


def _of_changes(table: str, subject: Subject, rows: pa.RecordBatch) -> list[tuple[bytes, ...]]:
    if subject.is_key:
        return [() if key is None else (by_key(table, key),) for key in rows.column("_key").to_pylist()]
    if subject.column not in rows.schema.names:
        return [()] * rows.num_rows
    values = printable_column(rows.column(subject.column))
    return [() if value is None else (by_value(table, value),) for value in values]


def of_conflict(subjects: Subjects, row: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The subjects of a conflict; by the column, those of both versions. None once it was erased."""
    table = row["table"]
    if (subject := subjects.get(table)) is None or row["key"] is None:
        return ()
    if subject.is_key:
        return (by_key(table, row["key"]),)
    images = [json.loads(row[side]) for side in ("left_image", "right_image") if row[side]]
    values = [image[subject.column] for image in images if image.get(subject.column) is not None]
    return tuple(sorted({by_value(table, value) for value in values}))


class SubjectKeys:
    """The keys of one log's subjects.

    Args:
        root: the log's folder.
        cover: gives the data key that they are encrypted with; called once there is one to open or to make.
    """

    def __init__(self, root: Path, cover: Callable[[], bytes]) -> None:
        self._path = root / FILE
        self._cover = cover
        self._entries: dict[str, dict[str, str]] = {}
        self._names: dict[str, str] = {}
        self._clear: dict[bytes, bytes] = {}
        self._seen: tuple[int, int, int] | None = None
        self._first, self._size = b"", 0
        """The first line, another one whenever the file was rewritten, and how much of it is known."""

    def key(self, name: bytes) -> bytes | None:
        """The key of that name; None if it was destroyed.

        Raises:
            AuditKeyMissing: it is not there, and was not destroyed; or it was altered.
        """
        self.refresh()
        if (found := self._clear.get(name)) is not None:
            return found
        if (entry := self._entries.get(name.hex())) is None:
            message = f"the key {name.hex()} of a subject is not in {self._path}"
            raise AuditKeyMissing(message, hint=f"restore {FILE} from a backup")
        if "key" not in entry:
            return None
        self._clear[name] = found = self._open(entry)
        return found

    def find(self, who: bytes) -> str | None:
        """The name of a subject's key, hexadecimal; None if there is none."""
        self.refresh()
        return self._names.get(self._tag(who)) if self._entries else None

    def names_of(self, owners: Sequence[tuple[bytes, ...]]) -> list[bytes | None]:
        """The names of the keys of some records; the writer's. Keys that are missing are made, durably."""
        self.refresh()
        new: list[dict[str, str]] = []
        known: dict[bytes, bytes] = {}
        for who in {who for one in owners for who in one}:
            tag = self._tag(who)
            if tag not in self._names:
                new.append(self._made(tag))
                self._add(new[-1])
            known[who] = bytes.fromhex(self._names[tag])
        if new:
            self._append(new)
        return [b"".join(known[who] for who in one) or None for one in owners]

    def destroy(self, name: str, time: int) -> None:
        """Destroy a key, durably; its name is kept, with the time."""
        self.refresh()
        self._entries[name] = {"name": name, "erased": str(time)}
        store.replace_file(self._path, b"".join(map(_line, [_generation(), *self._entries.values()])))
        self._seen = None
        self.refresh()

    def refresh(self) -> None:
        """Read what the file has got, or all of it if it is another one."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._entries, self._names, self._clear, self._first, self._seen = {}, {}, {}, b"", None
            return
        if (stamp := (found.st_ino, found.st_size, found.st_mtime_ns)) == self._seen:
            return
        with self._path.open("rb") as file:
            first = file.readline()
            first = first if first.endswith(b"\n") else b""
            if first != self._first:
                self._entries, self._names, self._clear = {}, {}, {}
                self._first, self._size = first, len(first)
            file.seek(self._size)
            for line in file:
                if line.endswith(b"\n"):  # else it is being written
                    self._add(json.loads(line))
                    self._size += len(line)
        self._seen = stamp

    def _add(self, entry: dict[str, str]) -> None:
        self._entries[entry["name"]] = entry
        if "tag" in entry:
            self._names[entry["tag"]] = entry["name"]

    def _append(self, entries: Sequence[dict[str, str]]) -> None:
        """Write them behind what is known; a line that a crash has left torn is needed by no record."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        first = b"" if self._first else _line(_generation())
        try:
            os.ftruncate(descriptor, self._size)
            os.lseek(descriptor, 0, os.SEEK_END)
            store.append(descriptor, first + b"".join(map(_line, entries)))
        finally:
            os.close(descriptor)
        store.sync_folder(self._path.parent)
        self.refresh()

    def _tag(self, who: bytes) -> str:
        return hmac.digest(self._cover(), b"sync-worker audit subject\n" + who, "sha256").hex()

    def _made(self, tag: str) -> dict[str, str]:
        name, nonce = secrets.token_hex(NAME_BYTES), os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._cover()).encrypt(nonce, secrets.token_bytes(_KEY_BYTES), _about(name, tag))
        return {"name": name, "tag": tag, "key": (nonce + sealed).hex()}

    def _open(self, entry: Mapping[str, str]) -> bytes:
        data = bytes.fromhex(entry["key"])
        about = _about(entry["name"], entry["tag"])
        try:
            return AESGCM(self._cover()).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about)
        except InvalidTag:
            message = f"the key {entry['name']} of a subject in {self._path} was altered"
            raise AuditKeyMissing(message, hint=f"restore {FILE} from a backup") from None


def refuse_open(awaiting: int, table: str) -> None:
    """A record that still decides something is needed.

    Raises:
        Terminal: there are such records.
    """
    if awaiting:
        message = f"{awaiting} conflicts or rows on hold of this subject in {table} are not settled"
        hint = "settle them first: sync-worker conflicts resolve, sync-worker dlq retry or discard"
        raise Terminal(message, hint=hint)


def _about(name: str, tag: str) -> bytes:
    return f"sync-worker audit subject\n{name}\n{tag}".encode()


def _generation() -> dict[str, str]:
    return {"generation": secrets.token_hex(8)}


def _line(entry: Mapping[str, str]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
