"""The end of the audit log for several replicas: one of them reads it, the others hear of it from Redis.

    log ─▶ Feed of the replica that has the key `reader` ─▶ channel ─▶ the others

Whoever reads says twice a second how far it is. Redis keeps nothing of a channel: who has missed something
sees it by the places, and goes on at the log's end; listeners fetch what is between from the log, as those
that are slow do. Where Redis is away, every replica reads the log. Two readers at once are harmless: what
comes twice is known by its place.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa
import redis

from cluster.sharing.address import RedisConfig
from cluster.sharing.redis import RedisAway, connect, prefix, reached
from replication.audit.feed import Added, Feed

log = logging.getLogger(__name__)
LEASE_SECONDS = 3.0
"""A reader that is lost is followed by another after that. Where nothing comes for twice as long, the way
from Redis to here is cut."""
TELL_SECONDS = 0.5
MESSAGE_ROWS = 2_000
PAUSE_SECONDS = 1.0
"""So long the log is read without asking for Redis again, once it was away."""


class SharedFeed:
    """See `Feed`: the same for a replica among several. Used by one thread at a time.

    Args:
        config: where Redis is.
        group: the group's name.
        open_log: opens the log at its end.
        clock: monotonic seconds.
        lease: see `LEASE_SECONDS`.
    """

    def __init__(
        self,
        config: RedisConfig,
        group: str,
        open_log: Callable[[], Feed],
        clock: Callable[[], float] = time.monotonic,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._clock, self._open_log, self._lease = clock, open_log, lease
        self._name = uuid.uuid4().hex
        self._key, self._channel = f"{prefix(group)}reader", f"{prefix(group)}records"
        self._client = connect(config)
        self._heard: Any = None
        self._log: Feed | None = None
        self._told = self._retry = 0.0
        self._last = clock()
        self.gaps = 0
        """How often something was missed, so that `places` went on to the log's end."""
        self.places: dict[str, int] = {}
        """As those of `Feed`."""
        with suppress(RedisAway):
            self._listen()  # before the log's end is looked at, so that nothing is between
        self._log = open_log()
        self.places = dict(self._log.places)

    @property
    def reads(self) -> bool:
        """Whether this one reads the log itself."""
        return self._log is not None

    def new(self) -> list[Added]:
        """What was added since the last call."""
        found: list[Added] = []  # filled step by step: what was taken is given, whatever fails then
        try:
            if self._clock() >= self._retry:
                if self._leads():
                    self._lead(found)
                else:
                    self._follow(found)
                return found
        except RedisAway as away:
            log.warning("feed_alone", extra={"error": away.message})
            self._retry = self._clock() + PAUSE_SECONDS
            self._unlisten()
        self._read(found)
        return found

    def close(self) -> None:
        """Let another one read."""
        with suppress(RedisAway), reached():
            if self._client.get(self._key) == self._name.encode():
                self._client.delete(self._key)
        self._unlisten()
        with suppress(redis.RedisError, OSError):
            self._client.close()

    def _leads(self) -> bool:
        """Whether it is this one that reads; asked twice a second by the one that does."""
        if self._told and self._clock() - self._told < TELL_SECONDS:
            return True
        with reached():
            lease = int(1000 * self._lease)
            if self._client.set(self._key, self._name, nx=True, px=lease):
                return True
            mine = self._client.get(self._key) == self._name.encode()
            if mine:
                self._client.pexpire(self._key, lease)
            else:
                self._told = 0.0
        return mine

    def _lead(self, found: list[Added]) -> None:
        self._unlisten()
        self._read(found)
        now = self._clock()
        with reached():
            for added in found:
                for part in _parts(added):
                    self._client.publish(self._channel, packed(self._name, part))
            if found or now - self._told >= TELL_SECONDS:
                self._client.publish(self._channel, packed_places(self._name, self.places))
                self._told = now

    def _follow(self, found: list[Added]) -> None:
        """Take what the reader has told. Where that does not go on from here, read the log once."""
        if self._heard is None:
            self._listen()
        while (message := self._next()) is not None:
            self._last = self._clock()
            head, added = unpacked(message)
            if head["from"] == self._name:
                continue
            ends = head["places"] if added is None else {added.stream: added.place}
            if any(place > self.places.get(stream, 0) for stream, place in ends.items()):
                self._read(found)
            elif added is None:
                self._log = None
            if added is not None:
                self._take(added, found)
        if self._clock() - self._last > 2 * self._lease:
            why = "nothing was heard of the replica that reads the audit log"
            raise RedisAway(why)

    def _take(self, added: Added, found: list[Added]) -> None:
        """Add what is new of it."""
        known = self.places.get(added.stream, 0) - added.place
        if known < added.rows.num_rows:
            skip = max(0, known)
            found.append(Added(added.stream, added.place + skip, added.rows.slice(skip)))
            self.places[added.stream] = added.place + added.rows.num_rows

    def _read(self, found: list[Added]) -> None:
        if self._log is None:
            self._log = self._open_log()
            for stream, place in self._log.places.items():
                if place > self.places.get(stream, 0):
                    self.places[stream] = place
                    self.gaps += 1
        for added in self._log.new():
            self._take(added, found)

    def _listen(self) -> None:
        with reached():
            heard: Any = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            heard.subscribe(self._channel)
            heard.get_message(timeout=1.0)
        self._heard, self._last = heard, self._clock()

    def _unlisten(self) -> None:
        if self._heard is not None:
            with suppress(redis.RedisError, OSError):
                self._heard.close()
            self._heard = None

    def _next(self) -> bytes | None:
        with reached():
            while (message := self._heard.get_message(timeout=0)) is not None:
                if message["type"] == "message":
                    return bytes(message["data"])
        return None


def _parts(added: Added) -> Iterator[Added]:
    """In messages of a size that Redis keeps for whoever is slow."""
    for start in range(0, added.rows.num_rows, MESSAGE_ROWS):
        yield Added(added.stream, added.place + start, added.rows.slice(start, MESSAGE_ROWS))


def packed(name: str, added: Added) -> bytes:
    """Records as they travel: a line of JSON, then Arrow's stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, added.rows.schema) as writer:
        writer.write_batch(added.rows)
    head = orjson.dumps({"from": name, "stream": added.stream, "place": added.place})
    return head + b"\n" + bytes(sink.getvalue())


def packed_places(name: str, places: Mapping[str, int]) -> bytes:
    """How far the reader is."""
    return orjson.dumps({"from": name, "places": dict(places)}) + b"\n"


def unpacked(message: bytes) -> tuple[dict[str, Any], Added | None]:
    """The head of a message, and the records in it, if it has any."""
    head_bytes, _, body = message.partition(b"\n")
    head: dict[str, Any] = orjson.loads(head_bytes)
    if not body:
        return head, None
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        rows = pa.Table.from_batches(list(reader), reader.schema).combine_chunks().to_batches()
    if not rows:
        return head, None
    return head, Added(head["stream"], head["place"], rows[0])
