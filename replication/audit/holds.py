"""Rows that were set aside: what a node refuses to take, and what it holds but nobody else can.

A hold is over once the key was written again: a later batch of ours reached the node, or, for a value that
could not be read, an application there gave the row another one. Or an operator has discarded it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replication.audit.reader import read, streams
from replication.audit.records import CHANGES, DECISIONS, HOLDS, OPERATOR
from replication.audit.stored import DataKeys

Place = tuple[str, str, bytes]
"""Node, table and canonical key."""
Holds = dict[Place, dict[str, Any]]

HOLD_SCHEMA = pa.schema(
    [
        ("node", pa.utf8()),
        ("table", pa.utf8()),
        ("key", pa.binary()),
        ("key_text", pa.utf8()),
        ("origin", pa.utf8()),
        ("hi", pa.uint64()),
        ("lo", pa.uint32()),
        ("reason", pa.utf8()),
    ]
)


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """One row set aside.

    Attributes:
        node: the node that refuses the row, or holds what cannot be read.
        table: canonical table name.
        key: canonical key; empty if the key itself cannot be read.
        key_text: the key for people.
        origin: the node where the version was written; `node` itself for what cannot be read.
        hi, lo: the version's order in that node's log.
        reason: the node's own words, or which value cannot be read and why.
    """

    node: str
    table: str
    key: bytes
    key_text: str
    origin: str
    hi: int
    lo: int
    reason: str


DISCARDED = "dlq_discarded"
"""Kind of the operator record that ends a hold; its detail names `node`, `table` and `key`, hexadecimal."""


OVER = "hold_over"
"""Kind of the operator record which says that a hold up to the time `until` is over, before what shows it is
removed; its detail is otherwise as that of `DISCARDED`."""


DEAD_LETTER = "dead_letter"
"""Kind of the record which says that rows on hold are not sent again by themselves; its detail is a list of
what `node`, `table` and `key`, hexadecimal, name, and `tries`."""


def full_id(node: str, table: str, key: bytes) -> str:
    """The name of a key that is on hold at a node."""
    return hashlib.sha256(f"{node}/{table}/{key.hex()}".encode()).hexdigest()


def hold_id(node: str, table: str, key: bytes) -> str:
    """Its beginning, for people to type."""
    return full_id(node, table, key)[:8]


def open_holds(path: Path, keys: DataKeys | None = None) -> list[dict[str, Any]]:
    """Every key that is on hold now, by its newest record, oldest first.

    Args:
        path: the audit log's folder.
        keys: for a log that is encrypted.

    Returns:
        the fields of `HoldRecord`, `id` (see `hold_id`), `_recorded` (microseconds since 1970), `times`,
        how often it was recorded since it was written last, and `dead_after`: how often it was sent again
        before it was given up, None while it is not.
    """
    found: Holds = {}
    for batch in read(path, HOLDS, keys) if HOLDS in streams(path) else ():
        for hold in batch.to_pylist():
            at = (hold["node"], hold["table"], hold["key"])
            hold["id"] = hold_id(*at)
            hold["times"] = found.get(at, {}).get("times", 0) + 1
            hold["dead_after"] = None
            found[at] = hold
    for at in _written_since(path, found, keys) | _discarded_since(path, found, keys) if found else ():
        del found[at]
    if found:
        _mark_dead(path, found, keys)
    return sorted(found.values(), key=lambda hold: hold["_recorded"])


def _mark_dead(path: Path, holds: Holds, keys: DataKeys | None) -> None:
    for batch in read(path, OPERATOR, keys) if OPERATOR in streams(path) else ():
        for row in batch.filter(pc.equal(batch.column("kind"), DEAD_LETTER)).to_pylist():
            for one in json.loads(row["detail"]):
                hold = holds.get((one["node"], one["table"], bytes.fromhex(one["key"])))
                if hold is not None and row["_recorded"] > hold["_recorded"]:
                    hold["dead_after"] = one["tries"]


def refused_rows(path: Path, keys: DataKeys | None = None) -> dict[tuple[str, bytes], list[str]]:
    """Table and key of every row that a node has refused at some time, whether that is over or not."""
    found: dict[tuple[str, bytes], list[str]] = {}
    for batch in read(path, HOLDS, keys) if HOLDS in streams(path) else ():
        for hold in batch.to_pylist():
            nodes = found.setdefault((hold["table"], hold["key"]), [])
            if hold["node"] not in (hold["origin"], *nodes):
                nodes.append(hold["node"])
    return {place: nodes for place, nodes in found.items() if nodes}


def over_holds(path: Path, keys: DataKeys | None = None) -> list[dict[str, Any]]:
    """The details of `OVER` records for all holds that are over, before what shows that is removed."""
    still = {(h["node"], h["table"], h["key"]) for h in open_holds(path, keys)}
    newest: dict[Place, int] = {}
    for batch in read(path, HOLDS, keys) if HOLDS in streams(path) else ():
        for hold in batch.to_pylist():
            newest[hold["node"], hold["table"], hold["key"]] = hold["_recorded"]
    known = set()
    for batch in read(path, OPERATOR, keys) if OPERATOR in streams(path) else ():
        known.update(batch.filter(pc.equal(batch.column("kind"), OVER)).column("detail").to_pylist())
    details = [
        {"node": node, "table": table, "key": key.hex(), "until": until}
        for (node, table, key), until in newest.items()
        if (node, table, key) not in still
    ]
    return [d for d in details if json.dumps(d, separators=(",", ":")) not in known]


def _discarded_since(path: Path, holds: Holds, keys: DataKeys | None) -> set[Place]:
    over = set()
    for batch in read(path, OPERATOR, keys) if OPERATOR in streams(path) else ():
        ended = pc.is_in(batch.column("kind"), value_set=pa.array([DISCARDED, OVER]))
        for row in batch.filter(ended).to_pylist():
            detail = json.loads(row["detail"])
            at = (detail["node"], detail["table"], bytes.fromhex(detail["key"]))
            until = detail.get("until", row["_recorded"] - 1)
            if at in holds and until >= holds[at]["_recorded"]:
                over.add(at)
    return over


def _written_since(path: Path, holds: Holds, keys: DataKeys | None) -> set[Place]:
    wanted = pa.array({key for _, _, key in holds}, pa.binary())
    over = set()
    for stream in {DECISIONS, *(f"{CHANGES}/{table}" for _, table, _ in holds)} & set(streams(path)):
        table = stream.partition("/")[2]
        for batch in read(path, stream, keys):
            for row in batch.filter(pc.is_in(batch.column("_key"), value_set=wanted)).to_pylist():
                at = (row["_node"], table or row["_table"], row["_key"])
                hold = holds.get(at)
                if hold is None or row["_recorded"] <= hold["_recorded"]:
                    continue
                if hold["origin"] == hold["node"] if table else row["outcome"] in ("committed", "outside"):
                    over.add(at)
    return over
