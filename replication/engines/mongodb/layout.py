"""Where a table's columns are in the documents of its collection.

The key of one column is `_id`; of several, `_id` is a document of them in key order under their local
names. Every other column is at a dotted path, its local name. The column of the rest, if the mapping names
one, is all fields in which no other column has a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from replication.engines.mongodb import decimals
from replication.engines.mongodb.config import collection_name
from replication.engines.mongodb.delta import Path, dig
from replication.engines.mongodb.types import DATES, Unconvertible, decode_column, encode_column
from replication.key import FIXED, TEXTUAL, decode_key, encode_keys
from replication.schema import NodeConfig, Table
from replication.types import CanonicalType, Kind

_NO_TEXT = "a date outside the years 1 to 9999 has no place in the order of a key of several columns"
_SIGN = np.uint64(1 << 63)
_NOWHERE = "\0"  # no field can be called that


class Layout:
    """One table on one node.

    Args:
        table: mapping and canonical schema.
        node: whose local names apply.
    """

    def __init__(self, table: Table, node: NodeConfig) -> None:
        self.table = table
        self.name = table.name
        self.node = node.name
        self.collection = collection_name(node, table.mapping)
        self.columns = table.schema.columns
        self.arrow = table.schema.arrow
        self.key = table.schema.key
        self.key_places = [table.schema.index(name) for name in self.key]
        self.kinds = [table.schema.column(name).type.kind for name in self.key]
        self.paths: list[Path] = [
            tuple(table.mapping.local(node.name, c.name).split(".")) for c in self.columns
        ]
        for place, name in zip(self.key_places, self.key, strict=True):
            local = table.mapping.local(node.name, name)
            self.paths[place] = ("_id",) if len(self.key) == 1 else ("_id", local)
        self.rest = next((i for i, c in enumerate(self.columns) if c.name == table.mapping.rest), None)
        """The place of the column of the rest, or None."""
        if self.rest is not None:
            self.paths[self.rest] = (_NOWHERE,)
        past = {table.mapping.local(node.name, name).split(".")[0] for name in table.past}
        self.taken = {path[0] for path in self.paths} | past | table.mapping.exclude | {"_id"}
        """Fields that are not of the rest."""
        self.late = [i for i, c in enumerate(self.columns) if c.name in table.late]
        self.data_places = [i for i in range(len(self.columns)) if i not in self.key_places]

    @property
    def projection(self) -> dict[str, int] | None:
        """What to ask of a document: the mapped paths only; None for all of it."""
        if self.rest is not None:
            return None
        names = {".".join(path) for path in self.paths if path[0] != "_id"}
        return {"_id": 1} | {
            name: 1 for name in names if not any(name.startswith(f"{other}.") for other in names)
        }

    @property
    def heads(self) -> dict[str, int] | None:
        """The same with everything beside nested paths, which shows what their parents are."""
        if self.rest is not None:
            return None
        return dict.fromkeys(("_id", *(path[0] for path in self.paths)), 1)

    def type_of(self, place: int) -> CanonicalType:
        """The canonical type of a column."""
        return self.columns[place].type

    def values(self, documents: Sequence[Mapping[str, Any]], place: int) -> list[Any]:
        """A column's BSON values."""
        if place == self.rest:
            return [self.rest_of(d) for d in documents]
        path = self.paths[place]
        if len(path) == 1:
            name = path[0]
            return [d.get(name) for d in documents]
        return [dig(d, path) for d in documents]

    def rest_of(self, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """The fields that no other column has a part in; None if there are none."""
        return {name: value for name, value in document.items() if name not in self.taken} or None

    def decode(
        self, documents: Sequence[Mapping[str, Any]], keyed: Sequence[Mapping[str, Any]]
    ) -> tuple[pa.Array, list[pa.Array], dict[int, str]]:
        """Documents to canonical columns.

        Args:
            documents: one per row; an empty one where only the key is known.
            keyed: one per row with at least `_id`.

        Returns:
            the canonical keys (null where unreadable), the columns in schema order, and for each unreadable
            row the reason.
        """
        columns: list[pa.Array] = []
        errors: dict[int, str] = {}
        for place, column in enumerate(self.columns):
            is_key = place in self.key_places
            values = self.values(keyed if is_key else documents, place)
            array, bad = self._decode_key(values, place) if is_key else decode_column(values, column.type)
            columns.append(array)
            for i, reason in bad.items():
                errors.setdefault(i, f"{column.name}: {reason}")
        return self._keys(columns), columns, errors

    def decode_ids(self, ids: Sequence[Any]) -> pa.Array:
        """The canonical keys of `_id` values; null where one is not a key of this table."""
        if not ids:
            return pa.array([], pa.binary())
        documents = [{"_id": v} for v in ids]
        columns = [self._decode_key(self.values(documents, place), place)[0] for place in self.key_places]
        return self._join(columns)

    def encode_ids(self, keys: pa.Array) -> list[Any]:
        """The `_id` value of each canonical key; an `Unconvertible` where MongoDB has none."""
        if not len(keys):
            return []
        columns = [
            encode_column(column, self.type_of(place))
            for column, place in zip(split_keys(keys, self.kinds), self.key_places, strict=True)
        ]
        if len(columns) == 1:
            return columns[0]
        return [self._embedded(values) for values in zip(*columns, strict=True)]

    def _embedded(self, values: Sequence[Any]) -> dict[str, Any] | Unconvertible:
        for value, kind in zip(values, self.kinds, strict=True):
            if isinstance(value, Unconvertible):
                return value
            if kind in DATES and isinstance(value, str):
                return Unconvertible(_NO_TEXT)
        names = [self.paths[place][1] for place in self.key_places]
        return dict(zip(names, values, strict=True))

    def _decode_key(self, values: list[Any], place: int) -> tuple[pa.Array, dict[int, str]]:
        bad = {i: "it is missing" for i, v in enumerate(values) if v is None}
        if len(self.key) > 1 and self.type_of(place).kind in DATES:
            bad |= {i: _NO_TEXT for i, v in enumerate(values) if isinstance(v, str)}
            values = [None if i in bad else v for i, v in enumerate(values)]
        array, errors = decode_column(values, self.type_of(place), key=True)
        return array, errors | bad

    def _keys(self, columns: Sequence[pa.Array]) -> pa.Array:
        return self._join([columns[place] for place in self.key_places])

    def _join(self, columns: Sequence[pa.Array]) -> pa.Array:
        if not any(c.null_count for c in columns):
            return encode_keys(columns, self.kinds)
        whole = np.logical_and.reduce([c.is_valid().to_numpy(zero_copy_only=False) for c in columns])
        keep = np.flatnonzero(whole)
        found = encode_keys([c.take(pa.array(keep)) for c in columns], self.kinds)
        places = np.full(len(whole), -1, np.int64)
        places[keep] = np.arange(len(keep))
        return found.take(pa.array(places, mask=places < 0))


def split_keys(keys: pa.Array, kinds: Sequence[Kind]) -> list[pa.Array]:
    """Undo `key.encode_keys`: one array per key column."""
    if len(kinds) == 1 and kinds[0] in FIXED:
        raw = b"".join(keys.to_pylist())
        return [_fixed((np.frombuffer(raw, ">u8").astype(np.uint64) ^ _SIGN).view(np.int64), kinds[0])]
    if len(kinds) == 1 and kinds[0] in TEXTUAL | {Kind.BYTES}:
        return [keys.cast(CanonicalType(kinds[0]).arrow)]
    # A date is split as the number it is, since Python's own dates end at year 9999.
    raw_kinds = [Kind.INT64 if k in FIXED else k for k in kinds]
    rows = [decode_key(key, raw_kinds) for key in keys.to_pylist()]
    columns = []
    for i, kind in enumerate(kinds):
        values = [row[i] for row in rows]
        if kind in FIXED:
            columns.append(_fixed(np.array(values, np.int64), kind))
        elif kind is Kind.NUMERIC:
            columns.append(pa.array([decimals.plain(v) for v in values], pa.utf8()))  # type: ignore[arg-type]
        else:
            columns.append(pa.array(values, CanonicalType(kind).arrow))
    return columns


def _fixed(values: Any, kind: Kind) -> pa.Array:
    array = pa.array(values, pa.int64())
    match kind:
        case Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return array.view(CanonicalType(kind).arrow)
        case Kind.DATE:
            return array.cast(pa.int32()).cast(pa.date32())
        case _:
            return array.cast(CanonicalType(kind).arrow)
