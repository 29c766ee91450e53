"""Connections break, servers end and start again: nothing is lost, nothing comes twice, no secret leaks."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from cluster.servers.mongodb import MongoServer
from cluster.servers.postgres import PostgresServer
from cluster.servers.process import ServerFailed, free_port
from replication.batch import ApplyBatch, Outcome
from replication.change import Changes, Echo, LogEvent, Watermark
from replication.engine import Engine, Source
from replication.engines import load_engine
from replication.errors import NodeUnavailable, SyncError
from replication.marker import Marker
from replication.position import START
from tests.conformance.samples import item, random_transactions
from tests.conformance.tools import (
    INITIAL,
    PATIENCE,
    Peer,
    Write,
    batches,
    changes_in,
    events_of,
    eventually,
)
from tests.fixtures.engines import (
    GROUP,
    NODE,
    EngineHarness,
    MemoryHarness,
    MongoHarness,
    MysqlHarness,
    PostgresHarness,
    node_config,
)
from tests.fixtures.mysql import local_server

SECRET = "hunter2-swordfish"


class Follower:
    """Reads on over every interruption: a new source from the last position, as the capture actor does."""

    def __init__(self, peer: Peer, engine: Engine) -> None:
        self.peer = peer
        self.engine = engine
        self.position = peer.start
        self.events: list[LogEvent] = []
        self.failures = 0
        self.source: Source | None = None

    def follow(self, until: Callable[[LogEvent], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if self.source is None:
                    self.source = self.engine.source(self.peer.harness.mapped, self.position)
                events = self.source.poll(5, 0.5)
            except NodeUnavailable:
                self.failures += 1
                self.close()
                continue
            for event in events:
                self.events.append(event)
                self.position = event.end
            if any(map(until, events)):
                return
        raise AssertionError(f"it did not come; {len(self.events)} events, {self.failures} failures")

    def close(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source = None


def poll_until(source: Source, deadline: float) -> None:
    while time.monotonic() < deadline:
        source.poll(10, 1.0)


def watermark(peer: Peer, ident: str) -> None:
    eventually(lambda: peer.snapshot.write_watermark(ident))


def is_changes(event: LogEvent) -> bool:
    return isinstance(event, Changes)


def is_watermark(ident: str) -> Callable[[LogEvent], bool]:
    return lambda event: isinstance(event, Watermark) and event.ident == ident


def test_a_cut_connection_loses_and_repeats_nothing(harness: EngineHarness, peer: Peer) -> None:
    follower = Follower(peer, harness.remote)
    for number, _ in enumerate(random_transactions(harness, 7, 20)):
        if number % 5 == 4:
            watermark(peer, f"cut {number}")
            # In turn with changes still on their way, which may have arrived already, and with none.
            at_head = number % 2 == 1
            follower.follow(is_watermark(f"cut {number}") if at_head else is_changes)
            harness.cut()
    watermark(peer, "end")
    follower.follow(is_watermark("end"))
    follower.close()
    assert follower.failures >= 2
    assert changes_in(follower.events, harness) == peer.changes()
    assert [e.ident for e in events_of(follower.events, Watermark)] == [
        *(f"cut {n}" for n in (4, 9, 14, 19)),
        "end",
    ]


def test_a_cut_while_waiting_is_noticed(harness: EngineHarness, peer: Peer) -> None:
    with closing(harness.remote.source(harness.mapped, peer.start)) as source:
        harness.insert("items", item(1))
        events: list[LogEvent] = []
        deadline = time.monotonic() + PATIENCE
        while not events_of(events, Changes) and time.monotonic() < deadline:
            events += source.poll(10, 1.0)
        harness.cut()
        with pytest.raises(NodeUnavailable) as caught:
            poll_until(source, deadline)
        assert caught.value.node == harness.engine.node.name


def test_an_applier_tries_again_after_a_cut(harness: EngineHarness, peer: Peer) -> None:
    """The same batch with the same applier, as whoever retries does."""
    outcomes = []
    with closing(harness.remote.applier(harness.mapped, [])) as applier:
        for ident in range(6):
            batch = peer.batch(Write("items", (ident,), item(ident)))
            if ident % 2:
                harness.cut()
            outcomes.append(eventually(partial(applier.apply, batch)).outcome)
            peer.seq += 1
    assert set(outcomes) <= {Outcome.COMMITTED, Outcome.ALREADY}
    assert harness.rows("items").keys() == {(i,) for i in range(6)}
    assert [e.marker.seq for e in events_of(peer.read(), Echo)] == [1, 2, 3, 4, 5, 6]


def test_polling_an_idle_log_returns_in_time(harness: EngineHarness, peer: Peer) -> None:
    with closing(peer.source()) as source:
        peer.drain(source)
        began = time.monotonic()
        source.poll(10, 0.2)
        assert time.monotonic() - began < 5


def test_closing_twice_is_safe(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1))
    source = peer.source()
    peer.drain(source)
    peer.apply(Write("items", (1,), item(1)))
    catalog = harness.engine.catalog()
    catalog.preflight(harness.mapped)
    for part in (source, peer.applier, peer.snapshot, peer.control, catalog):
        part.close()
        part.close()
    for part in (peer.source(), harness.engine.applier(harness.mapped, []), harness.engine.snapshot()):
        part.close()
        part.close()


@contextmanager
def memory_restarts() -> Iterator[tuple[EngineHarness, Callable[[], None]]]:
    harness = MemoryHarness()

    def restart() -> None:
        harness.database.stop()
        harness.database.start()

    try:
        yield harness, restart
    finally:
        harness.close()


@contextmanager
def postgres_restarts() -> Iterator[tuple[EngineHarness, Callable[[], None]]]:
    path = Path(tempfile.mkdtemp(prefix="sync-postgres-"))
    try:
        with PostgresServer(path, settings={"fsync": "off"}) as server:
            harness = PostgresHarness(server.create_database("restarted"))

            def restart() -> None:
                server.kill()
                server.start()
                harness.connect()

            try:
                yield harness, restart
            finally:
                harness.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def mysql_restarts() -> Iterator[tuple[EngineHarness, Callable[[], None]]]:
    with local_server() as server:
        harness = MysqlHarness(server.create_database("restarted"))

        def restart() -> None:
            server.kill()
            server.start()
            harness.connect()

        try:
            yield harness, restart
        finally:
            harness.close()


@contextmanager
def mongodb_restarts() -> Iterator[tuple[EngineHarness, Callable[[], None]]]:
    with tempfile.TemporaryDirectory(prefix="sync-mongodb-") as path, MongoServer(Path(path)) as server:
        harness = MongoHarness(server.dsn("restarted"))
        try:
            yield harness, server.restart
        finally:
            harness.close()


RESTARTS = {
    "memory": memory_restarts,
    "postgres": postgres_restarts,
    "mysql": mysql_restarts,
    "mongodb": mongodb_restarts,
}


@pytest.mark.parametrize("name", list(RESTARTS))
def test_a_restarted_database_loses_and_repeats_nothing(name: str) -> None:
    try:
        with RESTARTS[name]() as (harness, restart), Peer(harness) as peer:
            _restart_under_writes(harness, peer, restart)
    except ServerFailed as error:
        pytest.skip(f"no server of our own to restart: {error}")


def _restart_under_writes(harness: EngineHarness, peer: Peer, restart: Callable[[], None]) -> None:
    follower = Follower(peer, harness.engine)
    applier = harness.engine.applier(harness.mapped, [])
    batch = peer.batch(Write("items", (100,), item(100)))
    assert applier.apply(batch).outcome is Outcome.COMMITTED
    for number, _ in enumerate(random_transactions(harness, 11, 10)):
        if number == 4:
            follower.follow(is_changes)
            restart()
    with closing(applier):
        assert eventually(lambda: applier.apply(batch)).outcome is Outcome.ALREADY
    with closing(harness.engine.snapshot()) as snapshot:
        eventually(lambda: snapshot.write_watermark("end"))
    follower.follow(is_watermark("end"))
    follower.close()
    assert follower.failures >= 1
    assert len(events_of(follower.events, Echo)) == 1
    with closing(harness.engine.source(harness.mapped, peer.start)) as source:
        events: list[LogEvent] = []
        while not any(map(is_watermark("end"), events)):
            events += source.poll(1000, 1.0)
    assert changes_in(follower.events, harness) == changes_in(events, harness)


def test_secrets_never_appear_in_errors(harness: EngineHarness) -> None:
    dsn = {
        "memory": f"memory://sync:{SECRET}@nowhere",
        "postgres": f"postgresql://sync:{SECRET}@127.0.0.1:{free_port()}/shop",
        "mysql": f"mysql://sync:{SECRET}@127.0.0.1:{free_port()}/shop",
        "mongodb": f"mongodb://sync:{SECRET}@127.0.0.1:{free_port()}/shop"
        "?serverSelectionTimeoutMS=200&connectTimeoutMS=200",
    }[harness.name]
    engine = load_engine(node_config(harness.name, dsn), GROUP)
    table = harness.tables["items"]
    rows = batches(harness, [Write("items", (1,), item(1))])
    batch = ApplyBatch(NODE, Marker(GROUP, 0, 1, 1, 1), rows)
    with ExitStack() as stack:
        catalog = stack.enter_context(closing(engine.catalog()))
        control = stack.enter_context(closing(engine.control()))
        snapshot = stack.enter_context(closing(engine.snapshot()))
        applier = stack.enter_context(closing(engine.applier([table], [])))
        calls: list[Callable[[], object]] = [
            lambda: catalog.read_schema(table.mapping),
            lambda: catalog.preflight([table]),
            lambda: control.prepare([table]),
            lambda: control.raise_epoch(1, 1, INITIAL),
            lambda: applier.apply(batch),
            lambda: snapshot.read_chunk(table, None, 1),
            lambda: stack.enter_context(closing(engine.source([table], START))).poll(1, 0.1),
        ]
        errors = [failure(call) for call in calls]
    assert {e.node for e in errors} == {engine.node.name}
    shown = [repr(engine), repr(engine.node), *map(repr, errors)]
    shown += (line for e in errors for line in traceback.format_exception(e))
    assert SECRET not in "".join(shown)


def failure(call: Callable[[], object]) -> SyncError:
    with pytest.raises(NodeUnavailable) as caught:
        call()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value
