"""The live stream of the audit log: one reader of its end for all clients, and memory that does not grow.

    log ─▶ Feed ─▶ ring of the newest records ─▶ each client's place in it
                                                  └─ behind the ring: catches up from the log by itself

A message is made when what was sent before it has gone to the client's connection. So nothing is kept for a
client that does not read: its place stays, and when it goes on, it goes on from the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from threading import Thread
from typing import NamedTuple, Protocol

import anyio.to_thread
import numpy as np
import orjson

from replication.audit.access import View
from replication.audit.feed import Added
from replication.audit.printing import printable
from replication.audit.query import Query, cursor_of

MESSAGE_RECORDS = 500
READERS = 2
"""So many clients catch up from the log at once: each read takes memory for a good part of a segment."""
RING_RECORDS = 20_000
RING_BYTES = 16 << 20
POLL_SECONDS = 0.02


class Batch:
    """Records that came at once, as texts that all clients share whose roles see the same.

    Args:
        added: the records.
        queries: what there are listeners to.
    """

    def __init__(self, added: Added, queries: Iterable[Query] = ()) -> None:
        self.added = added
        self.count = added.rows.num_rows
        self._texts: dict[str, list[bytes]] = {}
        for query in queries:
            if query.wants(added.stream):
                self._as(query.view)
        self.size = sum(len(text) for texts in self._texts.values() for text in texts)

    def wanted(self, query: Query, start: int) -> list[bytes]:
        """The texts of records from a place on that a query means."""
        skip = max(0, start - self.added.place)
        if skip >= self.count or not query.wants(self.added.stream):
            return []
        texts = self._as(query.view)
        if (mask := query.mask(self.added.stream, self.added.rows)) is None:
            return texts[skip:]
        chosen = np.flatnonzero(np.asarray(mask.fill_null(False)))
        return [texts[i] for i in chosen if i >= skip]

    def _as(self, view: View) -> list[bytes]:
        """The texts as a role sees them; made here for one whose first listener has come since."""
        role = view.role if view.limited else ""
        if role not in self._texts:
            self._texts[role] = list(self._printed(view))
        return self._texts[role]

    def _printed(self, view: View) -> Iterator[bytes]:
        stream = self.added.stream
        for number, entry in enumerate(
            printable(stream, view.rows(stream, self.added.rows)), self.added.place
        ):
            ident = {"_id": f"{stream}/{number}", "stream": entry.pop("stream"), "_record": number}
            yield orjson.dumps({**ident, **entry})


class End(Protocol):
    """The end of the log: see `Feed`, and `SharedFeed` where replicas share one."""

    places: dict[str, int]
    gaps: int

    def new(self) -> list[Added]:
        """What was added since the last call."""

    def close(self) -> None:
        """It is needed no more."""


class Made(NamedTuple):
    """A message, or None, and where whoever has had it goes on."""

    message: bytes | None
    live: int
    places: dict[str, int]


class Hub:
    """The newest records of the log, while anybody listens. Used in one event loop.

    Args:
        open_feed: opens the log at its end.
        most: how many records are kept.
    """

    def __init__(self, open_feed: Callable[[], End], most: int = RING_RECORDS) -> None:
        self._open_feed = open_feed
        self._most = most
        self._clients: Counter[Query] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._ring: deque[Batch] = deque()
        self._records = self._bytes = 0
        self.first = self.next = 0
        """The numbers of the oldest batch that is kept, and of the one that comes next."""
        self.places: dict[str, int] = {}
        self.changed = asyncio.Event()
        self.reading = anyio.CapacityLimiter(READERS)
        self.made: dict[Hashable, Made] = {}
        """Messages since the last change: most clients are at the same place, and ask for the same."""

    async def join(self, query: Query) -> None:
        """Somebody listens; returns once the end of the log is known."""
        self._clients[query] += 1
        async with self._joining:  # one reads the log to its end, however many come at once
            if self._task is None or self._task.done():
                feed = await anyio.to_thread.run_sync(self._open_feed)
                self.places = dict(feed.places)
                self._ring.clear()
                self._records = self._bytes = 0
                self.first = self.next
                self._task = asyncio.get_running_loop().create_task(self._run(feed))

    def leave(self, query: Query) -> None:
        """Somebody listens no more."""
        self._clients[query] -= 1
        self._clients += Counter()  # keeps those that are left

    def batch(self, number: int) -> Batch:
        """A batch that is kept."""
        return self._ring[number - self.first]

    def check(self) -> None:
        """Raise what ended the reader, if anything did."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def _run(self, feed: End) -> None:
        gaps = feed.gaps
        try:
            while self._clients:
                found = await anyio.to_thread.run_sync(_read, feed, list(self._clients))
                missed, gaps = feed.gaps != gaps, feed.gaps
                if missed:
                    self._leave_out()
                if found or missed:
                    self._keep(found)
                    self.places = dict(feed.places)
                    self._tell()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._tell()
            Thread(target=feed.close, name="feed end", daemon=True).start()  # it may wait for a server

    def _tell(self) -> None:
        self.made.clear()
        told, self.changed = self.changed, asyncio.Event()
        told.set()

    def _leave_out(self) -> None:
        """Something is missing here: everybody who listens reads the log first."""
        self._ring.clear()
        self._records = self._bytes = 0
        self.next += 1
        self.first = self.next

    def _keep(self, found: list[Batch]) -> None:
        for batch in found:
            self._ring.append(batch)
            self._records += batch.count
            self._bytes += batch.size
            self.next += 1
        while self._ring and (self._records > self._most or self._bytes > RING_BYTES):
            oldest = self._ring.popleft()
            self._records -= oldest.count
            self._bytes -= oldest.size
            self.first += 1


def _read(feed: End, queries: Iterable[Query]) -> list[Batch]:
    found = sorted(feed.new(), key=lambda a: a.rows.column("_recorded")[0].as_py())
    return [Batch(added, queries) for added in found]


PageOf = Callable[[str], tuple[list[dict[str, object]], str]]


class Listener:
    """One client's way through the log: live while it keeps up, else page by page.

    Args:
        hub: the newest records.
        query: which records.
        page: the records after a cursor and the next cursor; empty at the end of the log.
        places: where to begin; None for the end of the log.
    """

    def __init__(self, hub: Hub, query: Query, page: PageOf, places: Mapping[str, int] | None) -> None:
        self._hub = hub
        self._query = query
        self._page = page
        self._live: int | None = hub.next if places is None else None
        self._places = dict(hub.places if places is None else places)
        self.caught_up = 0
        """How often it had to be read from the log."""

    async def next(self) -> bytes:
        """The next message, when there is one."""
        while True:
            self._hub.check()
            changed = self._hub.changed
            if self._live is None or self._live < self._hub.first:
                message = await self._from_log()
            else:
                message = self._from_ring(self._live)
            if message is not None:
                return message
            if self._live is not None and self._live >= self._hub.next:
                await changed.wait()

    async def _from_log(self) -> bytes | None:
        """A page; at the end of the log, live from what the hub had then on."""
        number, ends = self._hub.next, dict(self._hub.places)
        self.caught_up += 1
        cursor = cursor_of(self._places)
        found, _ = await anyio.to_thread.run_sync(self._page, cursor, limiter=self._hub.reading)
        for entry in found:
            self._places[str(entry["stream"])] = int(str(entry["_record"])) + 1
        if len(found) < MESSAGE_RECORDS:
            for stream, place in ends.items():  # what is not wanted was looked at, too
                self._places[stream] = max(place, self._places.get(stream, 0))
            self._live = number
        texts = [orjson.dumps({"_id": f"{e['stream']}/{e['_record']}", **e}) for e in found]
        return self._message(texts) if texts else None

    def _from_ring(self, number: int) -> bytes | None:
        """What the hub has from a batch on, made once for all who are there."""
        place = self._query, number, frozenset(self._places.items())
        if (made := self._hub.made.get(place)) is None:
            message = self._make(number)
            made = self._hub.made[place] = Made(message, self._live or 0, dict(self._places))
        self._live, self._places = made.live, dict(made.places)
        return made.message

    def _make(self, number: int) -> bytes | None:
        texts: list[bytes] = []
        while number < self._hub.next and len(texts) < MESSAGE_RECORDS:
            batch = self._hub.batch(number)
            stream, end = batch.added.stream, batch.added.place + batch.count
            texts += batch.wanted(self._query, self._places.get(stream, 0))
            self._places[stream] = max(end, self._places.get(stream, 0))
            number += 1
        self._live = number
        return self._message(texts) if texts else None

    def _message(self, texts: list[bytes]) -> bytes:
        return b'{"records":[' + b",".join(texts) + b'],"next":"' + cursor_of(self._places).encode() + b'"}'
