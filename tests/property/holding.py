"""Schedules under the policy `manual`: keys go on hold, and a person settles them at any moment.

At quiescence, beside what every schedule checks of the keys that are not on hold:

    held as recorded   what is on hold is what the audit log says, after any crash
    each its own       a node whose write is in an open conflict holds what it wrote last
    settled            a key that was settled is the same everywhere
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from replication.change import Op
from replication.conflict.decide import Conflict
from replication.conflict.policy import MANUAL
from replication.conflict.rows import KeyState
from replication.marker import Vector
from tests.property.checked import CheckedShard
from tests.property.databases import EMPTY, FIELDS, TABLE, Rows, Sent, Write
from tests.property.scenario import Scenario
from tests.property.schedule import Schedule


@dataclass
class Settling:
    """A key that is being settled: its conflicts, and how far the logs must be released first."""

    idents: set[str]
    until: Vector | None = None


class HoldingSchedule(Schedule):
    """See `Schedule`."""

    def __init__(self, scenario: Scenario) -> None:
        self.open: dict[bytes, set[str]] = defaultdict(set)  # conflicts that are on record, by key
        self.pairs: dict[str, tuple[dict[str, int], list[Write]]] = {}  # a conflict's dots and writes
        self.waiting: list[tuple[bytes, str]] = []
        self.settling: dict[bytes, Settling] = {}
        self.settled = 0
        self.half: set[bytes] = set()  # a crash met it while it was being settled
        super().__init__(scenario)

    def start(self) -> CheckedShard:
        self.waiting = []
        self.half |= self.settling.keys()
        self.settling = {}
        return super().start()

    def held(self) -> list[tuple[str, bytes]]:
        return [(TABLE, key) for key, conflicts in self.open.items() if conflicts]

    def note(self, conflict: Conflict) -> None:
        if conflict.policy == MANUAL:
            self.waiting.append((conflict.key, conflict.ident))
            sides = {v.node: v.order for v in (conflict.left, conflict.right)}
            self.pairs[conflict.ident] = sides, [self.truth[n, o, conflict.key] for n, o in sides.items()]
            if self.rng.random() < 0.5:
                self.put_on_record()

    def put_on_record(self) -> None:
        for key, ident in self.waiting:
            self.open[key].add(ident)
            self.shard.hold_recorded(TABLE, key)
        self.waiting = []

    def form(self, node: str, *, heartbeat: bool = False) -> Sent | None:
        self.put_on_record()  # what is formed after a conflict is sent once that is on record
        return super().form(node, heartbeat=heartbeat)

    def write(self, node: str, step: int) -> None:
        super().write(node, step)
        if self.rng.random() < 0.1:
            self.settle()

    def settle(self) -> None:
        """Take one node's row for a key on hold, whatever the others have."""
        held = [key for _, key in self.held() if key not in self.settling]
        if not held or self.waiting:
            return
        key, node = self.rng.choice(held), self.rng.choice(self.names)
        read: dict[str, int] = {}
        for sides, _ in map(self.pairs.get, self.open[key]):
            read |= {n: max(order, read.get(n, 0)) for n, order in sides.items()}
        if not self.shard.settle(TABLE, key, node, read):
            return
        db = self.dbs[node]
        saw = tuple(c.covers | {c.ident} - {0} for c in db.rows.get(key, EMPTY))
        decided = Write(next(self.idents), key, Op.DELETE, (1 << FIELDS) - 1, 0, node, saw)
        if key not in db.live:  # it is not there, so it must go everywhere
            db.rows[key] = decided.row(EMPTY)
            db.append_copied([decided])
        elif self.rng.random() < 0.3:  # none of the values that there are
            decided = replace(decided, op=Op.READ)
            db.append_copied([decided], given=True)
        else:
            (decided,) = db.copy(node, [key])
        self.truth[node, len(db.log), key] = decided
        self.settling[key] = Settling(set(self.open[key]))
        self.settled += 1

    def release(self) -> None:
        super().release()
        for key, settling in list(self.settling.items()):
            settling.until = settling.until or self.shard.settled_up_to(TABLE, key)
            if settling.until and all(self.released[n] >= order for n, order in settling.until.items()):
                del self.settling[key]
                self.open[key] -= settling.idents

    def quiesce(self) -> None:
        self.finish()
        for _ in range(20 if self.s.seed % 2 else 0):
            if not self.held():
                return
            self.settle()
            self.finish()
        assert not (self.s.seed % 2 and self.held()), f"{self.s}: never settled"

    def finish(self) -> None:
        """Let the logs be released up to their end."""
        super().quiesce()
        for nodes in (self.shard.progress.partly, self.names[:1]):
            for node in nodes:
                if (batch := self.form(node, heartbeat=True)) is not None:
                    self.in_flight.append((node, batch))
            super().quiesce()

    def alike(self) -> list[bytes]:
        return [key for key in self.keys if not self.open.get(key)]

    def check(self) -> None:
        super().check()
        states = {k: s for k, s in self.shard.keys[TABLE].items() if isinstance(s, KeyState) and s.held}
        assert {(TABLE, k) for k in states} == set(self.held()), f"{self.s}: on hold {states}"
        for key, idents in self.open.items():
            for write in (w for ident in idents for w in self.pairs[ident][1]):
                db = self.dbs[write.node]
                own = [w for e in db.log if isinstance(e, Rows) and not e.copied for w in e.writes]
                newest = next(w for w in reversed(own) if w.key == key)
                row = db.rows[key] if key in db.live else None
                expected = newest.op is not Op.DELETE and newest.ident
                holds = row is not None and row[0].ident
                assert key in self.half or holds == expected, f"{self.s}: {key!r} at {write.node}: {row}"


def schedule_of(scenario: Scenario) -> Schedule:
    """A schedule under the scenario's policies."""
    return (HoldingSchedule if MANUAL in scenario.policies else Schedule)(scenario)
