"""Random schedules for the product's own shard: writes, log reads, batches, commits, crashes, zombies.

A port of the executable model's checks. A database here is a list and a dictionary, since what is under test
is the state machine; real databases are the conformance and chaos suites' business. At quiescence:

    convergence       every database holds the same value for every key
    no lost update    no write saw the surviving one (or anything it covers) and followed it
    no false alarm    a conflict is only reported for two writes neither of which saw the other
    nothing left      no key stays on its way
    all on record     what became of each batch that a node holds is on record, once
    no relapse        where each key is written at one node only, no delete comes back over a later insert
    once              where each key is written at one node only, no other is sent the same version twice

In some schedules a node has a filter, by the value of one column: it holds a row if and only if that matches.

Some schedules leave the last column of an update out of the log where it did not change, as PostgreSQL does
with a large value. (On two nodes, not beside a copy, and where keys collide without deletes and
crashes: else the column that was left out can still end up different.)
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count

from replication.change import Op
from replication.conflict.decide import Conflict
from replication.conflict.exchange import EchoedRow, Outgoing, ShardConfig
from replication.conflict.policy import load_policies
from replication.conflict.version import ALL, Layer, Version
from replication.marker import Marker
from replication.position import Position
from tests.property.checked import CheckedShard
from tests.property.databases import EMPTY, FIELDS, TABLE, Cell, Database, Records, Row, Rows, Sent, Write
from tests.property.scenario import Clocks, Scenario, Shown


class Schedule:
    """One run. Raises AssertionError naming the seed when an invariant does not hold."""

    def __init__(self, scenario: Scenario) -> None:
        self.s = scenario
        self.rng = rng = random.Random(scenario.seed)
        self.names = list("ABC"[: scenario.nodes])
        self.keys = [b"x", b"y", b"z"][: 1 + scenario.seed % 3]
        self.busy = rng.choice([0.30, 0.10, 0.03])
        self.crash = rng.choice([0.03, 0.01, 0.0])
        self.clocks = Clocks(scenario.seed, {n: rng.randint(-5, 5) for n in self.names})
        self.dbs = {n: scenario.database() for n in self.names}
        self.truth: dict[tuple[str, int, bytes], Write] = {}
        self.writes: list[Write] = []
        self.idents = count(1)
        self.conflicts: set[tuple[Write, Write]] = set()
        self.in_flight: list[tuple[str, Sent]] = []
        self.sizes = [1, 1, 2, None] if scenario.seed % 11 < 3 else [None]
        self.keys += [b"u", b"v", b"w"] if scenario.seed % 11 == 0 else []
        self.copies = scenario.seed % 4 == 3
        self.merge = "merge_fields" in scenario.policies
        self.manual = "manual" in scenario.policies
        whole = self.merge or self.manual or self.copies
        self.toast = scenario.nodes == 2 and not whole and scenario.seed % 5 == 4
        self.owned = scenario.seed % 7 == 6
        self.deletes = not (self.merge or self.toast) or scenario.seed % 20 < 10
        if self.toast and not self.owned:
            self.crash, self.deletes = 0.0, False
        self.filtered, self.column = "", scenario.seed // 2 % FIELDS
        if scenario.filtered:  # a copy is from the first node
            self.filtered = self.names[-1 if self.copies else scenario.seed // 3 % scenario.nodes]
        if self.copies:  # the nodes differ before the group begins
            for n, db in enumerate(self.dbs.values(), 1):
                db.rows = {k: (Cell(-n), Cell(-n)) for k in self.keys}
                db.live = set(self.keys)
        for db in self.dbs.values():
            db.keep()
        self.lossy = scenario.seed % 3 == 1
        self.released = dict.fromkeys(self.names, 0)
        self.answers: list[tuple[str, Marker, list[tuple[str, bytes]]]] = []
        self.records = Records()
        self.unconfirmed: list[tuple[str, int]] = []
        self.crashes = 0
        self.fetched = False
        self.luck = random.Random(f"pauses {scenario.seed}")
        self.paused: frozenset[bytes] = frozenset()
        self.sent_beside = 0
        self.shard = self.start()

    def start(self) -> CheckedShard:
        epoch = max(db.epoch for db in self.dbs.values()) + 1
        for db in self.dbs.values():
            db.epoch, db.shown = epoch, len(db.log)  # raising the epoch puts all before it on disk
            db.forget_copies()
        config = ShardConfig(
            "g", 0, 1, {n: i for i, n in enumerate(self.names)}, {TABLE: load_policies(self.s.policies)},
            self.s.pipeline,
            1 if self.sizes[0] or self.s.pauses else 100,
            {(self.filtered, TABLE): self.strays},
        )  # fmt: skip
        shard = self.s.shard(config, epoch, {n: db.marker for n, db in self.dbs.items()}, self.held())
        shard.covers, shard.truth = {}, self.truth
        shard.pause_keys(self.paused)
        for n, position in shard.progress.position.items():
            assert position.order >= self.released[n], f"{self.s}: {n}'s log is released, and needed"
        return shard

    def held(self) -> list[tuple[str, bytes]]:
        """What is on hold, as the audit log has it."""
        return []

    def excludes(self, row: Row) -> bool:
        """Whether the filter excludes a row."""
        ident = row[self.column].ident
        assert ident is not None
        return ident % 3 == 0

    def strays(self, rows: Rows) -> frozenset[int]:
        """What the product's filter says of a change batch: a value that is not there may be excluded."""
        unknown = [not have >> self.column & 1 for have in rows.have]
        found = (i for i, row in enumerate(rows.batch) if unknown[i] or self.excludes(row))
        return frozenset(i for i in found if rows.ops[i] != Op.DELETE)

    def write(self, node: str, step: int) -> None:
        db, writes, keys = self.dbs[node], [], self.keys
        if self.owned:
            keys = keys[self.names.index(node) :: len(self.names)]
        for key in self.rng.sample(keys, self.rng.randint(min(1, len(keys)), len(keys))):
            row = db.rows.get(key, EMPTY)
            op = self.rng.choice([Op.INSERT, Op.UPDATE, Op.UPDATE, Op.DELETE if self.deletes else Op.INSERT])
            partly = op is Op.UPDATE and (self.merge or (self.toast and key in db.live))
            changed = self.rng.choice([1, 2, 3] if self.merge else [1, 3]) if partly else (1 << FIELDS) - 1
            write = Write(
                next(self.idents), key, op, changed, self.clocks.at(node, step) + self.rng.randint(-2, 2),
                node,
                tuple(c.covers | {c.ident} - {0} for c in row),
                changed if self.toast and partly else ALL,
            )  # fmt: skip
            self.writes.append(write)
            writes.append(write)
            self.truth[node, len(db.log) + 1, key] = write
        if writes:
            db.write(writes)

    def copy(self, node: str) -> None:
        for read in self.dbs[node].copy(node, self.keys):
            self.truth[node, len(self.dbs[node].log), read.key] = read

    def deliver(self, node: str) -> bool:
        log, shard = self.dbs[node].log, self.shard
        position = shard.progress.position[node].order
        if position >= len(log):
            return False
        self.dbs[node].shown = max(self.dbs[node].shown, position + 1)
        entry, end = log[position], Position(position + 1)
        if entry is None:
            shard.on_progress(node, end)
        elif isinstance(entry, Rows):
            shard.on_audited(shard.on_changes(node, [entry], end))
        else:
            replaying = shard.replaying
            shard.on_echo(node, entry.marker, end, self.echoed(entry) if replaying else ())
            if replaying:
                self.record(node, entry.marker)
        for conflict in shard.conflicts:
            pair = tuple(self.truth[v.node, v.order, conflict.key] for v in (conflict.left, conflict.right))
            self.conflicts.add(pair)
            self.note(conflict)
        shard.conflicts.clear()
        self.release()
        return True

    def note(self, conflict: Conflict) -> None:
        """One more conflict."""

    def echoed(self, entry: Sent) -> list[EchoedRow]:
        rows = []
        for key, v, row in entry.rows:
            shown = v.op is not Op.DELETE and not (self.toast and key in entry.hidden)
            shown = shown and key not in entry.outside
            layers = (Layer([row], 0),) if shown else ()
            version = Version(v.node, v.order, v.time, v.op, {}, layers, rank=v.rank)
            self.shard.learn(version, tuple(c.covers for c in row))
            rows.append(Shown(TABLE, key, version, key in entry.outside))
        return rows

    def form(self, node: str, *, heartbeat: bool = False) -> Sent | None:
        heartbeat |= self.rng.random() < 0.02
        outgoing = self.shard.form_batch(node, heartbeat=heartbeat, rows=self.rng.choice(self.sizes))
        if outgoing is None:
            return None
        rows = [(k, v, self.shard.value(k, v)) for k, v in versions(outgoing)]
        copies = [r for r in outgoing.runs if r.copied]
        keys = frozenset(k for r in copies for k in r.rows.keys) - {k for _, k, _ in outgoing.versions}
        assert self.paused.isdisjoint(k for k, _, _ in rows), f"{self.s}: it is paused"
        self.sent_beside += bool(rows) and bool(self.shard.parked[node])
        return Sent(outgoing.marker, rows, keys if copies else None)

    def commit(self) -> None:
        """Try any batch on its way; one that came before its predecessor stays on its way."""
        name, batch = self.in_flight.pop(self.rng.randrange(len(self.in_flight)))
        live = batch.marker.epoch == self.shard.epoch
        whole = self.complete(self.dbs[name], batch)
        if name == self.filtered:
            whole = self.filter(self.dbs[name], whole)
        newest = {key: self.dbs[name].newest(key) for key, _, _ in whole.rows if key in self.dbs[name].live}
        kept = self.dbs[name].apply(whole)
        if kept is not None:
            beneath = [v for k, v, _ in whole.rows if newest.get(k, 0) > v.order and (TABLE, k) not in kept]
            self.check_deletes(name, beneath)
            if live:
                self.answers.append((name, batch.marker, kept))
        elif live:
            self.in_flight.append((name, batch))

    def check_deletes(self, name: str, beneath: list[Version]) -> None:
        """Where each key is written at one node only, no delete made there takes what was written after it.

        Args:
            name: of a node that has applied a batch.
            beneath: versions in it that took the place of something newer.
        """
        if self.owned and not (self.merge or self.crashes or self.filtered):
            taken = [v for v in beneath if v.node == name and v.op is Op.DELETE]
            assert not taken, f"{self.s}: {name} lost to its own delete what was written after that"

    def complete(self, target: Database, batch: Sent) -> Sent:
        """Fill in what a row lacks: from the target's, the whole from where it was written, or others'."""
        rows = []
        for key, version, row in batch.rows:
            lacking = [c.ident is None for c in row]
            origin = self.dbs[version.node]
            others = [db for db in self.dbs.values() if db is not target and db is not origin]
            own = [target] if not all(lacking) else []
            source = next((db for db in (*own, origin, *others) if key in db.live), None)
            if any(lacking) and source is None:
                continue  # gone everywhere
            self.fetched |= any(lacking) and source is not target
            held = source.rows.get(key, EMPTY) if source else EMPTY
            if source is origin and source is not target:
                lacking = [any(lacking)] * FIELDS
            cells = zip(row, held, lacking, strict=True)
            full = tuple(Cell(h.ident, h.covers | c.covers) if lacks else c for c, h, lacks in cells)
            rows.append((key, version, full))
        return replace(batch, rows=rows)

    def filter(self, target: Database, batch: Sent) -> Sent:
        """What becomes of a whole batch at the node with the filter: rows that it excludes are deleted."""
        outside = {k for k, v, row in batch.rows if v.op is not Op.DELETE and self.excludes(row)}
        never = outside & (batch.copied or frozenset()) - target.live
        rows = [r for r in batch.rows if r[0] not in never]
        return replace(batch, rows=rows, outside=frozenset(outside - never))

    def answer(self) -> None:
        # those of one node come in their order
        nodes = list(dict.fromkeys(node for node, _, _ in self.answers))
        node = self.rng.choice(nodes)
        at = next(i for i, (n, _, _) in enumerate(self.answers) if n == node)
        _, marker, kept = self.answers.pop(at)
        self.shard.on_ack(node, marker.seq, kept)
        self.record(node, marker)
        self.release()

    def record(self, node: str, marker: Marker) -> None:
        self.records.add(node, marker)
        self.unconfirmed.append((node, marker.seq))
        if self.rng.random() < 0.5:
            self.flush()

    def flush(self) -> None:
        self.records.flush()
        for node, seq in self.unconfirmed:
            self.shard.on_recorded(node, seq)
        self.unconfirmed = []

    def release(self) -> None:
        self.released = {n: max(o, self.shard.progress.released[n].order) for n, o in self.released.items()}

    def lose(self, node: str) -> None:
        """A database that answers before a commit is on disk crashes; nobody has read what it loses."""
        db = self.dbs[node]
        lost = db.lose(self.rng.randint(min(db.shown, len(db.log)), len(db.log)))
        self.writes = [w for w in self.writes if w not in lost]

    def run(self) -> Schedule:
        for step in range(80 + self.s.seed % 240):
            action, node = self.rng.random(), self.rng.choice(self.names)
            if self.answers and self.rng.random() < 0.5:
                self.answer()
            if self.s.pauses and self.luck.random() < 0.05:
                self.pause()
            if self.copies and self.rng.random() < 0.03:
                self.copy(self.names[0])
            if action < self.busy:
                self.write(node, step)
            elif action < self.busy + 0.40:
                self.deliver(node)
            elif action < self.busy + 0.52:
                if batch := self.form(node):
                    self.in_flight.append((node, batch))
            elif action < 1 - self.crash:
                if self.in_flight:
                    self.commit()
            else:
                self.crashes += 1
                zombies = self.in_flight  # may still try to commit after the restart
                self.answers = []
                self.records.waiting = []
                self.unconfirmed = []
                if self.lossy and self.rng.random() < 0.5:
                    self.lose(node)
                self.shard = self.start()
                self.in_flight = [z for z in zombies if self.rng.random() < 0.5]
        self.quiesce()
        self.check()
        return self

    def pause(self) -> None:
        """Pause some keys, and resume all others."""
        self.paused = frozenset(k for k in self.keys if self.luck.random() < 0.4)
        self.shard.pause_keys(self.paused)

    def quiesce(self) -> None:
        self.paused = frozenset()
        self.shard.pause_keys(self.paused)
        if self.copies:  # one that is not cut short
            self.copy(self.names[0])
        for _ in range(300):
            moved = bool(self.in_flight or self.answers)
            for _ in range(100):
                if self.in_flight:
                    self.commit()
            while self.answers:
                self.answer()
            self.flush()
            self.in_flight += [(n, b) for n in self.names if (b := self.form(n))]
            delivered = [self.deliver(n) for n in self.names]
            moved |= any(delivered) or bool(self.in_flight)
            if not moved:
                return
        raise AssertionError(f"{self.s}: never quiet")

    def check_holders(self, key: bytes) -> None:
        """The node with the filter holds the row if and only if it matches, the others if there is one."""
        live = {n: key in db.live for n, db in self.dbs.items() if n != self.filtered}
        assert len(set(live.values())) == 1, f"{self.s}: {key!r} is not everywhere: {live}"
        if self.filtered:
            row = next(db.rows.get(key, EMPTY) for n, db in self.dbs.items() if n != self.filtered)
            wanted = next(iter(live.values())) and not self.excludes(row)
            assert (key in self.dbs[self.filtered].live) == wanted, f"{self.s}: {key!r} at {self.filtered}"

    def alike(self) -> list[bytes]:
        """The keys that must be the same everywhere in the end."""
        return self.keys

    def check(self) -> None:
        exempt = {w for pair in self.conflicts for w in pair} if self.toast else set()
        for key in self.alike():
            # what a filter has taken away need not be the newest
            holders = {n: db for n, db in self.dbs.items() if n != self.filtered or key in db.live}
            held = {n: tuple(c.ident for c in db.rows.get(key, EMPTY)) for n, db in holders.items()}
            assert len(set(held.values())) == 1, f"{self.s}: {key!r} diverged: {held}"
            self.check_holders(key)
            for column, winner in enumerate(next(iter(held.values()))):
                # an update that beats a delete brings back its row as it saw it, other columns included;
                # a column that the winner left alone is that of a write which it beat, of any if of several
                partly = self.merge or self.toast
                for other in self.writes if winner and not ((self.deletes and partly) or self.manual) else ():
                    followed = (
                        other.key == key and other.changed >> column & 1 and winner in other.saw[column]
                    ) and other not in exempt
                    assert not followed, f"{self.s}: {key!r}[{column}] kept {winner} though {other} followed"
        # a row that was read where it was written may be newer than what its reader is said to have seen
        for left, right in self.conflicts if not self.fetched else ():
            blind = not seen(left, right) and not seen(right, left)
            assert blind, f"{self.s}: false conflict {left} {right}"
        if self.owned and not self.merge:
            assert not self.conflicts, f"{self.s}: conflicts: {self.conflicts}"
            # a write that may be excluded is sent back to where it was made, whatever it turns out to be
            asked = (self.filtered,) if self.toast else ()
            again = {n: db.again for n, db in self.dbs.items() if n not in asked}
            assert not any(again.values()), f"{self.s}: applied again: {again}"
        for node, db in self.dbs.items():
            held = [(node, e.marker.epoch, e.marker.seq) for e in db.log if isinstance(e, Sent)]
            found = [b for b in self.records.durable if b in held]
            assert sorted(found) == sorted(held), f"{self.s}: committed {held}, on record {found}"
        assert not self.shard.unrecorded, f"{self.s}: unconfirmed {self.shard.unrecorded}"
        assert self.shard.idle, f"{self.s}: unfinished keys remain: {self.shard.keys}"
        assert not any(self.shard.backlog(n) for n in self.names), f"{self.s}: rows remain"


def seen(write: Write, by: Write) -> bool:
    return any(write.ident in s for c, s in enumerate(by.saw) if write.changed >> c & 1)


def versions(outgoing: Outgoing) -> list[tuple[bytes, Version]]:
    found = []
    for run, excluded in zip(outgoing.runs, outgoing.excluded, strict=True):
        for i, key in enumerate(run.rows.keys):
            if i not in excluded:
                found.append((key, run.version(i, fields=False)))
    return found + [(key, version) for _, key, version in outgoing.versions]
