"""The keys that the audit log is encrypted with: one data key for each stream, wrapped by one master key.

Data keys are made here, 32 random bytes each, and lie wrapped in `keys.json` beside the log; they are in
clear in memory only. A segment's header names the data key that it is encrypted with, so after a rotation old
segments stay readable. The master key never touches the folder.

**Wrapping and nonces.** A data key is wrapped with AES-256-GCM under the master key, with a random nonce of
96 bits; its name and stream are the associated data. A master key wraps each data key once: a few in its
life, where 2^32 would be allowed. How data keys keep their nonces apart is in `stored.py`.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from replication.audit import store
from replication.audit.stored import AuditKeyMissing
from replication.audit.subjects import SubjectKeys
from replication.errors import ConfigError

KEY_BYTES = 32
_NONCE_BYTES = 12
HASHING = "hashing"
"""In the place of a stream: what the key is for that columns are hashed with, see `access`."""
COVERING = "subjects"
"""Likewise for the one that keys of subjects are encrypted with, see `subjects`."""
_LASTING = (HASHING, COVERING)
KEY_HINT = "make one: openssl rand -hex 32"


class MasterKey(Protocol):
    """Wraps data keys with a key that it keeps to itself."""

    @property
    def name(self) -> str:
        """A short name that tells it from others, and nothing about it."""

    def wrap(self, key: bytes, about: bytes) -> bytes:
        """A data key, encrypted; `about` is authenticated with it."""

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """The data key; ValueError if it was not wrapped so."""


class SoftwareMasterKey:
    """A master key in memory.

    Args:
        text: 64 hexadecimal digits.

    Raises:
        ConfigError: it is something else; the message does not show it.
    """

    def __init__(self, text: str) -> None:
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            message = "the audit log's key is not 64 hexadecimal digits"
            raise ConfigError(message, hint=KEY_HINT)
        self._cipher = AESGCM(key)
        self._name = sha256(b"sync-worker audit master key" + key).hexdigest()[:16]

    @property
    def name(self) -> str:
        """See `MasterKey`."""
        return self._name

    def wrap(self, key: bytes, about: bytes) -> bytes:
        """See `MasterKey`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, about)

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """See `MasterKey`."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], about)
        except InvalidTag:
            message = "not wrapped by this key"
            raise ValueError(message) from None


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is written down.

    Attributes:
        ident: its name; segments' headers have it.
        stream: what it is for.
        master: name of the master key.
        wrapped: hexadecimal.
    """

    ident: str
    stream: str
    master: str
    wrapped: str

    @property
    def about(self) -> bytes:
        """What is authenticated with it."""
        return f"sync-worker audit key\n{self.ident}\n{self.stream}".encode()


class Keyring:
    """The data keys of one log.

    Args:
        root: the log's folder.
        master: the master key.
    """

    def __init__(self, root: Path, master: MasterKey) -> None:
        self._root = root
        self._master = master
        self._wrapped: dict[str, WrappedKey] = {}
        self._current: dict[str, str] = {}
        self._clear: dict[str, bytes] = {}
        self.subjects = SubjectKeys(root, self._cover)
        self._read()

    def data_key(self, ident: str) -> bytes:
        """The 32 bytes of a key.

        Raises:
            AuditKeyMissing: it is not there, or wrapped by another master key.
        """
        if ident not in self._wrapped:
            self._read()  # a writer may have made it since
        if (found := self._clear.get(ident)) is None:
            found = self._clear[ident] = self._unwrapped(ident)
        return found

    def current(self, stream: str) -> str:
        """Names the newest key of a stream; the writer's: one is made, durably, if there is none."""
        if stream not in self._current:
            self._read()
        if stream not in self._current:
            self._add(stream)
            self._write()
        return self._current[stream]

    def subject_key(self, name: bytes) -> bytes | None:
        """The 32 bytes of a subject's key; None if it was destroyed. See `SubjectKeys.key`."""
        return self.subjects.key(name)

    def _cover(self) -> bytes:
        return self.data_key(self.current(COVERING))

    def hashing_key(self) -> bytes:
        """The key that columns are hashed with.

        Raises:
            AuditKeyMissing: the log's writer has not made it yet.
        """
        if HASHING not in self._current:
            self._read()
        if HASHING not in self._current:
            message = f"{self._root / store.KEYS} has no key to hash columns with"
            raise AuditKeyMissing(message, hint="it is made when the group starts: sync-worker up")
        return self.data_key(self._current[HASHING])

    def check(self) -> None:
        """Open every stream's newest key.

        Raises:
            AuditKeyMissing: the master key is another one.
        """
        for ident in self._current.values():
            self.data_key(ident)

    def rotate(self) -> int:
        """Make a new key for every stream, for the segments to come; gives how many. Others stay."""
        streams = [stream for stream in self._current if stream not in _LASTING]
        for stream in streams:
            self._add(stream)
        self._write()
        return len(streams)

    def rewrap(self, master: MasterKey) -> int:
        """Wrap all keys, also those of old segments, by another master key; gives how many."""
        again = {}
        for ident, key in self._wrapped.items():
            bare = replace(key, master=master.name)
            again[ident] = replace(bare, wrapped=master.wrap(self.data_key(ident), bare.about).hex())
        self._wrapped, self._master = again, master
        self._write()
        return len(again)

    def _unwrapped(self, ident: str) -> bytes:
        key = self._wrapped.get(ident)
        if key is None:
            message = f"the audit log's key {ident} is not in {self._root / store.KEYS}"
            raise AuditKeyMissing(message, hint=f"restore {store.KEYS} from a backup")
        mine = self._master.name
        try:
            if key.master == mine:
                return self._master.unwrap(bytes.fromhex(key.wrapped), key.about)
        except ValueError:
            message = f"the audit log's key {ident} in {self._root / store.KEYS} was altered"
            raise AuditKeyMissing(message, hint=f"restore {store.KEYS} from a backup") from None
        message = f"the audit log in {self._root} is encrypted under the key {key.master}, not under {mine}"
        hint = "set audit.key to the key that it was written with; 'audit rotate-key' puts it under another"
        raise AuditKeyMissing(message, hint=hint)

    def _add(self, stream: str) -> None:
        ident, key = secrets.token_hex(8), secrets.token_bytes(KEY_BYTES)
        bare = WrappedKey(ident, stream, self._master.name, "")
        self._wrapped[ident] = replace(bare, wrapped=self._master.wrap(key, bare.about).hex())
        self._current[stream] = ident

    def _read(self) -> None:
        for fields in store.read_keys(self._root):
            key = WrappedKey(**fields)
            self._wrapped[key.ident] = key
            self._current[key.stream] = key.ident

    def _write(self) -> None:
        store.write_keys(self._root, [asdict(key) for key in self._wrapped.values()])


def refuse_clear(root: Path) -> None:
    """Nobody writes in clear to a log that is encrypted, only because a setting was lost.

    Raises:
        AuditKeyMissing: this one is encrypted.
    """
    if store.read_keys(root):
        message = f"the audit log in {root} is encrypted, and no key is set"
        raise AuditKeyMissing(message, hint="set audit.key; in clear, use another audit.path")
