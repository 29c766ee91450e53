"""What to write: a batch's rows, compared with the documents that are there. Owns no connection.

Only what differs is written, so an event of the change stream follows from every planned operation and
from nothing else. Values are compared as canonical values; a stored one that means the same, narrowed to
what its source can hold, stays as it is, type and all. SQL's null leaves a missing field missing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pymongo import DeleteOne, InsertOne, UpdateOne

from replication.batch import HeldRow, TableRows
from replication.change import Op
from replication.engines.mongodb.config import Document
from replication.engines.mongodb.delta import Path
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.types import Unconvertible, decode_column, encode_column
from replication.narrowing import comparable, narrow, narrower
from replication.schema import Column
from replication.types import CanonicalType, Kind

_JSON = CanonicalType(Kind.JSON)
Write = InsertOne[Document] | UpdateOne | DeleteOne
Numbered = tuple[int, Write]
"""An operation and the number of its row."""


class ScalarParent(ValueError):
    """A mapped path leads through a value that is no document."""


class Incoming:
    """One table's rows of a batch, as BSON values.

    Args:
        rows: as in `batch`.
        layout: where its columns are.
    """

    def __init__(self, rows: pa.RecordBatch, layout: Layout) -> None:
        self.layout = layout
        keys = rows.column("_key").cast(pa.binary())
        self.keys: list[bytes] = keys.to_pylist()
        self.ids = layout.encode_ids(keys)
        ops = rows.column("_op").to_pylist()
        self.deletes = [op == Op.DELETE for op in ops]
        self.copied = [op == Op.READ for op in ops]
        self.have = [_places(bits) for bits in rows.column("_have").to_pylist()]
        self.columns = {
            place: encode_column(rows.column(layout.columns[place].name), layout.type_of(place))
            for place in layout.data_places
        }
        if layout.rest is not None:
            self.columns[layout.rest] = [_fields(v, layout.taken) for v in self.columns[layout.rest]]
        self.refused = self._unwritable(keys)
        self.live = [i for i in range(len(self.keys)) if i not in self.refused]

    def held(self, i: int, reason: str) -> HeldRow:
        """Row `i`, refused."""
        return HeldRow(self.layout.name, self.keys[i], reason)

    def places(self, i: int) -> Iterable[int]:
        """The data columns that row `i` has."""
        have = self.have[i]
        if have is None:
            return self.layout.data_places
        return [place for place in self.layout.data_places if place in have]

    def is_full(self, i: int) -> bool:
        """Whether row `i` has every column."""
        have = self.have[i]
        return have is None or have.issuperset(self.layout.data_places)

    def document(self, i: int) -> Document:
        """Row `i` as a document."""
        document: Document = {"_id": self.ids[i]}
        for place, values in self.columns.items():
            if place == self.layout.rest:
                document |= values[i] or {}
                continue
            path = self.layout.paths[place]
            target = document
            for name in path[:-1]:
                target = target.setdefault(name, {})
            target[path[-1]] = values[i]
        return document

    def _unwritable(self, keys: pa.Array) -> dict[int, str]:
        refused = {i: f"key: {v}" for i, v in enumerate(self.ids) if isinstance(v, Unconvertible)}
        there = self.layout.decode_ids([None if i in refused else v for i, v in enumerate(self.ids)])
        for i, (key, back) in enumerate(zip(self.keys, there.to_pylist(), strict=True)):
            if key != back:
                refused.setdefault(i, "key: MongoDB cannot hold it without loss")
        for place, values in self.columns.items():
            for i, value in enumerate(values):
                if isinstance(value, Unconvertible) and not self.deletes[i]:
                    refused.setdefault(i, f"{self.layout.columns[place].name}: {value}")
        return refused


@dataclass(slots=True)
class Plan:
    """The operations for one table.

    Attributes:
        changes: of documents that are there, deletes first since they may free what others need.
        inserts: of those that are not.
        missing: keys of partial rows without a document.
        refused: row number and reason.
    """

    layout: Layout
    changes: list[Numbered] = field(default_factory=list)
    inserts: list[Numbered] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def incoming(tables: Sequence[TableRows], layouts: Mapping[str, Layout]) -> list[Incoming]:
    """The batch's tables that have rows."""
    return [Incoming(t.rows, layouts[t.table]) for t in tables if t.rows.num_rows]


def make_plan(
    rows: Incoming, chosen: Sequence[int], found: Mapping[bytes, Document], sources: Sequence[str]
) -> Plan:
    """Compare rows with documents.

    Args:
        rows: the table's rows.
        chosen: which of them to write.
        found: the documents that are there, mapped paths only, by canonical key.
        sources: engines whose narrowing a stored value may have undergone.
    """
    plan = Plan(rows.layout)
    present: list[tuple[int, Document]] = []
    for i in chosen:
        document = found.get(rows.keys[i])
        if rows.deletes[i]:
            if document is not None:
                plan.changes.append((i, DeleteOne({"_id": document["_id"]})))
        elif document is not None:
            present.append((i, document))
        elif rows.is_full(i):
            plan.inserts.append((i, InsertOne(rows.document(i))))
        else:
            plan.missing.append(rows.keys[i])
    changes = _differences(rows, present, sources)
    for i, document in present:
        if i in changes:
            try:
                update = _update(rows, i, document, changes[i])
            except ScalarParent as error:
                plan.refused[i] = str(error)
            else:
                if update:
                    plan.changes.append((i, UpdateOne({"_id": document["_id"]}, update)))
    return plan


def _differences(
    rows: Incoming, present: Sequence[tuple[int, Document]], sources: Sequence[str]
) -> dict[int, list[int]]:
    """Row number to the places of the columns whose value must change."""
    layout = rows.layout
    documents = [document for _, document in present]
    changes: dict[int, list[int]] = {}
    for place, values in rows.columns.items():
        pairs = []
        for (i, _), stored in zip(present, layout.values(documents, place), strict=True):
            have = rows.have[i]
            if (have is None or place in have) and not _identical(stored, values[i]):
                pairs.append((i, stored, values[i]))
        column = layout.columns[place]
        for i in _different(pairs, column, narrower(column, layout.node, sources)):
            changes.setdefault(i, []).append(place)
    return changes


def _identical(a: Any, b: Any) -> bool:
    return type(a) is type(b) and not isinstance(a, (dict, list)) and bool(a == b)


def _different(
    pairs: Sequence[tuple[int, Any, Any]], column: Column, forms: Iterable[tuple[str, int]]
) -> list[int]:
    if not pairs:
        return []
    canonical = column.type
    stored, unreadable = decode_column([s for _, s, _ in pairs], canonical)
    wanted = comparable(decode_column([w for _, _, w in pairs], canonical)[0], canonical)
    same = _equal(comparable(stored, canonical), wanted)
    for engine, digits in forms:
        narrowed = narrow(stored, canonical, engine, digits)
        if narrowed is not stored:
            same = pc.or_(same, _equal(comparable(narrowed, canonical), wanted))
    return [
        i
        for n, ((i, _, _), equal) in enumerate(zip(pairs, same.to_pylist(), strict=True))
        if not equal or n in unreadable
    ]


def _equal(a: pa.Array, b: pa.Array) -> pa.Array:
    both_null = pc.and_(a.is_null(), b.is_null())
    return pc.or_(pc.fill_null(pc.equal(a, b), False), both_null)


def _update(rows: Incoming, i: int, document: Document, places: Sequence[int]) -> Document:
    """The `$set` and `$unset` that change these columns and nothing beside them; empty if nothing differs."""
    changes: Document = {}
    gone: Document = {}
    for place in places:
        if place == rows.layout.rest:
            stored, wanted = rows.layout.rest_of(document) or {}, rows.columns[place][i] or {}
            changes |= {name: wanted[name] for name in _other_fields(stored, wanted)}
            gone = dict.fromkeys(stored.keys() - wanted.keys(), "")
            continue
        path = rows.layout.paths[place]
        depth = _null_parent(document, path)
        if depth is None:
            changes[".".join(path)] = rows.columns[place][i]
            continue
        # Nothing can be set inside a null, so the document that takes its place is set as a whole.
        target = changes.setdefault(".".join(path[:depth]), {})
        for name in path[depth:-1]:
            target = target.setdefault(name, {})
        target[path[-1]] = rows.columns[place][i]
    return {operator: fields for operator, fields in (("$set", changes), ("$unset", gone)) if fields}


def _other_fields(stored: Document, wanted: Document) -> list[str]:
    """The fields that are not stored as they are wanted; the types of numbers that are equal stay."""
    names = list(wanted)
    held, new = (
        comparable(decode_column([{"": d.get(name)} for name in names], _JSON)[0], _JSON)
        for d in (stored, wanted)
    )
    same = pc.equal(held, new).to_pylist()
    return [name for name, equal in zip(names, same, strict=True) if not equal or name not in stored]


def _fields(value: Any, taken: Container[str]) -> Any:
    """The fields that a value of the column of the rest stands for; an `Unconvertible` if it is none."""
    if value is None or isinstance(value, Unconvertible):
        return value
    if not isinstance(value, dict):
        return Unconvertible("it is no JSON object, and holds the fields that no other column maps")
    for name in value:
        if name in taken:
            return Unconvertible(f"the field {name} has a place of its own")
        if not name or name.startswith("$") or "." in name or "\0" in name:
            return Unconvertible(f"no update can set a field called {name!r:.60}")
    return value or None


def _null_parent(document: Document, path: Path) -> int | None:
    """How many names of the path lead to a null above its end; None if there is no such null.

    Raises:
        ScalarParent: there is a value that is no document.
    """
    here: Any = document
    for depth, name in enumerate(path[:-1], 1):
        if name not in here:
            return None
        here = here[name]
        if here is None:
            return depth
        if not isinstance(here, Mapping):
            message = f"{'.'.join(path)}: {'.'.join(path[:depth])} holds {here!r:.40}, which is no document"
            raise ScalarParent(message)
    return None


def _places(bits: bytes | None) -> frozenset[int] | None:
    if bits is None:
        return None
    number = int.from_bytes(bits, "little")
    return frozenset(i for i in range(number.bit_length()) if number >> i & 1)
