"""The form in which records are stored, and the leaf of the tree that each of them is. Pure.

A segment's columns are the stream's own and then `_leaf`, the hash of the row as it is stored. Where a
segment is encrypted, the stream's payload columns are replaced by one, `_sealed`, and two that say how to
open it.
A leaf therefore hashes ciphertext there: destroying a key takes nothing away from any proof.

**Encryption and nonces.** AES-256-GCM, one ciphertext for each row. The key of a batch of rows is derived
(HKDF-SHA-256) from the segment's data key and `_salt`, 16 random bytes of its own for every batch that is
ever encrypted; the nonce is the row's number in that batch, `_nr`. So no key meets a nonce twice, also where
a torn flush is cut off after a crash and its records are written again: that is another batch with another
salt. A batch has far fewer than 2^32 rows. Where records have keys per subject, `_subject` names those of a
row, one or two, and the row's key is derived from the data key and those: without one of them it cannot be
opened, and is given as a row of nulls with `_erased`. Of one salt, each subject's rows have a key of their
own, so nonces stay apart. The associated data is the row's clear columns and the segment's
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

from replication.audit import merkle
from replication.audit.merkle import HASH_BYTES, leaf_hashes
from replication.audit.records import ERASED, payload_columns
from replication.audit.rows import decode_rows, encode_rows
from replication.audit.segment import AuditDamaged, Header
from replication.errors import ConfigError

LEAF = "_leaf"
SEALED = "_sealed"
SUBJECT = "_subject"
NAME_BYTES = 16
"""Of the name of a subject's key."""
_SALT, _NR = "_salt", "_nr"
_OPENING = [pa.field(_SALT, pa.binary()), pa.field(_NR, pa.uint32())]
_BY_SUBJECT = pa.field(SUBJECT, pa.binary())
_INFO = b"sync-worker audit batch"
_NULL_CELL = b"\0"


class AuditKeyMissing(ConfigError):
    """Records are encrypted, and the key for them is missing or another one."""


class DataKeys(Protocol):
    """Gives the keys that segments are encrypted with."""

    def data_key(self, ident: str) -> bytes:
        """The 32 bytes of a key; raises `AuditKeyMissing`."""

    def subject_key(self, name: bytes) -> bytes | None:
        """The 32 bytes of a subject's key, None if it was destroyed; raises `AuditKeyMissing`."""


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
        self.by_subject = SUBJECT in schema.names
        """Whether rows have keys per subject."""
        columns = [[f.name, str(f.type)] for f in schema if f.name != LEAF]
        place = [header.group, header.stream, header.number, header.key, header.columns, columns]
        self.place = json.dumps(place, separators=(",", ":"))
        """Where the rows are, and what their columns mean."""
        self.context = sha256(self.place.encode()).digest()
        """What every leaf of the segment begins with: the digest of `place`."""

    @staticmethod
    def schema_of(clear: pa.Schema, header: Header, *, by_subject: bool = False) -> pa.Schema:
        """The stored schema, with its header, for rows with these columns; see `Header.key`."""
        fields = list(clear)
        if header.key:
            hidden = payload_columns(header.stream, clear.names)
            fields = [f for f in clear if f.name not in hidden] + _OPENING
            fields += [*([_BY_SUBJECT] if by_subject else []), pa.field(SEALED, pa.binary())]
        return header.on(pa.schema([*fields, pa.field(LEAF, pa.binary(HASH_BYTES))]))

    @property
    def clear_schema(self) -> pa.Schema:
        """The columns that were recorded."""
        if self._header.key:
            return schema_from(self._header.columns)
        return pa.schema([f for f in self.schema if f.name != LEAF])

    @property
    def read_schema(self) -> pa.Schema:
        """The columns of the rows that `clear` gives."""
        found = self.clear_schema
        return found.append(pa.field(ERASED, pa.bool_())) if self.by_subject else found

    def store(
        self, rows: pa.RecordBatch, first: int, subjects: Sequence[bytes | None] = ()
    ) -> tuple[pa.RecordBatch, list[bytes]]:
        """Rows as they are stored, and their leaves.

        Args:
            rows: what is recorded.
            first: the first row's place in its stream.
            subjects: the names of each row's subjects' keys, where rows have any.
        """
        columns = self._sealed(rows, subjects) if self._header.key else list(rows.columns)
        leaves = leaf_hashes(self._rows(columns, first, before=merkle.LEAF))
        stored = pa.RecordBatch.from_arrays([*columns, _leaf_column(leaves)], schema=self.schema)
        return stored, leaves

    def clear(self, stored: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that were recorded; with keys per subject also `_erased`, see above.

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
        rows = self._opened(stored)
        erased = [row is None for row in rows]
        nulls = _NULL_CELL * len(hidden)
        there = decode_rows([nulls if row is None else row for row in rows], hidden)
        opened = dict(zip(hidden.names, there, strict=True))
        columns = [opened[n] if n in opened else stored.column(n) for n in schema.names]
        columns += [pa.array(erased, pa.bool_())] if self.by_subject else []
        return pa.RecordBatch.from_arrays(columns, schema=self.read_schema)

    def stored_rows(self, stored: pa.RecordBatch, first: int) -> list[bytes]:
        """What the leaves of stored rows hash: `context`, the row's place in its stream, its bytes."""
        columns = [c for c, f in zip(stored.columns, stored.schema, strict=True) if f.name != LEAF]
        return self._rows(columns, first)

    def leaves(self, stored: pa.RecordBatch, first: int) -> list[bytes]:
        """The leaves of stored rows, from what is stored."""
        columns = [c for c, f in zip(stored.columns, stored.schema, strict=True) if f.name != LEAF]
        return leaf_hashes(self._rows(columns, first, before=merkle.LEAF))

    def _rows(self, columns: Sequence[pa.Array], first: int, before: bytes = b"") -> list[bytes]:
        """What `before`, and then `place_of`, makes of each row."""
        if not len(columns[0]):
            return []
        return encode_rows(columns, before + self.context, first)

    def _cipher(self, salt: bytes, subject: bytes | None = None) -> AESGCM | None:
        """What opens a batch's rows, or those of some subjects; None if a key of theirs was destroyed."""
        if self._keys is None:
            message = f"the records of {self._header.stream} are encrypted, and there is no key"
            raise AuditKeyMissing(message, hint="set audit.key; with --audit, --key-file")
        material = self._keys.data_key(self._header.key)
        for at in range(0, len(subject or b""), NAME_BYTES):
            if (key := self._keys.subject_key((subject or b"")[at : at + NAME_BYTES])) is None:
                return None
            material += key
        return AESGCM(HKDF(SHA256(), 32, salt, _INFO).derive(material))

    def _sealed(self, rows: pa.RecordBatch, subjects: Sequence[bytes | None]) -> list[pa.Array]:
        names, count = payload_columns(self._header.stream, rows.schema.names), rows.num_rows
        clear = [rows.column(n) for n in rows.schema.names if n not in names]
        salt = os.urandom(16)
        opening = [
            pa.repeat(pa.scalar(salt, pa.binary()), count),
            pa.array(np.arange(count, dtype=np.uint32)),
        ]
        if self.by_subject:
            opening.append(pa.array(subjects, pa.binary()))
        plain = encode_rows([rows.column(n) for n in rows.schema.names if n in names])
        about = encode_rows([*clear, *opening], self.context)
        if self.by_subject:
            ciphers = {subject: self._sealer(salt, subject) for subject in set(subjects)}
            whose = [ciphers[subject] for subject in subjects]
            sealed = [
                c.encrypt(*of_row) for c, *of_row in zip(whose, _nonces(count), plain, about, strict=True)
            ]
        else:
            sealed = list(map(self._sealer(salt).encrypt, _nonces(count), plain, about))
        return [*clear, *opening, pa.array(sealed, pa.binary())]

    def _sealer(self, salt: bytes, subject: bytes | None = None) -> AESGCM:
        cipher = self._cipher(salt, subject)
        assert cipher is not None, "a subject whose key was destroyed has a new one by now"
        return cipher

    def _opened(self, stored: pa.RecordBatch) -> list[bytes | None]:
        """What was encrypted, row by row; None where a key was destroyed."""
        about = encode_rows([stored.column(f.name) for f in stored.schema if f.name not in (LEAF, SEALED)])
        ciphers: dict[tuple[bytes, bytes | None], AESGCM | None] = {}
        rows: list[bytes | None] = []
        columns = [stored.column(name).to_pylist() for name in (_SALT, _NR, SEALED)]
        subjects = stored.column(SUBJECT).to_pylist() if self.by_subject else [None] * stored.num_rows
        for salt, nr, sealed, row, subject in zip(*columns, about, subjects, strict=True):
            if (salt, subject) not in ciphers:
                ciphers[salt, subject] = self._cipher(salt, subject)
            if (cipher := ciphers[salt, subject]) is None:
                rows.append(None)
                continue
            try:
                rows.append(cipher.decrypt(nr.to_bytes(12, "big"), sealed, self.context + row))
            except InvalidTag:
                where = f"{self._header.stream}, segment {self._header.number}"
                message = f"an encrypted record of {where} is not what was written"
                raise AuditDamaged(message, hint="'sync-worker audit verify' names the first one") from None
        return rows


def _nonces(count: int) -> list[bytes]:
    """Those of a batch's rows."""
    return [nr.to_bytes(12, "big") for nr in range(count)]


def _leaf_column(leaves: Sequence[bytes]) -> pa.Array:
    data = pa.py_buffer(b"".join(leaves))
    return pa.Array.from_buffers(pa.binary(HASH_BYTES), len(leaves), [None, data])


def names_in(stored: pa.RecordBatch) -> list[tuple[str, ...]]:
    """The names of the keys of each stored row's subjects, hexadecimal."""
    if SUBJECT not in stored.schema.names:
        return [()] * stored.num_rows
    found = [(one or b"").hex() for one in stored.column(SUBJECT).to_pylist()]
    return [
        tuple(one[at : at + 2 * NAME_BYTES] for at in range(0, len(one), 2 * NAME_BYTES)) for one in found
    ]


def place_of(context: bytes, record: int) -> bytes:
    """What the bytes under a leaf begin with."""
    return context + record.to_bytes(8, "little")


def schema_text(schema: pa.Schema) -> str:
    """A schema as text, for a header."""
    return b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def schema_from(text: str) -> pa.Schema:
    """The schema that `schema_text` has written."""
    return pa.ipc.read_schema(pa.py_buffer(b64decode(text)))
