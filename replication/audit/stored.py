"""The form in which records are stored, and the leaf of the tree that each of them is. Pure.

A segment's columns are the stream's own and then `_leaf`, the hash of the row as it is stored. Where a
segment is encrypted, the stream's payload columns are replaced by one, `_sealed`, and two that say how to
open it.
A leaf therefore hashes ciphertext there: destroying a key takes nothing away from any proof.

**Encryption and nonces.** AES-256-GCM, one ciphertext for each row. The key of a batch of rows is derived
(HKDF-SHA-256) from the segment's data key and `_salt`, 16 random bytes of its own for every batch that is
ever encrypted; the nonce is the row's number in that batch, `_nr`. So no key meets a nonce twice, also where
a torn flush is cut off after a crash and its records are written again: that is another batch with another
salt. A batch has far fewer than 2^32 rows. The associated data is the row's clear columns and the segment's
`context`, so a ciphertext fits no other row and no other segment.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np
import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from replication.audit.merkle import HASH_BYTES, leaf_hash
from replication.audit.records import payload_columns
from replication.audit.rows import decode_rows, encode_rows
from replication.audit.segment import AuditDamaged, Header
from replication.errors import ConfigError

LEAF = "_leaf"
SEALED = "_sealed"
_SALT, _NR = "_salt", "_nr"
_OPENING = [pa.field(_SALT, pa.binary()), pa.field(_NR, pa.uint32()), pa.field(SEALED, pa.binary())]
_INFO = b"sync-worker audit batch"


class AuditKeyMissing(ConfigError):
    """Records are encrypted, and the key for them is missing or another one."""


class DataKeys(Protocol):
    """Gives the keys that segments are encrypted with."""

    def data_key(self, ident: str) -> bytes:
        """The 32 bytes of a key; raises `AuditKeyMissing`."""


class Form:
    """How the rows of one segment are stored.

    Args:
        schema: the segment's, with its header.
        keys: for encrypted segments.
    """

    def __init__(self, schema: pa.Schema, keys: DataKeys | None = None) -> None:
        self.schema = schema
        self._header = header = Header.of(schema)
        self._keys = keys
        columns = [[f.name, str(f.type)] for f in schema if f.name != LEAF]
        place = [header.group, header.stream, header.number, header.key, header.columns, columns]
        self.place = json.dumps(place, separators=(",", ":"))
        """Where the rows are, and what their columns mean."""
        self.context = sha256(self.place.encode()).digest()
        """What every leaf of the segment begins with: the digest of `place`."""

    @staticmethod
    def schema_of(clear: pa.Schema, header: Header) -> pa.Schema:
        """The stored schema, with its header, for rows with these columns; see `Header.key`."""
        fields = list(clear)
        if header.key:
            hidden = payload_columns(header.stream, clear.names)
            fields = [f for f in clear if f.name not in hidden] + _OPENING
        return header.on(pa.schema([*fields, pa.field(LEAF, pa.binary(HASH_BYTES))]))

    @property
    def clear_schema(self) -> pa.Schema:
        """The columns that were recorded."""
        if self._header.key:
            return schema_from(self._header.columns)
        return pa.schema([f for f in self.schema if f.name != LEAF])

    def store(self, rows: pa.RecordBatch, first: int) -> tuple[pa.RecordBatch, list[bytes]]:
        """Rows as they are stored, and their leaves; the first row's place in its stream is `first`."""
        columns = self._sealed(rows) if self._header.key else list(rows.columns)
        leaves = [leaf_hash(row) for row in self._rows(columns, first)]
        stored = pa.RecordBatch.from_arrays([*columns, _leaf_column(leaves)], schema=self.schema)
        return stored, leaves

    def clear(self, stored: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that were recorded.

        Raises:
            AuditKeyMissing: they are encrypted, and `keys` lacks the key.
            AuditDamaged: they are encrypted, and not what was written.
        """
        if not self._header.key:
            columns = [c for c, f in zip(stored.columns, stored.schema, strict=True) if f.name != LEAF]
            return pa.RecordBatch.from_arrays(columns, schema=self.clear_schema)
        schema = self.clear_schema
        names = payload_columns(self._header.stream, schema.names)
        hidden = pa.schema([schema.field(n) for n in schema.names if n in names])
        opened = dict(zip(hidden.names, decode_rows(self._opened(stored), hidden), strict=True))
        columns = [opened[n] if n in opened else stored.column(n) for n in schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def stored_rows(self, stored: pa.RecordBatch, first: int) -> list[bytes]:
        """What the leaves of stored rows hash: `context`, the row's place in its stream, its bytes."""
        columns = [c for c, f in zip(stored.columns, stored.schema, strict=True) if f.name != LEAF]
        return self._rows(columns, first)

    def leaves(self, stored: pa.RecordBatch, first: int) -> list[bytes]:
        """The leaves of stored rows, from what is stored."""
        return [leaf_hash(row) for row in self.stored_rows(stored, first)]

    def _rows(self, columns: Sequence[pa.Array], first: int) -> list[bytes]:
        if not len(columns[0]):
            return []
        return [place_of(self.context, n) + row for n, row in enumerate(encode_rows(columns), first)]

    def _cipher(self, salt: bytes) -> AESGCM:
        if self._keys is None:
            message = f"the records of {self._header.stream} are encrypted, and there is no key"
            raise AuditKeyMissing(message, hint="set audit.key; with --audit, --key-file")
        data_key = self._keys.data_key(self._header.key)
        return AESGCM(HKDF(SHA256(), 32, salt, _INFO).derive(data_key))

    def _sealed(self, rows: pa.RecordBatch) -> list[pa.Array]:
        names, count = payload_columns(self._header.stream, rows.schema.names), rows.num_rows
        clear = [rows.column(n) for n in rows.schema.names if n not in names]
        salt = os.urandom(16)
        opening = [
            pa.repeat(pa.scalar(salt, pa.binary()), count),
            pa.array(np.arange(count, dtype=np.uint32)),
        ]
        cipher = self._cipher(salt)
        plain = encode_rows([rows.column(n) for n in rows.schema.names if n in names])
        sealed = [
            cipher.encrypt(nr.to_bytes(12, "big"), row, self.context + about)
            for nr, (row, about) in enumerate(zip(plain, encode_rows([*clear, *opening]), strict=True))
        ]
        return [*clear, *opening, pa.array(sealed, pa.binary())]

    def _opened(self, stored: pa.RecordBatch) -> list[bytes]:
        about = encode_rows([stored.column(f.name) for f in stored.schema if f.name not in (LEAF, SEALED)])
        ciphers: dict[bytes, AESGCM] = {}
        rows = []
        columns = [stored.column(name).to_pylist() for name in (_SALT, _NR, SEALED)]
        for salt, nr, sealed, row in zip(*columns, about, strict=True):
            cipher = ciphers.get(salt) or ciphers.setdefault(salt, self._cipher(salt))
            try:
                rows.append(cipher.decrypt(nr.to_bytes(12, "big"), sealed, self.context + row))
            except InvalidTag:
                where = f"{self._header.stream}, segment {self._header.number}"
                message = f"an encrypted record of {where} is not what was written"
                raise AuditDamaged(message, hint="'sync-worker audit verify' names the first one") from None
        return rows


def _leaf_column(leaves: Sequence[bytes]) -> pa.Array:
    data = pa.py_buffer(b"".join(leaves))
    return pa.Array.from_buffers(pa.binary(HASH_BYTES), len(leaves), [None, data])


def place_of(context: bytes, record: int) -> bytes:
    """What the bytes under a leaf begin with."""
    return context + record.to_bytes(8, "little")


def schema_text(schema: pa.Schema) -> str:
    """A schema as text, for a header."""
    return b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def schema_from(text: str) -> pa.Schema:
    """The schema that `schema_text` has written."""
    return pa.ipc.read_schema(pa.py_buffer(b64decode(text)))
