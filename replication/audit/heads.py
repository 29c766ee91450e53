"""Signed tree heads: what the whole log held at a moment, signed. Pure.

A head names, for every stream, how many records it has and the root of its tree; for an open segment the
digest of its bytes; and the digests of the segments that were sealed since the head before. It carries the
digest of that head, so heads are a chain. The signature is Ed25519 over the head without the signature.

A `Signer` is whoever holds the private key: `SoftwareSigner`, or a token.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from replication.errors import ConfigError, Transient

_PEM_HINT = "make one: openssl genpkey -algorithm ed25519 -out FILE"


class SignerUnavailable(Transient):
    """Whoever signs does not at the moment; the log goes on, and a later head covers what is not covered."""


class Signer(Protocol):
    """Signs heads with an Ed25519 key that it keeps to itself."""

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that check its signatures."""

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of a signature; raises `SignerUnavailable`."""


class SoftwareSigner:
    """Signs with a key in memory.

    Args:
        pem: the private key, PKCS#8 in PEM, not encrypted.

    Raises:
        ConfigError: it is something else.
    """

    def __init__(self, pem: bytes) -> None:
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError) as error:
            message = "the signing key of the audit log cannot be read"
            raise ConfigError(message, hint=_PEM_HINT) from error
        if not isinstance(key, Ed25519PrivateKey):
            message = "the signing key of the audit log is not an Ed25519 key"
            raise ConfigError(message, hint=_PEM_HINT)
        self._key = key

    @property
    def public_key(self) -> bytes:
        """See `Signer`."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, data: bytes) -> bytes:
        """See `Signer`."""
        return self._key.sign(data)


def new_signing_key() -> bytes:
    """A new private key, PKCS#8 in PEM."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key_from(text: str) -> bytes:
    """A public key from 64 hexadecimal digits or from PEM.

    Raises:
        ConfigError: it is neither.
    """
    try:
        if "BEGIN" not in text:
            raw = bytes.fromhex(text.strip())
            Ed25519PublicKey.from_public_bytes(raw)
            return raw
        key = load_pem_public_key(text.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        message = "not an Ed25519 public key"
        raise ConfigError(
            message, hint="give 64 hexadecimal digits, as 'audit head' prints them, or a PEM file"
        )
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """The open segment's file as far as it was written: its number, and the digest of so many bytes."""

    number: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream's tree: how many records, and the root, hexadecimal."""

    records: int
    root: str
    open: OpenSegment | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What the log held.

    Attributes:
        group: the group's name.
        number: place among the heads, from 1.
        time: when it was signed, microseconds since 1970 by the writer's clock.
        streams: of every stream.
        files: digests of the Parquet files that are new since the head before, by `STREAM/FILE`.
        previous: digest of the line of the head before; empty for the first.
        signer: the public key, hexadecimal.
        signature: hexadecimal.
    """

    group: str
    number: int
    time: int
    streams: Mapping[str, StreamHead]
    files: Mapping[str, str]
    previous: str = ""
    signer: str = ""
    signature: str = field(default="", compare=False)

    @property
    def line(self) -> bytes:
        """As it is written down."""
        return _json(asdict(self))

    @property
    def digest(self) -> str:
        """What the next head calls `previous`."""
        return sha256(self.line).hexdigest()

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        fields = asdict(self)
        del fields["signature"]
        return b"sync-worker audit head\n" + _json(fields)

    @property
    def is_signed(self) -> bool:
        """Whether the signature is one of `signer` over this head."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signer))
            key.verify(bytes.fromhex(self.signature), self.signed)
        except (ValueError, InvalidSignature):
            return False
        return True

    @classmethod
    def of(cls, line: bytes) -> Head:
        """The head in a line.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = json.loads(line)
            streams = {name: _stream_head(found) for name, found in fields.pop("streams").items()}
            head = cls(streams=streams, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = "not a tree head"
            raise ValueError(message) from error
        if head.line != line.strip():
            message = "a tree head that was written otherwise"
            raise ValueError(message)
        return head


def _stream_head(fields: dict[str, Any]) -> StreamHead:
    found = fields.pop("open")
    return StreamHead(open=None if found is None else OpenSegment(**found), **fields)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signed_head(
    signer: Signer,
    group: str,
    time: int,
    streams: Mapping[str, StreamHead],
    files: Mapping[str, str],
    after: Head | None,
) -> Head:
    """The next head, signed.

    Args:
        signer: whose signature.
        group: the group's name.
        time: now, microseconds since 1970.
        streams: of every stream.
        files: Parquet files that are new.
        after: the head before.
    """
    number, previous = (after.number + 1, after.digest) if after else (1, "")
    bare = Head(group, number, time, streams, files, previous, signer.public_key.hex())
    signature = signer.sign(bare.signed).hex()
    return Head(group, number, time, streams, files, previous, bare.signer, signature)


def first_fault(heads: Sequence[Head], trusted: Sequence[bytes] = ()) -> tuple[int, str] | None:
    """What is wrong with a chain of heads that begins with the first one; None if nothing is.

    Args:
        heads: in their order.
        trusted: public keys; if there are any, each head must be signed by one of them.

    Returns:
        how many heads before hold, and what is wrong with the next.
    """
    keys = {key.hex() for key in trusted}
    before: Head | None = None
    for place, head in enumerate(heads, 1):
        if (what := _fault(place, head, before, keys)) is not None:
            return place - 1, f"head {place} {what}"
        before = head
    return None


def _fault(place: int, head: Head, before: Head | None, keys: Collection[str]) -> str | None:
    if head.number != place:
        return f"is missing: head {head.number} is in its place"
    if not head.is_signed:
        return "is not what was signed"
    if keys and head.signer not in keys:
        return f"is signed by another key, {head.signer}"
    if head.previous != (before.digest if before else ""):
        return "does not follow the head before it"
    if before is None:
        return None
    if head.group != before.group:
        return f"is of the group '{head.group}'"
    for name, stream in before.streams.items():
        now = head.streams.get(name)
        if now is None or now.records < stream.records:
            return f"has {now.records if now else 0} records of {name}, the head before {stream.records}"
    return None
