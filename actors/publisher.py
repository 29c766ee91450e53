"""Publisher: the shell that hands what the audit log holds to a broker, in order, and keeps how far it came.

    audit log ─▶ StreamReader of each table ─▶ envelope ─▶ broker
                          ▲                                   │ every message confirmed
                          └────────── kafka.json ◀────────────┘

Nobody waits for it. It reads some records of each table, hands them over, waits until the broker has
confirmed all of them, and only then goes on. While the broker is away it waits; the log keeps what it keeps
anyway. When it is made again it begins after the last record that is known to be confirmed, so what was
confirmed since is sent once more. Where the broker refuses a message it begins there again, too, with
growing pauses. Where the machine has too little processor for all that the group does, it leaves that to the
others until it is late by `Work.yield_seconds`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.courtesy import Courtesy
from actors.guard import Guard
from actors.measured import Key, Measured
from replication.audit.feed import Added
from replication.audit.follow import StreamEnd, StreamReader
from replication.audit.published import Published, read_published, write_published
from replication.audit.records import CHANGES
from replication.audit.stored import DataKeys
from replication.breaker import State
from replication.envelope import Message, messages, topic_of
from replication.errors import SyncError, Transient
from replication.schema import TableSchema

log = logging.getLogger(__name__)
AT_ONCE = 5_000
"""So many records are on their way to the broker at a time, all tables together."""
POLL_SECONDS = 0.1
SAVE_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
DRAIN_SECONDS = 10.0
"""At the end, so long for what is left."""
LOOK_SECONDS = 0.1


class _Ended(Exception):
    """The publisher was told to end while it waited for the broker."""


class BrokerAway(Transient):
    """Kafka cannot be reached, does not let us in, or does not take a message. Try again."""


class Broker(Protocol):
    """A connection to Kafka. Used by one thread; after an error it is closed."""

    def prepare(self, topics: Sequence[str]) -> None:
        """See that the topics are there.

        Raises:
            BrokerAway: they are not, and cannot be made now.
        """

    def send(self, found: Sequence[Message]) -> None:
        """Hand messages over; those of one topic and key arrive in this order, each once."""

    def wait(self, seconds: float) -> int:
        """Wait for confirmations; how many are missing.

        Raises:
            BrokerAway: a message was refused. None that was sent after it to its partition arrives.
        """

    def trouble(self) -> str:
        """The last error on the way to the broker; it is tried again by itself."""

    def close(self) -> None:
        """Let go of it; what is not confirmed may arrive or not."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is published.

    Attributes:
        group: the group's name.
        path: the audit log's folder.
        tables: canonical schemas; the log of any other table is left alone.
        keys: opens the keys of a log that is encrypted.
        broker: connects.
        alone: held while publishing, so that nobody else does.
        yield_seconds: see `Courtesy`.
    """

    group: str
    path: Path
    tables: Sequence[TableSchema]
    broker: Callable[[], Broker]
    keys: Callable[[], DataKeys | None] = lambda: None
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    yield_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """What an operator sees.

    Attributes:
        published: records that were confirmed since the publisher began.
        waiting: by table, records that are not confirmed yet.
        behind_seconds: how old the oldest record on its way is; 0 if none is.
        state: `closed`, or `open` while the broker is away.
        since: when it was first found so, ISO 8601 in UTC; empty while it answers.
        error: why.
        missed: records that were removed from the audit log before they were published.
    """

    published: int
    waiting: dict[str, int]
    behind_seconds: float
    state: str
    since: str = ""
    error: str = ""
    missed: int = 0


class Publisher:
    """Publishes. `step` does some of it; `start` does that again and again in a thread.

    Args:
        work: see there.
        guard: decides when to try again.
        clock: seconds since 1970.
        patience: a broker that confirms nothing for so many seconds is away.
    """

    def __init__(
        self,
        work: Work,
        guard: Guard,
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._work, self._guard, self._clock, self._patience = work, guard, clock, patience
        self._schemas = {f"{CHANGES}/{t.name}": t for t in work.tables}
        self._ends = {stream: StreamEnd(work.path, stream) for stream in self._schemas}
        self._readers: dict[str, StreamReader] = {}
        self._broker: Broker | None = None
        self._log = ""
        self._places: dict[str, int] = {}
        self._moved: set[str] = set()
        """The streams of which more is confirmed than is kept."""
        self._saved_at = 0.0
        self._oldest: int | None = None
        self._late = 0.0
        """How long after it was recorded the last one was published."""
        self._published: Counter[str] = Counter()
        self._missed = 0
        self._stopping, self._draining = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Publish what is left, if the broker takes it, and end."""
        self._draining.set()
        if self._thread.ident is not None:
            self._thread.join(DRAIN_SECONDS)
            self._stopping.set()
            self._thread.join()

    def step(self) -> bool:
        """Publish some records; whether there were any.

        Raises:
            BrokerAway: they are not confirmed; the next step begins with them again.
        """
        self._open()
        found = self._read()
        if not found:
            return False
        broker = self._connected()
        self._oldest = min(added.rows.column("_recorded")[0].as_py() for added in found)
        for added in found:
            schema = self._schemas[added.stream]
            broker.send(list(messages(self._work.group, self._log, schema, added)))
        self._confirm(broker)
        self._guard.succeeded()
        self._late, self._oldest = self._clock() - self._oldest / 1_000_000, None
        for added in found:
            self._places[added.stream] = added.place + added.rows.num_rows
            self._published[self._schemas[added.stream].name] += added.rows.num_rows
            self._moved.add(added.stream)
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()
        return True

    def save(self) -> None:
        """Keep how far it came."""
        if self._moved:
            for stream in self._moved & self._readers.keys():
                self._readers[stream].sync()
            write_published(self._work.path, Published(self._log, self._places))
            self._moved.clear()
            self._saved_at = time.monotonic()

    def let_go(self) -> None:
        """Close the connection; the next step begins after what is confirmed."""
        self._readers.clear()
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def status(self) -> PublisherStatus:
        """What an operator sees."""
        guard, oldest = self._guard.status(), self._oldest
        waiting = {
            self._schemas[stream].name: max(0, end.place() - self._places.get(stream, 0))
            for stream, end in self._ends.items()
        }
        behind = 0.0 if oldest is None else max(0.0, self._clock() - oldest / 1_000_000)
        published, state = sum(self._published.values()), "open" if guard.failures else str(State.CLOSED)
        return PublisherStatus(
            published, waiting, round(behind, 1), state, guard.since, guard.error, self._missed
        )

    def measured(self) -> Measured:
        """What it has counted."""
        status = self.status()
        counters: dict[Key, float] = {("kafka_records", t): n for t, n in self._published.copy().items()}
        gauges: dict[Key, float] = {("kafka_lag_records", t): n for t, n in status.waiting.items()}
        gauges["kafka_lag_seconds",] = status.behind_seconds
        gauges["kafka_up",] = status.state == State.CLOSED
        return Measured(counters, gauges)

    def _open(self) -> None:
        """Read on where the broker has confirmed, if nothing is being read."""
        if self._readers:
            return
        work = self._work
        if not self._log:
            published = read_published(work.path)
            self._log, self._places = published.log, dict(published.places)
            write_published(work.path, published)  # a new name of the log, before it is used
        keys = work.keys()
        for stream in self._schemas:
            self._readers[stream] = StreamReader(work.path, stream, self._places.get(stream, 0), keys)

    def _connected(self) -> Broker:
        if self._broker is None:
            self._broker = self._work.broker()
            self._broker.prepare([topic_of(self._work.group, t.name) for t in self._work.tables])
        return self._broker

    def _read(self) -> list[Added]:
        """Some records of each table that has any."""
        found, quota = [], max(1, AT_ONCE // max(1, len(self._readers)))
        for reader in self._readers.values():
            if (added := reader.next(quota)) is not None:
                found.append(added)
            if reader.missed:
                log.error(
                    "kafka_missed", extra={"records": reader.missed, "why": "removed from the audit log"}
                )
                self._missed, reader.missed = self._missed + reader.missed, 0
        return found

    def _confirm(self, broker: Broker) -> None:
        """Wait for the broker."""
        left, since, away = broker.wait(0), time.monotonic(), False
        while left:
            if self._stopping.is_set() or (away and self._draining.is_set()):
                raise _Ended
            before, left = left, broker.wait(LOOK_SECONDS)
            if left < before:
                since = time.monotonic()
            elif time.monotonic() - since > self._patience and not away:
                away = True
                self._guard.failed(BrokerAway(f"kafka: {broker.trouble() or 'it confirms nothing'}"))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._work.alone():
                    self._work_on()
                return
            except _Ended:
                return
            except (
                Exception
            ) as error:  # the disk is full, say; the group goes on, and so does this once it can
                self.let_go()
                if not isinstance(error, SyncError):
                    log.exception("kafka_failed")
                self._guard.failed(error)
                if self._draining.is_set():
                    return
                self._draining.wait(self._guard.pause())

    def _work_on(self) -> None:
        """Step until it is to end."""
        courtesy = Courtesy(self._work.yield_seconds)
        try:
            while not self._stopping.is_set():
                draining = self._draining.is_set()  # what was recorded before is published, too
                courtesy.begin()
                if self.step():
                    self._draining.wait(courtesy.pause(self._late))
                    continue
                self.save()
                if draining:
                    return
                self._draining.wait(POLL_SECONDS)
        finally:
            self.save()
            self.let_go()
