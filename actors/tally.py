"""What a resolver counts, and how far each node is behind. Used under the resolver's lock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from actors.measured import SECONDS, Histogram, Key, Measured, Recent
from replication.batch import Applied, ApplyBatch
from replication.change import Changes, Op
from replication.conflict.decide import Conflict

_BOUNDS = np.asarray(SECONDS)


class Tally:
    """Counts of one shard since its incarnation began.

    Args:
        shard: its number.
        names: the sorted node names.
        now: microseconds since 1970, as the commits of nodes have them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        shard: int,
        names: Sequence[str],
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shard = str(shard)
        self._names = names
        self._now = now
        self._clock = clock
        self._counters: Counter[Key] = Counter()
        self._lags: dict[Key, Histogram] = {}
        self._newest = dict.fromkeys(names, 0)
        """By node the commit time of the newest change that it has answered."""
        self._behind: dict[str, int] = {}
        """By node since when there has always been something on its way to it."""
        self._recent = Recent()
        self.changes = self.applied = self.conflicts = self.held = 0

    def take(self, node: str, event: Changes) -> None:
        """Changes of a node have come."""
        self.changes += event.rows
        for table in event.tables:
            place = node, table.table, self._shard
            copied = int((table.rows.column("_op").to_numpy() == Op.READ).sum())
            if copied:
                self._counters["sync_copied_rows", *place] += copied
            if copied < table.rows.num_rows:
                self._counters["sync_changes", *place] += table.rows.num_rows - copied

    def look(self, node: str, backlog: int) -> None:
        """So many rows are on their way to a node."""
        if not backlog:
            self._behind.pop(node, None)
        else:
            self._behind.setdefault(node, self._now())

    def answer(self, batch: ApplyBatch, applied: Applied) -> float:
        """A node has answered a batch; how old its oldest change of an application was, in seconds."""
        self.applied += batch.rows
        now, newest, oldest = self._now(), 0, 0.0
        for table in batch.tables:
            self._counters["sync_applied_rows", batch.node, table.table, self._shard] += table.rows.num_rows
            last, age = self._time(batch.node, table.rows, now)
            newest, oldest = max(newest, last), max(oldest, age)
        if newest:
            self._newest[batch.node] = max(self._newest[batch.node], newest)
        elif batch.rows and batch.node in self._behind:
            self._behind[batch.node] = now  # rows of a copy: nobody has committed them just now
        for held in applied.held:
            self.refuse(batch.node, held.table)
        return oldest

    def refuse(self, node: str, table: str) -> None:
        """A row was set aside."""
        self.held += 1
        self._counters["sync_held_rows", node, table, self._shard] += 1

    def settle(self, conflicts: Sequence[Conflict]) -> None:
        """Conflicts were found."""
        self.conflicts += len(conflicts)
        self._recent.add(len(conflicts), self._clock())
        for conflict in conflicts:
            self._counters["sync_conflicts", conflict.table, conflict.kind, self._shard] += 1

    def lag_ms(self, node: str) -> float:
        """How old the oldest change on its way to a node can be; 0 if none is."""
        if (behind := self._behind.get(node)) is None:
            return 0.0
        return max(0, self._now() - max(behind, self._newest[node])) / 1000

    def measured(self, backlog: Mapping[str, int], undecided: int) -> Measured:
        """All of it, as it is now."""
        gauges: dict[Key, float] = {("conflict_rate",): self._recent.rate(self._clock())}
        for node in self._names:
            gauges["queue_depth", node] = backlog[node]
            gauges["sync_lag_ms", node] = self.lag_ms(node)
        gauges[("sync_open_conflicts",)] = undecided
        return Measured(dict(self._counters), gauges, {k: h.copy() for k, h in self._lags.items()})

    def _time(self, node: str, rows: pa.RecordBatch, now: int) -> tuple[int, float]:
        """Note how old rows are that a node has just answered; the newest commit time, the oldest's age."""
        column = rows.column
        commits = column("_hlc").to_numpy()
        real = (column("_op").to_numpy() != Op.READ) & (commits > 0)
        if not real.any():
            return 0, 0.0
        commits = commits[real]
        origins = column("_origin").to_numpy()[real]
        for origin in np.unique(origins):
            ages = np.maximum(0, now - commits[origins == origin]) / 1e6
            key = ("sync_apply_lag_seconds", self._names[int(origin)], node, self._shard)
            lags = self._lags.setdefault(key, Histogram())
            found = np.bincount(np.searchsorted(_BOUNDS, ages), minlength=len(SECONDS) + 1)
            lags.buckets = [a + int(b) for a, b in zip(lags.buckets, found, strict=True)]
            lags.total += float(ages.sum())
        return int(commits.max()), max(0, now - int(commits.min())) / 1e6
