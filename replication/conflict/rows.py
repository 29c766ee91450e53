"""Change batches as the core reads them, and what it remembers of those whose keys are on their way.

A *run* is the part of a change batch whose keys nobody else touches: the usual case. It costs one
dictionary entry per key and no other work in Python; only when a second write meets a key of a run
does that key get a state of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from replication.change import Op
from replication.conflict.version import ALL, FieldDot, Layer, Version
from replication.marker import Vector
from replication.position import Position, order_of


class ChangeRows:
    """Rows of one table, in log order. Columns become Python lists only when somebody asks.

    Args:
        table: canonical table name.
        batch: a change batch, see `replication.change`.
    """

    def __init__(self, table: str, batch: pa.RecordBatch) -> None:
        self.table = table
        self.batch: Any = batch
        self.strays: frozenset[int] = frozenset()
        """Rows that the filter of the node where they were written may exclude."""

    @cached_property
    def keys(self) -> list[bytes]:
        """Canonical keys."""
        return self._column("_key")

    @cached_property
    def ops(self) -> list[int]:
        """Operations, as in `Op`."""
        return self._column("_op")

    @cached_property
    def orders(self) -> list[int]:
        """Orders in the log."""
        return [order_of(hi, lo) for hi, lo in zip(self._column("_hi"), self._column("_lo"), strict=True)]

    @cached_property
    def times(self) -> list[int]:
        """Commit times, microseconds."""
        return self._column("_ts")

    @cached_property
    def have(self) -> list[int]:
        """Masks of the columns that hold a value."""
        return _masks(self._column("_have"))

    @cached_property
    def changed(self) -> list[int]:
        """Masks of the columns that changed; `ALL` when unknown."""
        return _masks(self._column("_changed"))

    @property
    def given(self) -> bool:
        """Whether these rows have values that an operator gave, so that their own node must get them, too."""
        first = self.batch.slice(0, 1)  # no more of the columns than that becomes Python
        copied: bool = first.column("_op").to_pylist() == [Op.READ]
        return copied and first.column("_changed").null_count == 0

    def select(self, indexes: Sequence[int]) -> ChangeRows:
        """Only the rows at `indexes`, which ascend."""
        return ChangeRows(self.table, self.batch.take(pa.array(indexes, pa.int32())))

    def pieces(self, rows: int) -> list[ChangeRows]:
        """The rows in order, so many at a time."""
        if len(self.keys) <= rows:
            return [self]
        found = []
        for at in range(0, len(self.keys), rows):
            piece = ChangeRows(self.table, self.batch.slice(at, rows))
            piece.keys = self.keys[at : at + rows]
            found.append(piece)
        return found

    def _column(self, name: str) -> list[Any]:
        values: list[Any] = self.batch.column(name).to_pylist()
        return values


def _masks(values: list[bytes | None]) -> list[int]:
    return [ALL if v is None else int.from_bytes(v, "little") for v in values]


@dataclass(slots=True, eq=False)
class Arrival:
    """A stretch of one node's log that reached the shard, and what the log had shown before it.

    Attributes:
        number: counts arrivals of changes; the audit log confirms up to a number. 0 for an echo.
        start: the position before it: re-reading from there finds every change of it again.
        absorbed, echoed: the state of that log at `start`.
        live: how many keys on their way have their first change here; for an echo, 1 until it is on record.
    """

    number: int
    start: Position
    absorbed: Vector
    echoed: int
    live: int = 0


@dataclass(slots=True, eq=False)
class Run:
    """Rows of one arrival whose keys have had no other change while on their way.

    Attributes:
        promoted: indexes of rows whose key got a state of its own meanwhile.
        sent: for each node it was sent to, the batch.
        shown: for each node whose log showed it in a part of what waited, what that node has seen of these.
        pending: how many nodes have not shown it yet.
    """

    node: str
    rows: ChangeRows
    arrival: Arrival
    absorbed: Vector
    rank: int
    pending: int
    promoted: set[int] = field(default_factory=set)
    sent: dict[str, SentBatch] = field(default_factory=dict)
    shown: dict[str, Vector] = field(default_factory=dict)
    _index: dict[bytes, int] = field(default_factory=dict)

    def index(self, key: bytes) -> int:
        """The row of `key`."""
        if not self._index:
            self._index = {k: i for i, k in enumerate(self.rows.keys)}
        return self._index[key]

    def version(self, index: int, *, fields: bool) -> Version:
        """The version that row `index` stands for."""
        return read_version(self.node, self.rows, index, self.absorbed, self.rank, fields=fields)

    def forget(self, table: dict[bytes, Run | KeyState]) -> None:
        """Take its keys out of those on their way: every node has shown it."""
        self.arrival.live -= self.live
        if self.promoted:
            for index, key in enumerate(self.rows.keys):
                if index not in self.promoted:
                    del table[key]
        else:
            deque(map(table.__delitem__, self.rows.keys), maxlen=0)

    @property
    def copied(self) -> bool:
        """Whether these are rows of an initial copy, which never come together with changes."""
        return self.rows.ops[0] == Op.READ

    @property
    def live(self) -> int:
        """How many of its keys it still stands for."""
        return len(self.rows.keys) - len(self.promoted)


@dataclass(slots=True, eq=False)
class KeyState:
    """A key on its way that more than one change has met. Forgotten once every log has shown it.

    Attributes:
        version: what every node should hold.
        last: for each node, the order of its newest write.
        first: for each node, the arrival of its oldest write.
        time: for each node, the hybrid time of its newest write.
        seen: for each node, the order up to which some write of another node had seen its log.
        sent: for each node it was sent to, the last batch.
        shown: for each node whose log showed it in a part of what waited, what the node has seen of this key.
        decided: the batch whose decision the version is, when learnt from an echo.
        decided_cut: the cut of that batch.
        pending: how many outboxes and batches on their way hold the key.
        stray: the newest write that the filter of its own node may exclude: no echo of that node shows it.
        held: it is on hold: no version is for every node.
        own: while held, for each node that wrote it, what that node should hold.
        on_record: the conflict that put it on hold is on record.
        settled_by: while held, the node whose next copied row decides; empty while nobody has said so.
        put: by node that alone writes the key, the row that a batch of ours may have put there since: one of
            an initial copy, or a write of its own that was sent again.
    """

    table: str
    key: bytes
    version: Version
    last: dict[str, int] = field(default_factory=dict)
    first: dict[str, Arrival] = field(default_factory=dict)
    time: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    shown: dict[str, Vector] = field(default_factory=dict)
    decided: int = 0
    decided_cut: Vector = field(default_factory=dict)
    pending: int = 0
    stray: Version | None = None
    held: bool = False
    own: dict[str, Version] = field(default_factory=dict)
    on_record: bool = False
    settled_by: str = ""
    put: dict[str, Version] = field(default_factory=dict)

    def note(self, write: Version, arrival: Arrival) -> None:
        """Remember one more write and what it had seen."""
        node = write.node
        if write.stray:
            self.stray = write
        self.time[node] = write.time
        self.last[node] = write.order
        if node not in self.first:
            self.first[node] = arrival
        for other, order in write.absorbed.items():
            if other != node and order > self.seen.get(other, 0):
                self.seen[other] = order

    def meet(self, write: Version) -> None:
        """Remember the copied row that `write`, which comes next, meets; what other nodes write ends that."""
        before, node = self.version, write.node
        self.put = {n: row for n, row in self.put.items() if n == node}
        alone = before.op is Op.READ and before.whole and self.last == {before.node: before.order}
        if alone and node != before.node:
            self.put[node] = before

    def version_for(self, node: str) -> Version:
        """What a node should hold."""
        return self.own[node] if self.held else self.version

    def known_by(self, cut: Vector) -> bool:
        """Whether every write of the key is at or before `cut`."""
        return all(order <= cut[node] for node, order in self.last.items())

    def is_last(self, node: str) -> bool:
        """Whether the newest write of `node` is the version."""
        return self.version.node == node and self.version.order == self.last.get(node)


@dataclass(slots=True, eq=False)
class SentBatch:
    """A batch on its way to a node, until that node's log has shown it.

    Attributes:
        takes: the rows that its deletes are to take, and no others; see `version_of`.
        part: it left rows behind, also because their table is paused.
        shown: the log has shown it, and the answer is still to come.
        recorded: what became of it is on record.
        kept: rows of an initial copy that the node did not take, because it holds a row there: whether it
            differs.
        refused: rows that the node refuses.
    """

    node: str
    seq: int
    cut: Vector
    resume: dict[str, Position]
    runs: list[Run] = field(default_factory=list)
    states: list[KeyState] = field(default_factory=list)
    rows: int = 0
    takes: set[Version] = field(default_factory=set)
    part: bool = False
    shown: bool = False
    recorded: bool = False
    kept: Mapping[tuple[str, bytes], bool] = field(default_factory=dict)
    refused: frozenset[tuple[str, bytes]] = frozenset()

    def take(self, queue: deque[Run], outbox: dict[KeyState, None], rows: int | None) -> None:
        """Take what waits, oldest first, up to about `rows`."""
        while queue and (rows is None or self.rows < rows):
            self.runs.append(run := queue.popleft())
            self.rows += run.live
            run.sent[self.node] = self
        while outbox and (rows is None or self.rows < rows):
            self.states.append(state := next(iter(outbox)))
            self.rows += 1
            del outbox[state]
            state.sent[self.node] = self.seq
        self.part = bool(queue or outbox)

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Table and key of every row."""
        for run in self.runs:
            keys = run.rows.keys
            yield from ((run.rows.table, key) for i, key in enumerate(keys) if i not in run.promoted)
        yield from ((state.table, state.key) for state in self.states)

    def version_of(self, state: KeyState) -> Version:
        """What the node is sent of a key. A delete with layers takes the row only if it holds just that.

        A batch of ours may have put a row back at a node whose application had deleted it a moment before. If
        that has inserted it anew meanwhile, it must not lose it to its own delete.
        """
        version, put = state.version_for(self.node), state.put.pop(self.node, None)
        if state.held or version.node != self.node:
            return version
        if version.op is not Op.DELETE:
            if version.whole:
                state.put[self.node] = version
        elif put:
            state.put[self.node] = put
            self.takes.add(put)
            return replace(version, layers=put.layers)
        return version

    def show(self) -> None:
        """The node's log has shown it."""
        self.shown = True
        for run in self.runs if self.part else ():
            run.shown[self.node] = self.cut
        for state in self.states if self.part else ():
            state.shown[self.node] = self.cut


def read_version(
    node: str, rows: ChangeRows, index: int, absorbed: Vector, rank: int, *, fields: bool
) -> Version:
    """The version that a change stands for, before it met any other."""
    op = Op(rows.ops[index])
    changed = rows.changed[index] if op is Op.UPDATE else ALL
    layers = () if op is Op.DELETE else (Layer(rows.batch, index, rows.have[index]),)
    order, time = rows.orders[index], rows.times[index]
    version = Version(node, order, time, op, absorbed, layers, changed, rank, stray=index in rows.strays)
    if fields:
        dot = FieldDot(node, order, time, absorbed)
        version.fields = dict.fromkeys(_bits(changed), dot)
    return version


def is_rival(state: Run | KeyState, key: bytes, node: str, *, replaying: bool) -> bool:
    """Whether a row copied from `node` competes with what is on its way: only a row copied elsewhere does.

    While replaying, a row copied before may be known from one node's echo, and be on its way to nobody.

    A write is on its way to every node by itself, and the copied row is not newer: at best it shows that very
    write, at worst a value that a batch of ours had put in its place for a moment.
    """
    if isinstance(state, Run):
        return state.node != node and state.rows.ops[state.index(key)] == Op.READ
    return not state.held and state.version.op is Op.READ and (replaying or state.version.node != node)


def split_keys(
    keys: list[bytes], known: Mapping[bytes, object], strays: frozenset[int] = frozenset()
) -> tuple[list[int], list[int]]:
    """Indexes of keys that nobody touches, and of those already on their way or repeated here, or strays."""
    distinct = set(keys)
    if not strays and len(distinct) == len(keys) and known.keys().isdisjoint(distinct):
        return list(range(len(keys))), []
    once: dict[bytes, bool] = {}
    for key in keys:
        once[key] = key not in once and key not in known
    lone = [i for i, k in enumerate(keys) if once[k] and i not in strays]
    return lone, [i for i, k in enumerate(keys) if not once[k] or i in strays]


def _bits(mask: int) -> list[int]:
    """The set bits of a mask; of `ALL`, one bit that stands for every column."""
    if mask == ALL:
        return [ALL]
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def at_least(one: Vector, other: Vector | None) -> Vector:
    """The later of two orders in each log."""
    return {n: max(order, other.get(n, 0)) for n, order in one.items()} if other else one
