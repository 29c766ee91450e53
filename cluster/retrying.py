"""Sends rows that a node refuses again, by itself, until the node takes them or it gives up.

A thread of `up`. It learns from the audit log what is on hold, keeps in a `RetryStore` when each row is to be
tried again, and sends what is due as `dlq retry` does: read again where it was written, through the running
group, so that what applications write meanwhile wins and nothing is applied twice. Nobody waits for it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.lately import Lately
from actors.remote import Handle
from cluster.locks import RETRY_LOCK_FILE, alone
from cluster.running import ANSWER_SECONDS, RunningGroup
from replication.audit.holds import DEAD_LETTER, HoldRecord, full_id
from replication.engine import Engine
from replication.errors import SyncError, Terminal
from replication.retries import (
    Agenda,
    DeadLetter,
    Deferred,
    Outcome,
    RetryPlan,
    RetryStatus,
    RetryStore,
)
from replication.schema import Table

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
ROUND_SECONDS = 30.0
"""Longest time for which rows are waited for; operators wait for it, too."""
FAILED_SECONDS = 10.0
RECKON_SECONDS = 600.0
READ_SECONDS = 600.0
FIELDS = HoldRecord.__dataclass_fields__


class Unfinished(Terminal):
    """Rows are not everywhere yet, and nobody waits for them any longer."""


@dataclass(frozen=True, slots=True)
class RetryWork:
    """What a `Retrier` works on.

    Attributes:
        tables: the mapped tables.
        engines: node name to engine.
        parts: the group's parts, by name.
        plan: when rows are sent again.
        folder: the audit log's, for the lock that commands take, too.
        clear: dead letters may say which row it is and why.
    """

    tables: Sequence[Table]
    engines: Mapping[str, Engine]
    parts: Mapping[str, Handle]
    plan: RetryPlan
    folder: Path
    clear: bool


class Retrier:
    """Sends rows again. `step` does what is due; `start` does that again and again in a thread.

    Args:
        work: see there.
        store: where it is kept what is due when; opened in the thread, and closed there.
        clock: seconds since 1970.
        luck: a number from 0 to 1.
    """

    def __init__(
        self,
        work: RetryWork,
        store: Callable[[], RetryStore],
        clock: Callable[[], float] = time.time,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._tables = {t.name: t for t in work.tables}
        self._open_store = store
        self._store: RetryStore | None = None
        self._clock, self._luck = clock, luck
        self._group = RunningGroup(work.engines, lambda: work.parts, meanwhile=self._in_time)
        self._agenda = Agenda(work.plan)
        self._lately = Lately("", 0, (), 0)
        self._connections = -1
        self._reckon_at = self._deadline = 0.0
        self._told: RetryStatus | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retries", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, without waiting for rows that are on their way."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(ANSWER_SECONDS)

    def step(self) -> None:
        """Learn what is new, send what is due, and say how it stands.

        Raises:
            SyncError: a part of the group is being made again; try again.
        """
        store = self._opened()
        self._learn(store)
        chosen, stale = self._agenda.chosen(store.due(self._clock()))
        store.confirm(stale)
        if chosen:
            self._try(store, chosen)
        self._tell(store)

    def let_go(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _run(self) -> None:
        try:
            while not self._stopping.wait(LOOK_SECONDS):
                try:
                    self.step()
                except (SyncError, TimeoutError) as error:
                    log.info("retries_wait", extra={"error": str(error)})
                    self._lately = Lately("", 0, (), 0)  # begin from the audit log
                except Exception:  # the disk is full, say; the group goes on, and so do retries once they can
                    if self._stopping.is_set():
                        return
                    log.exception("retries_failed")
                    self._lately = Lately("", 0, (), 0)
                    self._stopping.wait(FAILED_SECONDS)
        finally:
            self.let_go()

    def _opened(self) -> RetryStore:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _learn(self, store: RetryStore) -> None:
        """What was set aside since the last look, or all of it where something may have been missed."""
        before = self._lately
        self._lately = lately = self._news()
        if lately.asked != before.asked:
            self._reckon_at = 0.0
        missed = lately.run != before.run or store.health().connections != self._connections
        if missed or (self._clock() >= self._reckon_at and self._nobody_else_acts()):
            self._begin(store)
            self._connections = store.health().connections
        else:
            self._carry_out(store, self._agenda.held(lately.holds, self._clock(), self._luck()))

    def _begin(self, store: RetryStore) -> None:
        """Compare what is on hold with what the store has, and put right what differs."""
        holds: list[dict[str, Any]] = self._call("open_holds", seconds=READ_SECONDS)
        mapped = [h for h in holds if h["table"] in self._tables and h["origin"] in self._work.engines]
        records = {h["id"]: HoldRecord(**{name: h[name] for name in FIELDS}) for h in mapped}
        given_up = [(records[h["id"]], h["dead_after"]) for h in mapped if h["dead_after"] is not None]
        dead = {_ident(hold): tries for hold, tries in given_up}
        now = self._clock()
        kept = store.recall(now)
        self._carry_out(store, self._agenda.begin(records.values(), dead, kept, now, self._luck()))
        there = {letter.ident for letter in store.buried()}
        store.take(there - self._agenda.dead.keys())
        store.bury([self._letter(hold, tries) for hold, tries in given_up if _ident(hold) not in there])
        self._reckon_at = now + RECKON_SECONDS if holds else float("inf")

    def _nobody_else_acts(self) -> bool:
        """Whether no command is at work, which may end what is on hold."""
        try:
            with alone(self._work.folder, RETRY_LOCK_FILE):
                return True
        except Terminal:
            return False

    def _try(self, store: RetryStore, chosen: Sequence[Deferred]) -> None:
        """Send rows again, and see which are refused once more."""
        parts: dict[tuple[str, str], list[Deferred]] = defaultdict(list)
        for entry in chosen:
            hold = self._agenda.open[entry.ident].hold
            parts[hold.table, hold.origin].append(entry)
        sent: list[Deferred] = []
        late: list[Deferred] = []
        self._deadline = time.monotonic() + ROUND_SECONDS
        for (table, origin), entries in parts.items():
            (sent if self._send(table, origin, entries) else late).extend(entries)
        if late:
            self._carry_out(store, self._agenda.postponed(late, self._clock(), self._luck()))
        if sent:
            self._see(store, sent)

    def _see(self, store: RetryStore, sent: Sequence[Deferred]) -> None:
        """What became of rows that were sent again."""
        self._group.settle()
        places = {(o.hold.table, o.hold.key) for e in sent if (o := self._agenda.open.get(e.ident))}
        lately, now, luck = self._news(), self._clock(), self._luck()
        if lately.run != self._lately.run:  # what was refused may not be among the news
            self._carry_out(store, self._agenda.postponed(sent, now, luck))
            return
        self._lately = lately
        mine = [h for h in lately.holds if (h.table, h.key) in places]
        again = {_ident(h) for h in mine}
        outcome = self._agenda.tried(sent, again, now, luck)
        others = self._agenda.held([h for h in lately.holds if h not in mine], now, luck)
        refused = sum(e.ident in again for e in sent)
        log.info("rows_retried", extra={"rows": len(sent), "refused": refused})
        self._carry_out(store, outcome)
        self._carry_out(store, others)

    def _news(self) -> Lately:
        news: Lately = self._call("held_since", self._lately.run, self._lately.until)
        return news

    def _send(self, table: str, origin: str, entries: Sequence[Deferred]) -> bool:
        """Send rows of one table from one node; whether they are everywhere, or refused again."""
        keys = [self._agenda.open[e.ident].hold.key for e in entries]
        try:
            with self._allowed():
                self._group.copy_keys(self._tables[table], origin, list(dict.fromkeys(keys)), deletes=True)
        except (SyncError, TimeoutError) as error:
            log.info("retry_postponed", extra={"table": table, "node": origin, "error": str(error)})
            return False
        return True

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        """No command is at work, and every node is there: what is sent must be everywhere soon.

        Raises:
            Terminal: not now.
        """
        with alone(self._work.folder, RETRY_LOCK_FILE):
            if node := self._group.lagging():
                message = "the node is away, or catches up"
                raise Unfinished(message, node=node)
            yield

    def _in_time(self) -> None:
        if self._stopping.is_set() or time.monotonic() > self._deadline:
            message = "the rows are not everywhere yet"
            raise Unfinished(message)

    def _carry_out(self, store: RetryStore, outcome: Outcome) -> None:
        """What follows is durable before what it follows from is confirmed."""
        store.defer(outcome.defer, self._clock())
        if outcome.bury:
            log.warning(
                "dead_letters", extra={"rows": len(outcome.bury), "reason": outcome.bury[0][0].reason}
            )
            named = [
                {"node": h.node, "table": h.table, "key": h.key.hex(), "tries": tries}
                for h, tries in outcome.bury
            ]
            store.bury([self._letter(hold, tries) for hold, tries in outcome.bury])
            self._group.note(DEAD_LETTER, named)
        store.confirm(outcome.confirm)

    def _letter(self, hold: HoldRecord, tries: int) -> DeadLetter:
        letter = DeadLetter(_ident(hold), tries, self._clock(), hold.node, hold.table, hold.origin)
        return replace(letter, key=hold.key_text, reason=hold.reason) if self._work.clear else letter

    def _tell(self, store: RetryStore) -> None:
        waiting = self._agenda.open.values()
        first = min((o.due for o in waiting), default=0.0)
        status = RetryStatus(len(waiting), first, len(self._agenda.dead), store.health())
        if status != self._told:
            self._call("tell_retries", status)
            self._told = status

    def _call(self, method: str, *args: object, seconds: float = ANSWER_SECONDS) -> Any:
        return self._work.parts["audit"].call(method, *args).result(seconds)


def _ident(hold: HoldRecord) -> str:
    return full_id(hold.node, hold.table, hold.key)
