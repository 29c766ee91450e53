"""Asking the audit log: which records, page by page, with cursors that stay good.

A cursor is a place in each stream, counted in records. Streams are only ever appended to, so what a cursor
gives next is the same whenever it is used, and at the end of the log it gives what has come since.
"""

from __future__ import annotations

import heapq
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replication.audit import evidence, store
from replication.audit.access import EVERYTHING, View
from replication.audit.printing import printable
from replication.audit.reader import KINDS, streams
from replication.audit.records import CHANGES, CONFLICTS, DECISIONS, HOLDS, OPERATOR, TRACE
from replication.audit.stored import DataKeys, Form
from replication.errors import ConfigError

ACTORS = {
    "application": (CHANGES,),
    "resolver": (DECISIONS, CONFLICTS, HOLDS),
    "operator": (OPERATOR,),
}
"""Who did what is on record, and the streams that have it. `operator` is also the program itself."""
_TABLE = {DECISIONS: "_table", CONFLICTS: "table", HOLDS: "table"}
_NODES = {
    CHANGES: ("_node",),
    DECISIONS: ("_node",),
    CONFLICTS: ("left_node", "right_node"),
    HOLDS: ("node", "origin"),
}
_KEY = {CHANGES: "_key", DECISIONS: "_key", CONFLICTS: "key", HOLDS: "key"}
_SIGN = 1 << 63
_TRACE_ID = slice(3, 35)
"""Its place in a W3C Trace Context."""

Places = Mapping[str, int]
"""For each stream the first record that was not given yet; 0 where it is not named."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which records; what is None does not matter.

    Attributes:
        table: of this table.
        kind: one of `reader.KINDS`.
        since, until: recorded at or after, and before; microseconds since 1970.
        key: of this key: a number, a text, as `conflicts list` shows it, or the canonical key, hexadecimal.
        op: changes and decisions of this operation, a number of `Op`.
        node: at this node.
        actor: one of `ACTORS`.
        outcome: decisions with this outcome.
        trace: changes of the trace with this id, 32 hexadecimal digits.
        view: as whom; a key is asked for as the view shows it.

    Raises:
        NotForRole: a key is asked for that the view does not show.
    """

    table: str | None = None
    kind: str | None = None
    since: int | None = None
    until: int | None = None
    key: str | None = None
    op: int | None = None
    node: str | None = None
    actor: str | None = None
    outcome: str | None = None
    trace: str | None = None
    view: View = EVERYTHING
    _keys: tuple[bytes, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.key is not None:
            self.view.may_ask(self.table)
            object.__setattr__(self, "_keys", canonical(self.key))

    def streams(self, path: Path) -> list[str]:
        """The streams that can have such records."""
        return [s for s in streams(path) if self.wants(s)]

    def wants(self, stream: str) -> bool:
        """Whether a stream can have such records."""
        return self._fits(*stream.partition("/")[::2])

    def _fits(self, kind: str, table: str) -> bool:
        wanted = None if self.kind is None else KINDS[self.kind]
        return (
            wanted in (None, kind)
            and (self.table is None or (table == self.table if kind == CHANGES else kind in _TABLE))
            and (self.actor is None or kind in ACTORS[self.actor])
            and (self.op is None or kind in (CHANGES, DECISIONS))
            and (self.outcome is None or kind == DECISIONS)
            and (self.trace is None or kind == CHANGES)
            and (self.node is None or kind in _NODES)
            and (self.key is None or kind in _KEY)
        )

    def mask(self, stream: str, rows: pa.RecordBatch) -> pa.BooleanArray | None:
        """Which rows of one of `streams` are meant; None for all."""
        kind, found = stream.partition("/")[0], []
        if self.since is not None:
            found.append(pc.greater_equal(rows.column("_recorded"), self.since))
        if self.until is not None:
            found.append(pc.less(rows.column("_recorded"), self.until))
        if self.table is not None and kind != CHANGES:
            found.append(pc.equal(rows.column(_TABLE[kind]), self.table))
        if self.op is not None:
            found.append(pc.equal(rows.column("_op"), self.op))
        if self.outcome is not None:
            found.append(pc.equal(rows.column("outcome"), self.outcome))
        if self.trace is not None:
            found.append(_has_trace(rows, self.trace))
        if self.node is not None:
            found.append(reduce(pc.or_, [pc.equal(rows.column(n), self.node) for n in _NODES[kind]]))
        if self.key is not None:
            found.append(self._has_key(stream, rows))
        return reduce(pc.and_, found) if found else None

    def _has_key(self, stream: str, rows: pa.RecordBatch) -> pa.BooleanArray:
        kind, _, table = stream.partition("/")
        keys = rows.column(_KEY[kind])
        texts = rows.column("key_text") if kind != CHANGES and "key_text" in rows.schema.names else None
        if self.view.limited:
            tables = [table] * len(keys) if kind == CHANGES else rows.column(_TABLE[kind]).to_pylist()
            shown = [""] * len(keys) if texts is None else texts.to_pylist()
            columns = zip(tables, keys.to_pylist(), shown, strict=True)
            wanted = self.key or ""
            return pa.array([self.view.has_key(t, k, wanted, self._keys, text) for t, k, text in columns])
        is_key = pc.is_in(keys, value_set=pa.array(self._keys, pa.binary()))
        return is_key if texts is None else pc.or_(is_key, pc.equal(texts, self.key))


def _has_trace(rows: pa.RecordBatch, ident: str) -> pa.BooleanArray:
    if TRACE not in rows.schema.names:
        return pa.repeat(pa.scalar(False), rows.num_rows)
    return pc.equal(pc.utf8_slice_codeunits(rows.column(TRACE), _TRACE_ID.start, _TRACE_ID.stop), ident)


def canonical(text: str) -> tuple[bytes, ...]:
    """The canonical keys of one column that a text can mean."""
    found = {text.encode()}
    with suppress(ValueError):
        if -_SIGN <= (number := int(text)) < _SIGN:
            found.add((number + _SIGN).to_bytes(8, "big"))
    with suppress(ValueError):
        found.add(bytes.fromhex(text))
    return tuple(sorted(found))


def columns(path: Path, stream: str) -> pa.Schema:
    """All columns that a stream has had, each in a type that holds all of its values, or as text."""
    kinds: dict[str, pa.DataType] = {}
    for file in store.segments(store.stream_folder(path, stream)):
        segment = evidence.stored_segment(file)
        for f in Form(segment.schema).read_schema if segment else ():
            kinds[f.name] = _wider(kinds.get(f.name, f.type), f.type)
    return pa.schema(list(kinds.items()))


def _wider(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if left.equals(right):
        return left
    if pa.types.is_integer(left) and pa.types.is_integer(right):
        return max(left, right, key=lambda kind: kind.bit_width)
    return pa.utf8()


def batches(
    path: Path, stream: str, query: Query, start: int = 0, keys: DataKeys | None = None
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The records of one stream that are meant, as recorded, from `start` on, and the place of each."""
    folder = store.stream_folder(path, stream)
    place = store.pruned_rows(folder)
    for file in store.segments(folder):
        if file.sealed and place + (count := store.count_rows(file)) <= start:
            place += count
            continue
        for count, opened in store.parts(file, keys):
            place += count
            if place <= start:  # not even decrypted: a stream that catches up comes by here for each page
                continue
            at = place - count
            for found in opened():
                rows, places = _from(found, np.arange(at, at + found.num_rows), start)
                at += found.num_rows
                if (mask := query.mask(stream, rows)) is not None:
                    mask = mask.fill_null(False)
                    rows, places = rows.filter(mask), places[np.asarray(mask)]
                if rows.num_rows:
                    yield places, rows


def _from(rows: pa.RecordBatch, places: np.ndarray, start: int) -> tuple[pa.RecordBatch, np.ndarray]:
    skip = max(0, start - int(places[0]))
    return rows.slice(skip), places[skip:]


def records(
    path: Path, query: Query, start: Places | None = None, keys: DataKeys | None = None
) -> Iterator[dict[str, Any]]:
    """Records of all streams, oldest first, as dictionaries that JSON can hold.

    Args:
        path: the log's folder.
        query: which records.
        start: where to go on.
        keys: for a log that is encrypted.

    Returns:
        each record with `stream` and `_record`, its place there, in front.
    """
    parts = [_entries(path, s, query, (start or {}).get(s, 0), keys) for s in query.streams(path)]
    return heapq.merge(*parts, key=lambda e: (e["_recorded"], e["stream"]))


def _entries(
    path: Path, stream: str, query: Query, start: int, keys: DataKeys | None
) -> Iterator[dict[str, Any]]:
    for places, rows in batches(path, stream, query, start, keys):
        shown = printable(stream, query.view.rows(stream, rows))
        for place, entry in zip(places.tolist(), shown, strict=True):
            yield {"stream": entry.pop("stream"), "_record": place, **entry}


def page(
    path: Path, query: Query, count: int, cursor: str | None = None, keys: DataKeys | None = None
) -> tuple[list[dict[str, Any]], str]:
    """Some records, and the cursor that goes on after them.

    Raises:
        ConfigError: the cursor is none.
    """
    start = dict(places_of(cursor)) if cursor else {}
    found = list(islice(records(path, query, start, keys), count))
    for entry in found:
        start[entry["stream"]] = entry["_record"] + 1
    return found, cursor_of(start)


def cursor_of(places: Places) -> str:
    """Places as a text to pass on."""
    return urlsafe_b64encode(json.dumps(places, sort_keys=True, separators=(",", ":")).encode()).decode()


def places_of(cursor: str) -> Places:
    """The places that a text of `cursor_of` stands for.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(urlsafe_b64decode(cursor))
        if isinstance(found, dict) and all(isinstance(v, int) and v >= 0 for v in found.values()):
            return found
    except ValueError:
        pass
    message = "this is not a cursor"
    raise ConfigError(message, hint="pass on what 'sync-worker audit query' gave as next, unchanged")
