"""Proofs that stand alone: of one record, and that one head has grown from another.

They are JSON documents. `check` needs nothing else, and for trust the public key of whoever signs the heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from replication.audit import evidence
from replication.audit.heads import Head
from replication.audit.merkle import (
    consistency,
    inclusion,
    is_consistent,
    is_included,
    leaf_hash,
)
from replication.audit.rows import decode_rows
from replication.audit.stored import LEAF, SEALED, Form, place_of, schema_from, schema_text
from replication.audit.verify import read_heads
from replication.errors import ConfigError, Terminal

_WRONG_HINT = "'sync-worker audit verify' names what was altered"


class ProofWrong(Terminal):
    """A proof does not prove what it says."""


def newest_head(root: Path) -> Head:
    """The newest head of a log.

    Raises:
        ConfigError: there is none.
    """
    heads = read_heads(root)
    if not heads:
        message = f"the audit log in {root} has no signed head"
        raise ConfigError(message, hint="one is signed a minute after the first records, and when 'up' stops")
    return heads[-1]


def head_from(text: bytes) -> Head:
    """A head from the JSON that `audit head` printed.

    Raises:
        ConfigError: it is none.
    """
    try:
        return Head.of(json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode())
    except ValueError as error:
        message = "this is not a signed head"
        raise ConfigError(message, hint="give what 'sync-worker audit head' printed") from error


def prove_record(root: Path, stream: str, index: int) -> dict[str, Any]:
    """The proof that a record is in the log that the newest head names.

    Args:
        root: the log's folder.
        stream: the record's stream.
        index: its place there, from 0.

    Raises:
        ConfigError: no head covers such a record.
        ProofWrong: the log is not what was signed.
    """
    head = newest_head(root)
    size = head.streams[stream].records if stream in head.streams else 0
    stored = evidence.stored_record(root, stream, index) if 0 <= index < size else None
    if stored is None:
        message = f"head {head.number} covers {size} records of {stream}, and none with the number {index}"
        raise ConfigError(message, hint="records are counted from 0; newer ones get a head within a minute")
    form = Form(stored.schema)
    proof = {
        "proof": "inclusion",
        "head": asdict(head),
        "stream": stream,
        "record": index,
        "place": form.place,
        "columns": schema_text(stored.schema),
        "stored": form.stored_rows(stored, index)[0].hex(),
        "path": [part.hex() for part in inclusion(evidence.leaves(root, stream, size), index)],
    }
    check(proof)
    return proof


def is_sealed(proof: Mapping[str, Any]) -> bool:
    """Whether what applications wrote is encrypted in the proof of a record."""
    return SEALED in schema_from(proof["columns"]).names


def prove_growth(root: Path, old: Head) -> dict[str, Any]:
    """The proof that the newest head has grown from an older one.

    Raises:
        ProofWrong: it has not.
    """
    head = newest_head(root)
    paths = {}
    for name, stream in old.streams.items():
        size = head.streams[name].records if name in head.streams else 0
        path = consistency(evidence.leaves(root, name, size), stream.records)
        paths[name] = [part.hex() for part in path]
    proof = {"proof": "consistency", "old": asdict(old), "head": asdict(head), "paths": paths}
    check(proof)
    return proof


def check(proof: Mapping[str, Any], trusted: Sequence[bytes] = ()) -> dict[str, Any]:
    """Check a proof; gives what it proves.

    Returns:
        `head`, and for a record `group`, `stream`, `segment` and `record`, a batch of its columns as they are
        stored; for two heads `old`.

    Raises:
        ProofWrong: it does not hold.
    """
    try:
        head = head_from(json.dumps(proof["head"]).encode())
        _check_signed(head, trusted)
        if proof["proof"] == "inclusion":
            return _check_record(proof, head)
        return _check_growth(proof, head, trusted)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        pa.ArrowException,
        ConfigError,
    ) as error:
        message = "this is not a proof as 'sync-worker audit proof' prints it"
        raise ProofWrong(message, hint=_WRONG_HINT) from error


def _check_signed(head: Head, trusted: Sequence[bytes]) -> None:
    if not head.is_signed:
        _wrong("the head of this proof is not what was signed")
    if trusted and head.signer not in {key.hex() for key in trusted}:
        _wrong(f"the head of this proof is signed by another key, {head.signer}")


def _check_record(proof: Mapping[str, Any], head: Head) -> dict[str, Any]:
    stream, stored, place = head.streams[proof["stream"]], bytes.fromhex(proof["stored"]), proof["place"]
    path = [bytes.fromhex(part) for part in proof["path"]]
    root = bytes.fromhex(stream.root)
    if not is_included(leaf_hash(stored), proof["record"], stream.records, path, root):
        _wrong(f"head {head.number} has another record in this place")
    schema = schema_from(proof["columns"])
    schema = pa.schema([f for f in schema if f.name != LEAF])
    group, name, segment, _, _, columns = json.loads(place)
    meant = [[f.name, str(f.type)] for f in schema] == columns
    start = place_of(sha256(place.encode()).digest(), proof["record"])
    if not stored.startswith(start) or not meant or name != proof["stream"]:
        _wrong("what this proof says about the record is not what was recorded")
    values = decode_rows([stored[len(start) :]], schema)
    record = pa.RecordBatch.from_arrays(values, schema=schema)
    return {"head": head, "group": group, "stream": name, "segment": segment, "record": record}


def _check_growth(proof: Mapping[str, Any], head: Head, trusted: Sequence[bytes]) -> dict[str, Any]:
    old = head_from(json.dumps(proof["old"]).encode())
    _check_signed(old, trusted)
    for name, before in old.streams.items():
        after = head.streams.get(name)
        path = [bytes.fromhex(part) for part in proof["paths"][name]]
        roots = bytes.fromhex(before.root), bytes.fromhex(after.root) if after else b""
        if after is None or not (
            before.records == 0 or is_consistent(before.records, roots[0], after.records, roots[1], path)
        ):
            _wrong(f"{name} of head {head.number} has not grown from that of head {old.number}")
    return {"head": head, "old": old}


def _wrong(message: str) -> NoReturn:
    raise ProofWrong(message, hint=_WRONG_HINT)
