"""An initial copy by several readers at once, while applications write the same rows at both ends."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from pymysql.connections import Connection

from actors.backfill import Backfill
from actors.limits import Limits
from load.processes import find
from replication.copying import CopyProgress, state_name
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.paging import ChunkSize
from replication.schema import NodeConfig
from tests.fixtures.commands import config_text, read_until, sync_worker
from tests.fixtures.ends import open_end
from tests.fixtures.shop import Shop
from tests.fixtures.writer import Writer

ROWS = 3_000
PATIENCE = 120.0
PAIRS = [("pg", "mongo"), ("my", "pg"), ("mongo", "my")]


@pytest.fixture
def dsns(request: pytest.FixtureRequest) -> dict[str, str]:
    fixtures = {"pg": "postgres_db", "my": "mysql_db", "mongo": "mongodb_db"}
    return {node: request.getfixturevalue(fixtures[node]) for node in request.param}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.backfill.ChunkSize", lambda: ChunkSize(100, max_rows=100))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dsns", PAIRS, indirect=True, ids=" -> ".join)
def test_several_readers_copy_a_table_that_is_written_to_at_both_ends(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    source, *_ = dsns
    declaring = next(n for n in dsns if n != "mongo")
    shop = Shop({declaring: dsns[declaring]} | dsns, tmp_path / "audit")
    shop.limits = Limits(retry_max=1.0, copy_workers=4)
    writers: list[Writer] = []
    try:
        shop.ends[source].fill(1, ROWS)
        shop.copy_from(source)
        shop.start()  # first, since rows that were at the other end before it are not sent
        written = range(1, ROWS + 200, 3)
        writers = [
            Writer(open_end(n, dsn), i, len(dsns), i, written, written, 0.005)
            for i, (n, dsn) in enumerate(dsns.items())
        ]
        (copy,) = shop.pipeline.copies
        assert copy.workers == (1 if source == "mongo" else 4)
        shop.wait_for(lambda: copy.finished, PATIENCE)
        assert all(w.error is None for w in writers)
        for writer in writers:
            writer.stop()
        shop.ends[source].insert(99_999_999, "last", 0)
        rows = shop.wait_equal(PATIENCE, present=99_999_999)
        assert rows.keys() >= set(range(1, ROWS + 1)) - set(written)
    finally:
        for writer in writers:
            writer.abandon()
        shop.close()


class StopsEarly(Backfill):
    """Ends once something is durable, and not everything."""

    def _report(self, *args: object) -> None:
        super()._report(*args)  # type: ignore[arg-type]
        if self.progress.done_rows:
            self.stop()


@pytest.mark.usefixtures("small_chunks")
def test_a_copy_that_is_stopped_goes_on_with_what_is_not_durable(
    postgres_db: str, mongodb_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop({"pg": postgres_db, "mongo": mongodb_db}, tmp_path / "audit")
    shop.limits = Limits(retry_max=1.0, copy_workers=3)
    try:
        shop.ends["pg"].fill(1, ROWS)
        shop.copy_from("pg")
        with monkeypatch.context() as early:
            early.setattr("actors.host.Backfill", StopsEarly)
            early.setattr("actors.backfill.UNCONFIRMED", 6)
            shop.start()
            shop.wait_for(lambda: stored_progress(shop).done_rows > 0, PATIENCE)
            shop.pipeline.stop()
        before = stored_progress(shop)
        assert 0 < before.done_rows < ROWS
        assert not before.finished
        shop.start()
        (copy,) = shop.pipeline.copies
        shop.wait_for(lambda: copy.finished, PATIENCE)
        after = stored_progress(shop)
        assert (after.done_rows, after.finished, after.apart) == (ROWS, True, ())
        shop.ends["pg"].insert(99_999_999, "last", 0)
        assert len(shop.wait_equal(PATIENCE, present=99_999_999)) == ROWS + 1
    finally:
        shop.close()


def stored_progress(shop: Shop) -> CopyProgress:
    with closing(shop.engines["pg"].control()) as control:
        return CopyProgress.load(control.get_state(state_name("orders")))


def test_up_replaces_a_reader_that_is_killed(postgres_db: str, mysql_db: str, tmp_path: Path) -> None:
    config, count = tmp_path / "sync.yaml", 30_000
    nodes = {"pg": postgres_db, "my": mysql_db}
    config.write_text(config_text(nodes, "orders: {key: [id], initial: {from: pg}}", shards=1))
    with closing(Shop(nodes, tmp_path / "none")) as shop, closing(application(mysql_db)) as app:
        source, target = shop.ends["pg"], shop.ends["my"]
        source.fill(1, count)
        app.query("BEGIN")
        app.query("INSERT INTO orders (id) VALUES (1)")  # the copy waits for it at its first row
        command = sync_worker(config, "up", "--workers", "2")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                kill_reader(process.pid)
                app.query("ROLLBACK")
                read_until(process.stderr, '"copy_finished"')
                assert target.rows() == source.rows()
                assert len(source.rows()) == count
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=120)
            assert process.returncode == 0


def application(dsn: str) -> Connection:
    """An application's connection to MySQL."""
    return connect(parse(NodeConfig("my", "mysql", dsn)))


def kill_reader(pid: int) -> None:
    """Kill the second reader; it is there until the copy is finished."""
    deadline = time.monotonic() + 3 * PATIENCE  # the whole group has to start
    while (reader := find(pid, "reader pg/1")) is None:
        assert time.monotonic() < deadline, "no reader was started"
        time.sleep(0.05)
    reader.kill()
