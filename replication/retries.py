"""When a row that a node refuses is sent again, and when nobody tries any more.

Pure: the time and the luck for the jitter are arguments. Which rows are on hold is in the audit log, and only
there. What waits for its time is in a `RetryQueue`, by name and number of tries; so whatever becomes of the
queue, a row is neither lost nor applied twice: what the queue has lost is deferred anew, and what it delivers
twice is of no account the second time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replication.audit.holds import HoldRecord, full_id


@dataclass(frozen=True, slots=True)
class Deferred:
    """A row that is to be sent again.

    Attributes:
        ident: its hold's name in full, see `holds.full_id`.
        tries: how many there were.
        due: when the next one is, seconds since 1970.
    """

    ident: str
    tries: int
    due: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that is not sent again by itself, for people and their tools.

    Attributes:
        ident: as in `Deferred`.
        tries: how many there were.
        since: when it was given up, seconds since 1970.
        node, table, origin: as in `HoldRecord`.
        key: the key for people; empty where the audit log is encrypted.
        reason: the node's own words; empty where the audit log is encrypted.
    """

    ident: str
    tries: int
    since: float
    node: str
    table: str
    origin: str
    key: str = ""
    reason: str = ""


class RetryQueue(Protocol):
    """Keeps what is to be sent again until its time has come. Durable: nothing of it is lost by a crash.

    One process uses it at a time. Whatever cannot be reached raises `Transient`.
    """

    def recall(self, now: float) -> list[Deferred]:
        """Everything in it, also what was delivered and not confirmed; some of it may be there twice."""

    def defer(self, entries: Sequence[Deferred], now: float) -> None:
        """Keep entries until they are due; durable when it returns."""

    def due(self, now: float) -> list[Deferred]:
        """Entries whose time has come. Until they are confirmed, a successor gets them once more."""

    def confirm(self, entries: Sequence[Deferred]) -> None:
        """Entries that were delivered are done with."""


class DeadLetters(Protocol):
    """Keeps what is not sent again by itself; durable as a `RetryQueue` is."""

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters; durable when it returns."""

    def buried(self) -> list[DeadLetter]:
        """All of them, each once, by its newest letter."""

    def take(self, idents: Collection[str]) -> None:
        """Remove letters; those that are not there are passed over."""


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Where rows that are to be sent again are kept.

    Attributes:
        kind: `local` or `rabbitmq`.
        connections: how often it was connected to; after each time it may hold less than it did.
        away_since: since when the broker cannot be reached, ISO 8601 in UTC; empty while it can.
        error: why.
    """

    kind: str
    connections: int = 0
    away_since: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """What an operator sees of rows that are sent again.

    Attributes:
        waiting: how many wait for their time.
        next_try: when the first of them is due, seconds since 1970; 0 for none.
        dead: how many are not sent again by themselves.
        store: where they are kept.
    """

    waiting: int
    next_try: float
    dead: int
    store: StoreHealth


class RetryStore(RetryQueue, DeadLetters, Protocol):
    """Both, in one place."""

    def health(self) -> StoreHealth:
        """How it is."""

    def close(self) -> None:
        """Let go of it; what it holds stays."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """When a row is sent again.

    Attributes:
        tries: how often, before it is a dead letter; 0 for never.
        first_seconds: after the first refusal.
        max_seconds: the longest pause; it doubles up to that.
    """

    tries: int = 6
    first_seconds: float = 30.0
    max_seconds: float = 3600.0

    def longest(self, tries: int) -> float:
        """The pause after so many tries, without luck."""
        pause = self.first_seconds
        for _ in range(tries):
            if pause >= self.max_seconds:
                break
            pause *= 2
        return min(pause, self.max_seconds)

    def pause(self, tries: int, luck: float) -> float:
        """Between half of the longest pause and the whole of it; `luck` is from 0 to 1."""
        return self.longest(tries) * (0.5 + 0.5 * luck)

    def pauses(self) -> list[float]:
        """All pauses, without luck, shortest first."""
        return sorted({self.longest(n) for n in range(max(1, self.tries))})


DEFAULT_PLAN = RetryPlan()


@dataclass(slots=True)
class OpenHold:
    """A row on hold that is to be sent again.

    Attributes:
        hold: its newest record.
        tries: how many there were.
        due: when the next one is, seconds since 1970.
    """

    hold: HoldRecord
    tries: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What is to be done now; see `Agenda`."""

    defer: list[Deferred] = field(default_factory=list)
    bury: list[tuple[HoldRecord, int]] = field(default_factory=list)
    confirm: list[Deferred] = field(default_factory=list)


class Agenda:
    """Which rows are to be sent again, and how often they were.

    Args:
        plan: when.
    """

    def __init__(self, plan: RetryPlan) -> None:
        self.plan = plan
        self.open: dict[str, OpenHold] = {}
        self.dead: dict[str, OpenHold] = {}

    def begin(
        self,
        holds: Iterable[HoldRecord],
        dead: Mapping[str, int],
        kept: Iterable[Deferred],
        now: float,
        luck: float,
    ) -> Outcome:
        """Start from what is on hold and from what the queue has kept.

        Args:
            holds: every row on hold.
            dead: of these, by ident the ones that were given up, and after how many tries.
            kept: what is in the queue.
            now: the time.
            luck: see `RetryPlan.pause`.

        Returns:
            what the queue lacks; there is nothing to confirm.
        """
        newest: dict[str, Deferred] = {}
        for entry in kept:
            if entry.ident not in newest or newest[entry.ident].tries < entry.tries:
                newest[entry.ident] = entry
        self.open.clear()
        self.dead.clear()
        fresh = []
        for hold in holds:
            ident = full_id(hold.node, hold.table, hold.key)
            if ident in dead:
                self.dead[ident] = OpenHold(hold, dead[ident])
            elif ident in newest:
                self.open[ident] = OpenHold(hold, newest[ident].tries, newest[ident].due)
            else:
                fresh.append(hold)
        return self.held(fresh, now, luck)

    def held(self, holds: Iterable[HoldRecord], now: float, luck: float) -> Outcome:
        """Rows were set aside. One that is to be sent again already is only known by its newest reason."""
        out = Outcome()
        for hold in holds:
            ident = full_id(hold.node, hold.table, hold.key)
            self.dead.pop(ident, None)
            if ident in self.open:
                self.open[ident].hold = hold
            elif self.plan.tries == 0 or is_hopeless(hold):
                self._give_up(ident, OpenHold(hold), out)
            else:
                self._again(ident, OpenHold(hold), 0, now + self.plan.pause(0, luck), out)
        for ident in self._crossed():
            self._give_up(ident, self.open.pop(ident), out)
        gone = {full_id(h.node, h.table, h.key) for h, _ in out.bury}
        out.defer = [d for d in out.defer if d.ident not in gone]
        return out

    def chosen(self, due: Iterable[Deferred]) -> tuple[list[Deferred], list[Deferred]]:
        """Of what the queue delivered, what is to be tried, and what is of no account any more."""
        now: dict[str, Deferred] = {}
        stale = []
        for entry in due:
            known = self.open.get(entry.ident)
            if known is None or known.tries != entry.tries or entry.ident in now:
                stale.append(entry)
            else:
                now[entry.ident] = entry
        return list(now.values()), stale

    def tried(self, entries: Iterable[Deferred], again: Collection[str], now: float, luck: float) -> Outcome:
        """Rows were sent again; those in `again` were refused once more, the others are where they belong.

        A row that one node takes again may be a dead letter for another, which has refused it once more, too.
        """
        out = Outcome(confirm=list(entries))
        out.bury += [(self.dead[i].hold, self.dead[i].tries) for i in again if i in self.dead]
        for entry in out.confirm:
            known = self.open.pop(entry.ident, None)
            if known is None or entry.ident not in again:
                continue
            tries = entry.tries + 1
            if tries >= self.plan.tries:
                known.tries = tries
                self._give_up(entry.ident, known, out)
            else:
                self._again(entry.ident, known, tries, now + self.plan.pause(tries, luck), out)
        return out

    def postponed(self, entries: Iterable[Deferred], now: float, luck: float) -> Outcome:
        """Rows could not be sent now: a node is away or paused. That is no try."""
        out = Outcome(confirm=list(entries))
        for entry in out.confirm:
            if known := self.open.get(entry.ident):
                self._again(entry.ident, known, entry.tries, now + self.plan.pause(0, luck), out)
        return out

    def _again(self, ident: str, known: OpenHold, tries: int, due: float, out: Outcome) -> None:
        known.tries, known.due = tries, due
        self.open[ident] = known
        out.defer.append(Deferred(ident, tries, due))

    def _give_up(self, ident: str, known: OpenHold, out: Outcome) -> None:
        self.dead[ident] = known
        out.bury.append((known.hold, known.tries))

    def _crossed(self) -> list[str]:
        """Rows whose origin refuses another version of the same row: a person must say which is right."""
        refused: dict[tuple[str, bytes], set[str]] = {}
        for one in (*self.open.values(), *self.dead.values()):
            refused.setdefault((one.hold.table, one.hold.key), set()).add(one.hold.node)
        return [i for i, o in self.open.items() if o.hold.origin in refused[o.hold.table, o.hold.key]]


def is_hopeless(hold: HoldRecord) -> bool:
    """Whether sending the row again is of no use: what cannot be read flows once it is written anew."""
    return hold.origin == hold.node or not hold.key
