"""The initial copy from real servers, while applications and we ourselves write to the table."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from pymongo.errors import OperationFailure

from actors.backfill import Backfill, CopyStatus, Surroundings
from replication.backfill import Chunk, ChunkIdent, ChunkWindow
from replication.batch import ApplyBatch, pack_versions
from replication.change import Changes, Echo, LogEvent, Op, Watermark
from replication.engine import Source
from replication.paging import ChunkSize
from tests.conformance.tools import PATIENCE, Peer, Write, eventually
from tests.fixtures.engines import EngineHarness, MemoryHarness, MongoHarness, PostgresHarness

HARNESSES: dict[str, Callable[[pytest.FixtureRequest], EngineHarness]] = {
    "memory": lambda request: MemoryHarness(),
    "postgres": lambda request: PostgresHarness(request.getfixturevalue("postgres_db")),
    "mongodb": lambda request: MongoHarness(request.getfixturevalue("mongodb_db")),
}
ROWS = 800
WRITES = 300


@pytest.fixture(params=list(HARNESSES))
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    harness = HARNESSES[request.param](request)
    try:
        with Peer(harness) as made:
            yield made
    finally:
        harness.close()


class Group:
    """A capture and a replica in one thread: what comes out of the log is durable at once."""

    def __init__(self, peer: Peer, source: Source, words: int) -> None:
        self.peer = peer
        self.source = source
        self.words = words
        self.window = ChunkWindow()
        self.replica: dict[str, str | None] = {}
        self.order = 0
        self.sent: dict[int, list[Write]] = {}
        self.rng = random.Random(7)
        self.reports: list[CopyStatus] = []

    # -- the copy's surroundings -------------------------------------------------------

    def begin(self, run: str, table: str) -> None:
        self.window.begin(run, table)

    def offer(self, ident: ChunkIdent, chunk: Chunk) -> None:
        self.apply_something()
        self.window.offer(ident, chunk)

    def emitted(self, ident: ChunkIdent) -> int | None:
        return self.window.emitted(ident)

    def end(self, table: str) -> None:
        self.window.end(table)

    def released(self) -> int:
        return self.order

    def wait(self, seconds: float) -> None:
        self.poll(seconds)

    # ----------------------------------------------------------------------------------

    def apply_something(self) -> None:
        """Commit a batch of ours, whose echo is not decoded."""
        keys = {f"word {self.rng.randrange(self.words):04}" for _ in range(5)}
        writes = [Write("words", (k,), {"meaning": f"ours {self.peer.seq}"}) for k in keys]
        batch = self.peer.batch(*writes)
        marker = replace(batch.marker, versions=pack_versions(batch.tables))
        self.sent[marker.seq] = writes
        eventually(lambda: self.peer.applier.apply(ApplyBatch(batch.node, marker, batch.tables)))
        self.peer.seq = marker.seq

    def poll(self, seconds: float) -> None:
        for event in self.source.poll(1000, seconds):
            self.take(event)

    def take(self, event: LogEvent) -> None:
        match event:
            case Watermark():
                for passed in self.window.on_watermark(event):
                    self.follow(passed)
                return
            case Changes():
                self.window.on_changes(event)
            case Echo():
                self.window.on_echo(event)
                for write in self.sent[event.marker.seq]:
                    self.replica[write.key[0]] = write.row["meaning"]
        self.follow(event)

    def follow(self, event: LogEvent) -> None:
        if isinstance(event, Changes):
            self.write(event)
        assert event.end.order >= self.order
        self.order = event.end.order

    def write(self, event: Changes) -> None:
        for changes in event.tables:
            for row in changes.rows.to_pylist():
                if row["_op"] == Op.DELETE:
                    self.replica.pop(row["word"], None)
                else:
                    self.replica[row["word"]] = row["meaning"]


def write_randomly(harness: EngineHarness, stop: threading.Event, seed: int) -> None:
    rng = random.Random(seed)
    there = {key[0] for key in harness.rows("words")}
    for n in range(WRITES):
        if stop.is_set():
            return
        word = f"word {rng.randrange(ROWS + 50):04}"
        try:
            with harness.transaction() as tx:
                if word in there:
                    tx.update("words", (word,), {"meaning": f"theirs {n}"})
                else:
                    tx.insert("words", {"word": word, "meaning": f"theirs {n}"})
        except OperationFailure as error:  # MongoDB aborts whoever meets one of our batches
            if not error.has_error_label("TransientTransactionError"):
                raise
            continue
        there.add(word)


def test_the_copy_equals_a_table_that_is_being_written_to(peer):
    harness = peer.harness
    with harness.transaction() as tx:
        for i in range(ROWS):
            tx.insert("words", {"word": f"word {i:04}", "meaning": "initial"})
    start = [e.end for e in peer.read()][-1]  # the rows are there, and the log is read from after them
    with closing(peer.source(start)) as source:
        group = Group(peer, source, ROWS)
        around = Surroundings(group, group.released, group.wait, time.monotonic, group.reports.append)
        table = harness.tables["words"]
        copy = Backfill(
            table, uuid.uuid4().hex, peer.snapshot, peer.control, around, ChunkSize(40, max_rows=40)
        )
        stop = threading.Event()
        writer = threading.Thread(target=write_randomly, args=(harness, stop, 1))
        writer.start()
        try:
            progress = copy.run()
        finally:
            stop.set()
            writer.join(PATIENCE)
        for event in peer.drain(source):
            group.take(event)
    assert progress.finished
    assert progress.done_rows >= ROWS
    assert group.reports[-1].finished
    assert len(group.sent) >= ROWS // 40
    assert group.replica == {k[0]: row["meaning"] for k, row in harness.rows("words").items()}


def test_a_stopped_copy_goes_on_and_a_finished_one_stays_finished(peer):
    harness = peer.harness
    with harness.transaction() as tx:
        for i in range(100):
            tx.insert("words", {"word": f"word {i:04}", "meaning": "initial"})
    table = harness.tables["words"]
    start = [e.end for e in peer.read()][-1]
    with closing(peer.source(start)) as source:
        group = Group(peer, source, 100)

        def made(stop_at: int) -> Backfill:
            def report(status: CopyStatus) -> None:
                if status.rows >= stop_at:
                    copy.stop()

            around = Surroundings(group, group.released, group.wait, time.monotonic, report)
            copy = Backfill(
                table, uuid.uuid4().hex, peer.snapshot, peer.control, around, ChunkSize(10, max_rows=10)
            )
            return copy

        part = made(stop_at=50).run()
        assert not part.finished
        assert 0 < part.done_rows < 100
        whole = made(stop_at=1_000).run()
        assert whole.finished
        assert whole.done_rows == 100
        orders = group.order
        assert made(stop_at=1_000).run() == whole
        assert group.order == orders
        assert made(stop_at=1_000).run(afresh=True).finished
        assert group.order > orders
