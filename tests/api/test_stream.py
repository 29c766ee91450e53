"""The live stream of the audit log: filters, cursors, and clients that do not keep up."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from api.app import create_app
from api.stream import MESSAGE_RECORDS, READERS, Hub, Listener
from replication.audit.feed import Feed
from replication.audit.query import Query, page
from replication.audit.writer import AuditWriter
from tests.fixtures.api_bed import Bed
from tests.unit.audit_records import SMALL, changes


@pytest.fixture
def client(bed: Bed) -> Iterator[TestClient]:
    """An auditor, all of whose connections are in one loop, as they are in a replica."""
    with TestClient(create_app(bed.backend), headers=bed.keys.bearer("auditor")) as found:
        yield found


def names(socket: WebSocketTestSession, wanted: int) -> tuple[list[str], str]:
    """The names in so many records, and the cursor after them."""
    found: list[str] = []
    cursor = ""
    while len(found) < wanted:
        message = json.loads(socket.receive_text())
        found += [r["name"] for r in message["records"]]
        cursor = message["next"]
    return found, cursor


def test_records_come_as_they_are_recorded_and_only_those_that_are_wanted(
    bed: Bed, client: TestClient
) -> None:
    bed.write("a", 1, "before")
    bed.wait_row("b", 1, "before")
    with (
        client.websocket_connect("/audit/stream?kind=change&node=a") as socket,
        client.websocket_connect("/audit/stream?kind=change&key=3") as other,
    ):
        for key, name in ((2, "two"), (3, "three")):
            bed.write("a", key, name)
        assert names(socket, 2)[0] == ["two", "three"]
        assert names(other, 1)[0] == ["three"]
        bed.write("b", 4, "of b")
        bed.write("a", 5, "five")
        assert names(socket, 1)[0] == ["five"]
    record = client.get("/audit/logs?kind=change&key=3").json()["records"][0]
    assert client.get(f"/audit/proof/{record['_id']}").status_code in (200, 404)


def test_a_cursor_goes_on_without_a_gap_and_without_a_repetition(bed: Bed, client: TestClient) -> None:
    for key in range(3):
        bed.write("a", key, f"n{key}")
    bed.wait_row("b", 2, "n2")
    first = client.get("/audit/logs?kind=change&limit=1").json()["next"]
    with client.websocket_connect(f"/audit/stream?kind=change&cursor={first}") as socket:
        found, cursor = names(socket, 2)
        assert found == ["n1", "n2"], "what is there already"
        bed.write("a", 3, "n3")
        found, cursor = names(socket, 1)
        assert found == ["n3"], "and what comes"
    for key in range(4, 9):
        bed.write("a", key, f"n{key}")
    bed.wait_row("b", 8, "n8")
    with client.websocket_connect(f"/audit/stream?kind=change&cursor={cursor}") as socket:
        assert names(socket, 5)[0] == ["n4", "n5", "n6", "n7", "n8"]


def test_a_browser_sends_its_token_as_subprotocol(bed: Bed) -> None:
    token = bed.keys.token("auditor")
    with (
        bed.client(None) as client,
        client.websocket_connect("/audit/stream", subprotocols=["bearer", token]) as socket,
    ):
        assert socket.accepted_subprotocol == "bearer"


def test_a_stream_ends_with_its_token(bed: Bed) -> None:
    headers = bed.keys.bearer("auditor", exp=int(time.time()) - 1)  # within the leeway of clocks
    with (
        bed.client(None) as client,
        client.websocket_connect("/audit/stream", headers=headers) as socket,
        pytest.raises(WebSocketDisconnect) as ended,
    ):
        socket.receive_text()
    assert (ended.value.code, ended.value.reason) == (1008, "the token has expired")


@pytest.mark.parametrize("asked", ["cursor=nonsense", "since=soon", "kind=nix", "tabel=orders"])
def test_what_cannot_be_asked_is_refused(client: TestClient, asked: str) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/audit/stream?{asked}"),
    ):
        pass


class Log:
    """An audit log that a test writes to, and listeners to it."""

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder = folder
        self.writer = AuditWriter(folder, "g", count(1).__next__, rolling=SMALL)
        self.hub = Hub(lambda: Feed(folder), kept)
        self.written = 0

    def write(self, records: int, table: str = "orders") -> None:
        orders = range(self.written + 1, self.written + records + 1)
        self.writer.add_changes("pg", 0, table, changes(orders))
        self.writer.flush()
        self.written += records

    def listener(self, query: Query, places: dict[str, int] | None = None) -> Listener:
        pages = partial(page, self.folder, query, MESSAGE_RECORDS)
        return Listener(self.hub, query, pages, places)

    async def read_all(self) -> None:
        """Wait until the hub has read what was written."""
        while self.hub.places.get("changes/orders", 0) < self.written:
            changed = self.hub.changed
            if self.hub.places.get("changes/orders", 0) < self.written:
                await changed.wait()


async def take(listener: Listener, wanted: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < wanted:
        found += [r["id"] for r in json.loads(await listener.next())["records"]]
    return found


def test_a_client_that_falls_behind_catches_up_from_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        log = Log(tmp_path, 20)
        await log.hub.join(Query())
        try:
            quick, slow = log.listener(Query()), log.listener(Query())
            for _ in range(30):
                log.write(10)
                await log.read_all()
                assert await take(quick, 10) == list(range(log.written - 9, log.written + 1))
            assert quick.caught_up == 0
            assert sum(b.count for b in log.hub._ring) <= 20, "nothing is kept for who is slow"
            assert await take(slow, 300) == list(range(1, 301))
            assert slow.caught_up > 0
            before = slow.caught_up
            log.write(5)
            assert await take(slow, 5) == list(range(301, 306))
            assert slow.caught_up == before, "live again"
        finally:
            log.hub.leave(Query())
            log.writer.close()

    asyncio.run(run())


def test_the_end_of_the_log_is_looked_for_once_however_many_come_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        log, feeds = Log(tmp_path, 20), []

        def feed() -> Feed:
            feeds.append(Feed(log.folder))
            return feeds[-1]

        log.write(1)
        hub = Hub(feed)
        await asyncio.gather(*(hub.join(Query()) for _ in range(20)))
        for _ in range(20):
            hub.leave(Query())
        assert len(feeds) == 1
        log.writer.close()

    asyncio.run(run())


def test_few_read_the_log_at_once_however_many_catch_up(tmp_path: Path) -> None:
    """Each read takes memory for a good part of a segment."""

    async def run() -> None:
        log = Log(tmp_path, 1)
        log.write(20)
        at_once, most = threading.Semaphore(READERS), []

        def pages(cursor: str) -> Any:
            alone = at_once.acquire(blocking=False)
            most.append(alone)
            try:
                return page(log.folder, Query(), MESSAGE_RECORDS, cursor)
            finally:
                if alone:
                    at_once.release()

        await log.hub.join(Query())
        try:
            slow = [Listener(log.hub, Query(), pages, {}) for _ in range(20)]
            found = await asyncio.gather(*(take(each, 20) for each in slow))
            assert all(each == list(range(1, 21)) for each in found)
            assert len(most) >= 20
            assert all(most), "more than that were at it"
        finally:
            log.hub.leave(Query())
            log.writer.close()

    asyncio.run(run())


def test_who_catches_up_while_records_come_misses_none_and_sees_none_twice(tmp_path: Path) -> None:
    async def run() -> None:
        log = Log(tmp_path, 50)
        log.write(2_000)
        await log.hub.join(Query())
        try:
            listener = log.listener(Query(table="orders"), {})
            found: list[Any] = []
            for _ in range(40):
                log.write(7)
                found += await take(listener, 1)
            found += await take(listener, log.written - len(found))
            assert found == list(range(1, log.written + 1))
        finally:
            log.hub.leave(Query())
            log.writer.close()

    asyncio.run(run())


def test_a_rare_record_is_found_live_after_catching_up(tmp_path: Path) -> None:
    async def run() -> None:
        log = Log(tmp_path, 50)
        log.write(200)
        await log.hub.join(Query())
        try:
            listener = log.listener(Query(table="rare"), {})
            waiting = asyncio.create_task(listener.next())
            log.write(300)
            log.write(1, "rare")
            message = json.loads(await waiting)
            assert [r["_id"] for r in message["records"]] == ["changes/rare/0"]
        finally:
            log.hub.leave(Query())
            log.writer.close()

    asyncio.run(run())


def test_the_places_of_a_feed_are_those_of_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path, 50)
    for _ in range(20):
        log.write(100)
    feed = Feed(tmp_path)
    assert feed.places == {"changes/orders": 2_000}
    assert feed.new() == []
    log.write(100)
    log.write(1, "new")
    found = {(a.stream, a.place, a.rows.num_rows) for a in feed.new()}
    assert found == {("changes/orders", 2_000, 100), ("changes/new", 0, 1)}
    log.writer.close()
    assert feed.new() == []
    assert feed.places == {"changes/orders": 2_100, "changes/new": 1}
