"""The writer's half of sealing: when a head is due, what goes into it, and where the last one stands.

A head is signed and appended only after all that it names has been synced. So a crash in between leaves
records that no head covers yet, and never a head without its records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from replication.audit import evidence
from replication.audit.heads import Head, Signer, StreamHead, signed_head
from replication.audit.segment import DAMAGE_HINT, AuditDamaged

_NO_FILES = b'"files":{}'


class Seals:
    """The heads of one log.

    Args:
        root: the log's folder.
        group: the group's name.
        signer: who signs.
        seconds: at least so long between two heads.
    """

    def __init__(self, root: Path, group: str, signer: Signer, seconds: int) -> None:
        self._root = root
        self._group = group
        self._signer = signer
        self._pause = seconds * 1_000_000
        evidence.cut_torn_head(root)
        listed: set[str] = set()
        self.last: Head | None = None
        number, newest = 0, b""
        for number, newest in enumerate(evidence.head_lines(root), 1):
            if _NO_FILES not in newest:  # there is one a minute: only what is needed of them is read
                listed.update(_head(root, number, newest).files)
        if number:
            self.last = _head(root, number, newest)
        self._tried = self.last.time if self.last else None
        """When the last head was signed, or could not be."""
        self._files = {
            name: evidence.file_digest(evidence.sealed_path(root, name))
            for name in evidence.sealed_names(root)
            if name not in listed
        }

    def sealed(self, name: str, digest: str) -> None:
        """A segment is Parquet now."""
        self._files[name] = digest

    def missing(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Streams with fewer records than the last head says: how many it says, how many there are."""
        streams = self.last.streams if self.last else {}
        found = {name: (stream.records, sizes.get(name, 0)) for name, stream in streams.items()}
        return {name: (said, there) for name, (said, there) in found.items() if there < said}

    def is_due(self, now: int) -> bool:
        """Whether enough time has passed since the last head."""
        return self._tried is None or now - self._tried >= self._pause

    def sign(self, streams: Mapping[str, StreamHead], now: int) -> None:
        """Sign and append a head, if it says anything new.

        Raises:
            SignerUnavailable: it could not be signed; the next one covers the same.
        """
        before = self.last.streams if self.last else {}
        grown = {n: s.records for n, s in streams.items()} != {n: s.records for n, s in before.items()}
        if not grown and not self._files:
            return
        self._tried = now
        self.last = signed_head(self._signer, self._group, now, streams, self._files, self.last)
        evidence.append_head(self._root, self.last.line)
        self._files = {}


def _head(root: Path, number: int, line: bytes) -> Head:
    try:
        return Head.of(line)
    except ValueError as error:
        message = f"{root / evidence.HEADS}:{number}: {error}"
        raise AuditDamaged(message, hint=DAMAGE_HINT) from error
