"""Schedules in which the number of shards changes at any moment, and whatever happens meanwhile.

One shard owns every key here, before and after; the others that a number stands for have nothing to do. What
is under test is the way from one generation to the next: the drain, what spoils it, a crash at any moment of
it and between any two nodes. (That several shards stop at one place is seen by the tests on real servers.)
"""

from __future__ import annotations

import random
from dataclasses import replace

from replication.conflict.policy import MANUAL
from replication.marker import Marker
from replication.position import Position
from replication.resharding import Drain, begun, first_markers, next_number
from tests.property.checked import CheckedShard
from tests.property.databases import Rows
from tests.property.holding import HoldingSchedule
from tests.property.scenario import Scenario
from tests.property.schedule import Schedule


class Resharding(Schedule):
    """See `Schedule`.

    Attributes:
        changes: how many changes of the number were made.
        finished: how many of them by a start after a crash between two nodes.
        spoiled: how many drains were spoiled.
        first: the first seed with which a mutation is tried.
    """

    drain_kind: type[Drain] = Drain
    first = 0

    def __init__(self, scenario: Scenario) -> None:
        self.count = 1
        self.others: dict[str, list[Marker]] = {n: [] for n in "ABC"[: scenario.nodes]}
        self.drain: Drain | None = None
        self.read: dict[str, int] = {}
        self.fate = random.Random(f"shards {scenario.seed}")
        self.often = self.fate.choice([0.2, 0.05, 0.02])
        self.haste = 0.1  # how soon a spoiled drain ends
        self.changes = self.finished = self.spoiled = 0
        super().__init__(scenario)
        if self.toast and not self.owned:  # in such a schedule nothing may crash
            self.often = 0.0

    def start(self) -> CheckedShard:
        self.drain = None
        held = {n: [db.marker, *self.others[n]] for n, db in self.dbs.items()}
        if (new := begun(held)) is not None:
            self.finished += 1
            self.give(new)
        self.count = self.dbs[self.names[0]].marker.shards
        shard = super().start()
        shard.config = replace(shard.config, shards=self.count)
        return shard

    def give(self, new: list[Marker], nodes: int = 3) -> None:
        """Give the first `nodes` nodes these markers, each in a transaction of its own."""
        epoch = max(db.epoch for db in self.dbs.values()) + 1
        for name in self.names[:nodes]:
            db = self.dbs[name]
            db.marker, db.epoch = replace(new[0], epoch=epoch), epoch
            self.others[name] = new[1:]
            db.log.append(None)
            db.keep()
            db.shown = len(db.log)

    def deliver(self, node: str) -> bool:
        if self.drain is None and not self.shard.replaying and self.fate.random() < self.often:
            self.drain = self.drain_kind(self.shard)
            self.read = {n: p.order for n, p in self.shard.progress.position.items()}
        if self.drain is not None:
            return self.read_on(node)
        position, log = self.shard.progress.position[node].order, self.dbs[node].log
        entry = log[position] if position < len(log) else None
        if entry is None or isinstance(entry, Rows) or entry.marker.shards == self.count:
            return super().deliver(node)
        log[position] = None  # an echo of those that were there before: no shard is given it
        try:
            return super().deliver(node)
        finally:
            log[position] = entry

    def read_on(self, node: str) -> bool:
        """Read one more entry of a log while the shard comes to rest."""
        assert self.drain is not None
        db, place = self.dbs[node], self.read[node]
        there = place < len(db.log)
        if there:
            db.shown = max(db.shown, place + 1)
            self.read[node], entry = place + 1, db.log[place]
            if isinstance(entry, Rows):
                self.drain.on_changes(node, [entry])
            elif entry is not None and entry.marker.shards == self.count:
                self.drain.on_echo(node, entry.marker)
            self.release()
        self.look()
        return there or self.drain is None

    @property
    def places(self) -> dict[str, Position]:
        """Where the next shards begin."""
        return dict(self.shard.progress.position)

    def look(self) -> None:
        """Go on with the next number once everything is at rest, or give that up."""
        assert self.drain is not None
        if self.drain.spoiled:
            if self.fate.random() < self.haste:
                self.spoiled += 1
                self.crash_now()
        elif self.drain.at_rest:
            assert {n: db.marker.seq for n, db in self.dbs.items()} == self.shard.sent
            held = {n: [db.marker, *self.others[n]] for n, db in self.dbs.items()}
            count = 1 + self.count % 2
            new = first_markers("g", self.places, count, next_number(held))
            self.give(new, self.fate.randint(0, len(self.names)))
            self.changes += 1
            self.crash_now()

    def crash_now(self) -> None:
        """End the incarnation at work, and begin the next one."""
        self.answers, self.records.waiting, self.unconfirmed = [], [], []
        zombies, self.in_flight = self.in_flight, []
        self.shard = self.start()
        self.in_flight = [z for z in zombies if self.fate.random() < 0.5]

    def quiesce(self) -> None:
        self.often = 0.0
        if self.drain is not None and self.fate.random() < 0.5:
            self.crash_now()
        if self.drain is not None:
            self.haste = 1.0
            super().quiesce()
            if self.drain is not None:
                self.look()
            assert self.drain is None, f"{self.s}: never at rest"
        super().quiesce()  # what was copied meanwhile is copied again


class ReshardingHolds(Resharding, HoldingSchedule):
    """The same under the policy `manual`."""


def resharding_of(scenario: Scenario, kind: type[Resharding] = Resharding) -> Resharding:
    """A schedule under the scenario's policies."""
    return (ReshardingHolds if MANUAL in scenario.policies else kind)(scenario)
