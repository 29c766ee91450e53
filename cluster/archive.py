"""A copy of the audit log elsewhere, at any address that `pyarrow.fs` knows: S3, GCS, HDFS, a folder.

    STREAM/NUMBER.parquet, .leaves    once each
    STREAM/NUMBER.arrow               the open segment, again while it grows
    heads/NUMBER.jsonl                the heads since the last time, under the number of the first
    manifest.json, keys.json          again when they change

What a head names is there before the head is, so what is there is a whole log at any time: `fetch` makes a
folder of it again. The key that signs stays where it is, and so do keys of subjects: a copy could not be
destroyed with them. Nothing is ever removed there.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs

from replication.audit import evidence, store
from replication.audit.segment import committed_batches
from replication.errors import ConfigError, Terminal, Transient

MANIFEST, HEADS = "manifest.json", "heads"
HINT = "e.g. s3://bucket/folder?region=eu-central-1, or file:///mnt/audit"
_FIRST = f"{HEADS}/{1:012}.jsonl"


class ArchiveAway(Transient):
    """The place of the copy cannot be reached, or lets nobody in. Try again."""


class OtherArchive(Terminal):
    """What is there is a copy of another log."""


class Place:
    """Files under an address.

    Args:
        uri: the address.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        if parts.scheme == "s3" and not {"region", "endpoint_override"} & parse_qs(parts.query).keys():
            message = f"{uri} does not say in which region the bucket is"
            raise ConfigError(message, hint=f"write {uri}?region=eu-central-1, or which it is")
        if "@" in parts.netloc:
            message = "an address with a name or a password in it"
            hint = "give them as the store's own tools take them, for S3 as AWS_ACCESS_KEY_ID"
            raise ConfigError(message, hint=hint)
        try:
            self._files, self._base = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            message = f"{uri} is no address of a store: {error}"
            raise ConfigError(message, hint=HINT) from error
        self.uri = uri
        self._folder = Path(self._base) if self._files.type_name == "local" else None

    def sizes(self) -> dict[str, int]:
        """By name how large each file is."""
        chosen = fs.FileSelector(self._base, allow_not_found=True, recursive=True)
        with self.reached():
            self._check_folder()
            found = [f for f in self._files.get_file_info(chosen) if f.type == fs.FileType.File]
        skip = len(self._base.rstrip("/")) + 1
        return {f.path[skip:]: f.size for f in found if not f.path.endswith(".tmp")}

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        with self.reached(), self._files.open_input_stream(f"{self._base}/{name}") as file:
            return bytes(file.read())

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it is there whole or not at all."""
        path = f"{self._base}/{name}"
        with self.reached():
            if self._folder is not None:
                self._check_folder()
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                store.replace_file(Path(path), data)
                return
            with self._files.open_output_stream(path) as file:
                file.write(data)

    def _check_folder(self) -> None:
        """A disk that is not mounted is not to be taken for one."""
        if self._folder is not None and not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", self._base)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """What goes wrong on the way, as an error of ours."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            message = f"the audit log's archive {self.uri} does not answer: {error}"
            hint = "see that it is there, and that we may list, read and write"
            raise ArchiveAway(message, hint=hint) from error


class Archive:
    """The copy of one log. Used by one thread at a time.

    Args:
        root: the log's folder.
        uri: where its copy is.

    Raises:
        ConfigError: that is no address.
    """

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._place = Place(uri)
        self._sizes: dict[str, int] = {}
        """By name what is there."""
        self._written: dict[str, bytes] = {}
        self._looked: dict[str, int] = {}
        """By name of an open segment how large it was when it was last read."""
        self._heads = -1
        """How many heads are there; less than 0 before it was looked."""

    def push(self) -> int:
        """Copy what is new; gives how many files were written.

        Raises:
            ArchiveAway: try again.
            OtherArchive: another log is there.
        """
        if self._heads < 0:
            self.look()
        heads = list(islice(evidence.head_lines(self._root), self._heads, None))
        count = sum(self._copy_again(name) for name in (MANIFEST, store.KEYS))
        count += sum(self._copy(name, path) for name, path in _segments(self._root))
        if heads:
            self._place.write(f"{HEADS}/{self._heads + 1:012}.jsonl", b"".join(h + b"\n" for h in heads))
            self._heads += len(heads)
        return count + bool(heads)

    def look(self) -> None:
        """See what is there, and that it is of this log.

        Raises:
            ArchiveAway: try again.
            OtherArchive: it is not.
        """
        sizes = self._place.sizes()
        pieces = sorted(name for name in sizes if name.startswith(f"{HEADS}/"))
        if pieces:
            ours = next(evidence.head_lines(self._root), b"")
            count = int(PurePosixPath(pieces[-1]).stem) - 1 + self._place.read(pieces[-1]).count(b"\n")
            here = sum(1 for _ in evidence.head_lines(self._root))
            if self._place.read(_FIRST).partition(b"\n")[0] != ours or here < count:
                message = f"{self._place.uri} has the copy of another log than {self._root}"
                raise OtherArchive(message, hint="name another audit.archive; what is there stays as it is")
            self._heads = count
        elif sizes:
            self._check_group(sizes)
        self._sizes, self._heads = sizes, max(0, self._heads)

    def _check_group(self, sizes: dict[str, int]) -> None:
        """Of a copy that has no head yet."""
        mine = store.read_manifest(self._root)
        manifest = self._place.read(MANIFEST) if MANIFEST in sizes else b"{}"
        if mine is not None and json.loads(manifest).get("group") != mine.group:
            message = f"{self._place.uri} holds something else"
            raise OtherArchive(message, hint="name an empty folder as audit.archive")

    def _copy_again(self, name: str) -> bool:
        path = self._root / name
        data = path.read_bytes() if path.exists() else b""
        if not data or self._written.get(name) == data:
            return False
        self._place.write(name, data)
        self._written[name] = data
        return True

    def _copy(self, name: str, path: Path) -> bool:
        try:
            if path.suffix == ".arrow":
                if self._looked.get(name) == path.stat().st_size:
                    return False
                whole = path.read_bytes()
                data = whole[: committed_batches(whole)[1]]
            elif self._sizes.get(name) == path.stat().st_size:
                return False
            else:
                data = path.read_bytes()
        except FileNotFoundError:  # it was finished, or removed, since the folder was listed
            finished = path.with_suffix(".parquet")
            name = str(PurePosixPath(name).with_suffix(".parquet"))
            return finished != path and finished.exists() and self._copy(name, finished)
        if not data or self._sizes.get(name) == len(data):
            return False
        self._place.write(name, data)
        self._sizes[name] = len(data)
        if path.suffix == ".arrow":
            self._looked[name] = len(whole)
        return True


def _segments(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of all streams, those of finished segments before the open one of a stream."""
    for stream in store.streams(root):
        folder = store.stream_folder(root, stream)
        for file in evidence.all_segments(folder):
            yield str(PurePosixPath(*file.path.relative_to(root).parts)), file.path


def fetch(uri: str, target: Path, told: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Make a folder of a copy again.

    Args:
        uri: where the copy is.
        target: the folder; it must be empty.
        told: called with how many bytes of how many are there.

    Raises:
        ArchiveAway: try again.
        ConfigError: there is no copy.
    """
    place = Place(uri)
    sizes = place.sizes()
    if MANIFEST not in sizes:
        message = f"no copy of an audit log in {uri}"
        raise ConfigError(message, hint="audit.archive of the configuration says where it is written to")
    wanted = [n for n in sorted(sizes) if not _is_finished(n, sizes)]
    done, total = 0, sum(sizes[name] for name in wanted)
    for name in wanted:
        data = place.read(name)
        is_head = name.startswith(f"{HEADS}/")
        path = target / (evidence.HEADS if is_head else name)
        if target.resolve() not in path.resolve().parents:
            message = f"{uri} has a file with the name {name}"
            raise ConfigError(message, hint="it is not the copy of an audit log")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if is_head else "wb") as file:  # in the order of their numbers
            file.write(data)
        done += sizes[name]
        told(done, total)


def _is_finished(name: str, sizes: dict[str, Any]) -> bool:
    """Whether it is an open segment of which the finished one is there, too."""
    return name.endswith(".arrow") and name.removesuffix(".arrow") + ".parquet" in sizes
