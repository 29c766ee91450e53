"""What the end of the audit log must give to each of several replicas, through Redis or not."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import redis

from api.stream import MESSAGE_RECORDS, End, Hub, Listener
from cluster.servers.process import free_port
from cluster.sharing.address import RedisConfig
from cluster.sharing.feed import SharedFeed, packed, packed_places, unpacked
from replication.audit.feed import Added, Feed
from replication.audit.query import Query, page
from replication.audit.writer import AuditWriter
from tests.fixtures.redis import RedisServer, local_server
from tests.unit.audit_records import SMALL, changes

STREAM = "changes/orders"
PATIENCE = 120.0
OpenEnd = Callable[[], End]


class Log:
    """An audit log that a test writes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = AuditWriter(folder, "g", count(1).__next__, rolling=SMALL)
        self.written = 0

    def write(self, records: int, table: str = "orders") -> None:
        orders = range(self.written + 1, self.written + records + 1)
        self.writer.add_changes("pg", 0, table, changes(orders))
        self.writer.flush()
        self.written += records


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    log.write(10)
    yield log
    log.writer.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One to be killed."""
    with local_server() as found:
        yield found


@pytest.fixture(params=["log", "redis", "away"])
def opened(request: pytest.FixtureRequest, log: Log) -> Iterator[OpenEnd]:
    """Opens ends of one log: as several replicas have them."""
    with ExitStack() as stack:
        group, kind = f"t{time.time_ns()}", request.param
        url = request.getfixturevalue("redis_url") if kind == "redis" else f"redis://127.0.0.1:{free_port()}"

        def open_end() -> End:
            end: End = Feed(log.folder)
            if kind != "log":
                end = SharedFeed(RedisConfig(url), group, lambda: Feed(log.folder))
            return stack.enter_context(closing(end))

        yield open_end


class Reader:
    """What one replica was given."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.began = dict(end.places)
        self.found: list[int] = []

    def look(self) -> None:
        for added in self.end.new():
            if added.stream == STREAM:
                assert added.place == self.began[STREAM] + len(self.found), "the next in the stream"
                self.found += added.rows.column("id").to_pylist()

    def wait(self, others: list[Reader], last: int) -> None:
        """Until it has the record `last`; the others look, too."""
        deadline = time.monotonic() + PATIENCE
        while not self.found or self.found[-1] < last:
            for reader in (self, *others):
                reader.look()
            assert time.monotonic() < deadline, f"{self.found[-3:]} of {last}"
            time.sleep(0.005)


def test_each_is_given_everything_once_in_order(opened: OpenEnd, log: Log) -> None:
    readers = [Reader(opened()) for _ in range(3)]
    for reader in readers:
        reader.look()
    for _ in range(20):
        log.write(random.randint(1, 30))
        readers[random.randrange(3)].look()
    for reader in readers:
        reader.wait(readers, log.written)
        assert reader.found == list(range(11, log.written + 1))
        assert reader.end.gaps == 0
        assert reader.end.places[STREAM] == log.written


def test_a_stream_that_is_new_comes_from_its_beginning(opened: OpenEnd, log: Log) -> None:
    ends = [opened(), opened()]
    found: list[list[tuple[str, int]]] = [[], []]
    for end in ends:
        end.new()
    log.write(7, "rare")
    deadline = time.monotonic() + PATIENCE
    while not all(found):
        for number, end in enumerate(ends):
            found[number] += [(a.stream, a.place) for a in end.new()]
        assert time.monotonic() < deadline
    assert found == [[("changes/rare", 0)]] * 2


def shared(server: RedisServer, log: Log, opens: list[int]) -> SharedFeed:
    def open_log() -> Feed:
        opens.append(1)
        return Feed(log.folder)

    return SharedFeed(RedisConfig(server.url), "shop", open_log, lease=60)


def settle(*feeds: SharedFeed) -> list[SharedFeed]:
    """Until one of them alone reads the log; gives that one first."""
    deadline = time.monotonic() + PATIENCE
    while [feed.reads for feed in feeds].count(True) != 1:
        for feed in feeds:
            feed.new()
        assert time.monotonic() < deadline, "both read"
        time.sleep(0.01)
    return sorted(feeds, key=lambda feed: not feed.reads)


def test_one_reads_the_log_and_is_followed_by_another(server: RedisServer, log: Log) -> None:
    opens: list[int] = []
    with closing(shared(server, log, opens)) as a, closing(shared(server, log, opens)) as b:
        first, second = settle(a, b)
        one, other = Reader(first), Reader(second)
        for _ in range(5):
            log.write(20)
            other.wait([one], log.written)
        assert len(opens) == 2, "one for each at the beginning, and no more"
        assert not second.reads
        first.close()
        log.write(20)
        second.new()
        assert second.reads
        assert second.places[STREAM] == log.written, "listeners fetch what is between from the log"
        assert second.gaps == 1
        other = Reader(second)
        log.write(20)
        other.wait([], log.written)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_outage_loses_nothing_of_whoever_reads_itself_and_is_over_by_itself(
    server: RedisServer, log: Log, how: str
) -> None:
    with closing(shared(server, log, [])) as a, closing(shared(server, log, [])) as b:
        first, second = settle(a, b)
        one = Reader(first)
        server.kill() if how == "kill" else server.stop()
        log.write(30)
        one.wait([], log.written)
        assert first.gaps == 0
        second.new()
        assert second.reads, "each reads for itself"
        assert second.places[STREAM] == log.written
        gaps, ended = second.gaps, dict(second.places)
        server.start()
        settle(first, second)
        other = Reader(second)
        assert other.began == ended
        log.write(30)
        other.wait([one], log.written)
        one.wait([other], log.written)
        assert one.found == list(range(11, log.written + 1))
        assert (second.gaps, first.gaps) == (gaps, 0)


async def take(listener: Listener, wanted: int) -> list[int]:
    found: list[int] = []
    while len(found) < wanted:
        found += [r["id"] for r in json.loads(await listener.next())["records"]]
    return found


def test_a_listener_misses_nothing_though_its_replica_does(server: RedisServer, log: Log) -> None:
    """Redis cuts the followers off again and again, and keeps nothing for them; who reads the log leaves."""

    async def run() -> None:
        reader, *hubs = (Hub(lambda: shared(server, log, []), 200) for _ in range(3))
        for hub in (reader, *hubs):
            await hub.join(Query())
        pages = partial(page, log.folder, Query(), MESSAGE_RECORDS)
        listeners = [Listener(hub, Query(), pages, None) for hub in hubs]
        began = log.written
        tasks = [asyncio.create_task(take(listener, 40 * 25)) for listener in listeners]
        with redis.Redis.from_url(server.url) as admin:
            for number in range(40):
                log.write(25)
                if number == 20:
                    reader.leave(Query())
                if number % 4 == 0:
                    admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.02)
        found = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        assert found == [list(range(began + 1, log.written + 1))] * 2
        for hub in hubs:
            hub.leave(Query())

    asyncio.run(run())


def test_messages_come_as_they_were_sent() -> None:
    rows = changes(range(1, 50))
    head, added = unpacked(packed("me", Added(STREAM, 7, rows.slice(10, 20))))
    assert head == {"from": "me", "stream": STREAM, "place": 7}
    assert added == Added(STREAM, 7, rows.slice(10, 20))
    assert unpacked(packed_places("me", {STREAM: 3})) == ({"from": "me", "places": {STREAM: 3}}, None)
