"""What the schedules run against: databases, each a list for a log and a dictionary for rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from replication.change import Op
from replication.conflict.version import ALL, Version
from replication.marker import Marker

TABLE = "t"
FIELDS = 2


@dataclass(frozen=True)
class Cell:
    """What one column of a row holds: the write that set it, and every write that it accounts for.

    In a row to be written, `ident` is None where the version does not hold the column.
    """

    ident: int | None = 0
    covers: frozenset[int] = frozenset()


Row = tuple[Cell, ...]
EMPTY: Row = (Cell(),) * FIELDS
Kept = dict[tuple[str, bytes], bool] | None


@dataclass(frozen=True)
class Write:
    ident: int
    key: bytes
    op: Op
    changed: int
    ts: int
    node: str
    saw: tuple[frozenset[int], ...]  # per column
    have: int = ALL

    def row(self, before: Row) -> Row:
        mine = [Cell(self.ident, seen | {self.ident}) for seen in self.saw]
        return tuple(
            m if self.changed >> c & 1 else b for c, (m, b) in enumerate(zip(mine, before, strict=True))
        )


class Rows:
    """Stands for a change batch: the attributes of `ChangeRows`, made of lists."""

    def __init__(
        self, writes: list[Write], orders: list[int], images: list[Row], *, copied: bool = False
    ) -> None:
        self.table = TABLE
        self.copied = copied
        self.given = False
        self.batch = images
        self.writes = writes
        self.keys = [w.key for w in writes]
        self.ops = [int(w.op) for w in writes]
        self.times = [w.ts for w in writes]
        self.orders = orders
        self.have = [w.have for w in writes]
        self.changed = [w.changed for w in writes]
        self.strays: frozenset[int] = frozenset()

    def pieces(self, rows: int) -> list[Rows]:
        places = range(len(self.keys))
        return [self.select(places[at : at + rows]) for at in places[::rows]]

    def select(self, indexes: list[int]) -> Rows:
        pick = Rows([self.writes[i] for i in indexes], [self.orders[i] for i in indexes], [])
        pick.given = self.given
        pick.batch = [self.batch[i] for i in indexes]
        return pick


@dataclass(frozen=True)
class Sent:
    """An apply transaction: the marker and the decided rows."""

    marker: Marker
    rows: list[tuple[bytes, Version, Row]]
    copied: frozenset[bytes] | None = None  # keys of an initial copy
    hidden: frozenset[bytes] = frozenset()  # the log does not show these rows, or a part of them only
    outside: frozenset[bytes] = frozenset()  # the node's filter excludes these rows


class Records:
    """Stands for the decisions in the audit log: which batches are on record, and which wait to be."""

    def __init__(self) -> None:
        self.durable: list[tuple[str, int, int]] = []  # node, epoch, number
        self.waiting: list[tuple[str, int, int]] = []

    def add(self, node: str, marker: Marker) -> None:
        """Record a batch, unless one of the same node that came after it is on record."""
        mark = max((b[1:] for b in self.durable + self.waiting if b[0] == node), default=(0, 0))
        if (marker.epoch, marker.seq) > mark:
            self.waiting.append((node, marker.epoch, marker.seq))

    def flush(self) -> None:
        """Make durable what waits."""
        self.durable += self.waiting
        self.waiting = []


@dataclass
class Database:
    log: list[Rows | Sent | None] = field(default_factory=list)  # entry i is at position i + 1
    rows: dict[bytes, Row] = field(default_factory=dict)
    live: set[bytes] = field(default_factory=set)
    marker: Marker = field(default_factory=lambda: Marker("g", 0, 1, 0, 0))
    epoch: int = 0
    applied: dict[bytes, tuple[str, int, Row]] = field(default_factory=dict)  # since its last own write
    again: int = 0  # rows that were applied although the node held just that
    shown: int = 0  # so much of the log has been read, and is on disk
    # what a crash may bring back, by length of the log
    images: list[tuple[dict[bytes, Row], set[bytes], Marker]] = field(default_factory=list)

    def keep(self) -> None:
        """Remember what a crash may bring back."""
        if len(self.images) <= len(self.log):
            self.images.append((dict(self.rows), set(self.live), self.marker))

    def lose(self, length: int) -> list[Write]:
        """Crash, and come back without what was committed after `length` and was not on disk yet."""
        lost = [w for e in self.log[length:] if isinstance(e, Rows) for w in e.writes]
        del self.log[length:], self.images[length + 1 :]
        rows, live, self.marker = self.images[length]
        self.rows, self.live, self.applied = dict(rows), set(live), {}
        return lost

    def write(self, writes: list[Write]) -> None:
        images = []
        for w in writes:
            self.rows[w.key] = w.row(self.rows.get(w.key, EMPTY))
            self.applied.pop(w.key, None)
            (self.live.discard if w.op is Op.DELETE else self.live.add)(w.key)
            images.append(self.rows[w.key])
        self.log.append(Rows(writes, [len(self.log) + 1] * len(writes), images))
        self.keep()

    def copy(self, node: str, keys: Iterable[bytes]) -> list[Write]:
        """Read the rows of some keys, as a chunk that nothing changes while it is read."""
        keys = sorted(self.live.intersection(keys))
        saw = {k: tuple(c.covers | {c.ident} for c in self.rows[k]) for k in keys}
        reads = [Write(0, k, Op.READ, (1 << FIELDS) - 1, 0, node, saw[k]) for k in keys]
        if reads:
            self.append_copied(reads)
        return reads

    def append_copied(self, writes: list[Write], *, given: bool = False) -> None:
        """Let a chunk come out of the log, with values of the database or with `given` ones."""
        images = [w.row(EMPTY) if given else self.rows.get(w.key, EMPTY) for w in writes]
        self.log.append(Rows(writes, [len(self.log) + 1] * len(writes), images, copied=True))
        self.log[-1].given = given
        self.keep()

    def newest(self, key: bytes) -> int:
        """Where in the log an application wrote a key last; 0 if none did."""
        for place in range(len(self.log), 0, -1):
            entry = self.log[place - 1]
            if isinstance(entry, Rows) and not entry.copied and key in entry.keys:
                return place
        return 0

    def forget_copies(self) -> None:
        """Copied rows are not in the log: who reads it again does not find them."""
        self.log = [None if isinstance(e, Rows) and e.copied else e for e in self.log]

    def apply(self, batch: Sent) -> Kept:
        """Commit a batch, unless a newer incarnation fenced it off or its predecessor is missing.

        Returns:
            what was kept, or None when it was refused.
        """
        if batch.marker.epoch != self.epoch or batch.marker.after != self.marker.seq:
            return None
        copied = {k: row for k, _, row in batch.rows if k in (batch.copied or ()) and k in self.live}
        kept = {(TABLE, k): _differ(row, self.rows[k]) for k, row in copied.items()}
        kept |= {(TABLE, k): True for k, v, _ in batch.rows if k in self.live and _spares(v, self.rows[k])}
        rows = [r for r in batch.rows if (TABLE, r[0]) not in kept]
        self.marker = batch.marker
        same = {k for k, _, row in rows if row[-1].ident == self.rows.get(k, EMPTY)[-1].ident}
        self.log.append(replace(batch, rows=rows, hidden=frozenset(same)))
        for key, version, row in rows:
            goes = version.op is Op.DELETE or key in batch.outside
            if key not in batch.outside:
                self.again += self.applied.get(key) == (version.node, version.order, row)
            self.applied[key] = (version.node, version.order, row)
            self.rows[key] = row
            (self.live.discard if goes else self.live.add)(key)
        self.keep()
        return kept


def _spares(version: Version, row: Row) -> bool:
    """Whether it is a delete of another row."""
    if version.op is not Op.DELETE or not version.layers:
        return False
    layer = version.layers[0]
    return _differ(layer.rows[layer.index], row)


def _differ(row: Row, other: Row) -> bool:
    return [c.ident for c in row] != [c.ident for c in other]
