"""Rows that a node refuses are sent again by themselves, with RabbitMQ and without, and given up at last."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from actors.pipeline import Pipeline
from cluster.cli import main
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.retries.address import RabbitConfig
from cluster.retries.rabbitmq import BrokerAway, RabbitStore
from cluster.retries.stores import open_store
from cluster.retrying import Retrier, RetryWork
from cluster.topology import create_missing_tables, open_catalogs, read_topology
from replication.audit.holds import open_holds
from replication.audit.reader import entries
from replication.audit.writer import AuditWriter
from replication.retries import RetryPlan, RetryStatus
from replication.schema import Table
from tests.fixtures.commands import ask, config_text, read_until, sync_worker
from tests.fixtures.parts import LocalHandle, parts_of
from tests.fixtures.rabbitmq import RabbitServer, local_server

QUICK = "{tries: 3, first_seconds: 0.4, max_seconds: 1}"


TLS = """
listeners.ssl.1 = 127.0.0.1:TLS_PORT
ssl_options.cacertfile = {0}/ca.pem
ssl_options.certfile = {0}/server.pem
ssl_options.keyfile = {0}/server.key
"""


@pytest.fixture(scope="module")
def broker(certificates: Path) -> Iterator[RabbitServer]:
    """A broker of this file alone, to be killed; it speaks TLS, too."""
    with local_server(TLS.format(certificates)) as server:
        yield server


@dataclass
class Desk:
    """A group at work in this process, and what sends its rows again, step by step."""

    config: Path
    pipeline: Pipeline
    pg: psycopg.Connection[Any]
    docs: Any
    tables: list[Table]
    told: list[RetryStatus]

    def retrier(self) -> Retrier:
        config, pipeline = load(self.config), self.pipeline
        parts = dict(parts_of(pipeline))
        record = pipeline.audit._put
        parts["audit"] = LocalHandle(
            write=lambda records: [record(r).result(120) for r in records],
            held_since=pipeline.audit_log.lately.since,
            open_holds=lambda: open_holds(config.audit_path),
            tell_retries=self.told.append,
        )
        work = RetryWork(self.tables, engines_of(config), parts, config.retries, config.audit_path, True)
        return Retrier(work, lambda: open_store(config))

    def until(self, retrier: Retrier, done: Callable[[], bool]) -> None:
        """Step on until `done`."""
        deadline = time.monotonic() + 120
        while not done():
            retrier.step()
            assert self.pipeline.error is None, self.pipeline.error
            assert time.monotonic() < deadline, f"not in time: {self.told[-1:]}"
            time.sleep(0.02)

    def qty(self, key: int) -> Any:
        return self.pg.execute("SELECT qty FROM goods WHERE id = %s", [key]).fetchone()

    def held(self) -> list[dict[str, Any]]:
        assert self.pipeline.audit.barrier().result(120) is None
        return open_holds(self.config.parent / "audit")


@pytest.fixture(params=["local", "rabbitmq"])
def desk(request: pytest.FixtureRequest, postgres_db: str, mongodb_db: str, tmp_path: Path) -> Iterator[Desk]:
    more = {"retries": QUICK, "shards": 1}
    if request.param == "rabbitmq":
        more["rabbitmq"] = f'{{url: "{request.getfixturevalue("broker").url}"}}'
    path = tmp_path / "sync.yaml"
    text = config_text({"pg": postgres_db, "mongo": mongodb_db}, "goods: {key: [id]}", **more)
    path.write_text(text.replace("group: shop", f"group: g{time.time_ns()}"))
    config = load(path)
    with psycopg.connect(postgres_db, autocommit=True) as pg, MongoClient(mongodb_db) as client:
        pg.execute("CREATE TABLE goods (id int PRIMARY KEY, qty int CHECK (qty < 1000))")
        with open_catalogs(config) as catalogs:
            topology = read_topology(config, catalogs)
            create_missing_tables(config, catalogs, topology)
        writer = AuditWriter(config.audit_path, config.group, lambda: time.time_ns() // 1000)
        pipeline = Pipeline(config.group, engines_of(config), topology.tables, writer)
        try:
            yield Desk(path, pipeline, pg, client.get_default_database()["goods"], list(topology.tables), [])
        finally:
            pipeline.stop()


def refuse(desk: Desk, *keys: int) -> None:
    """Rows that PostgreSQL does not take, and one behind them that it does."""
    desk.docs.insert_many([{"_id": key, "qty": 5000 + key} for key in keys])
    desk.docs.insert_one({"_id": 10 * max(keys), "qty": 1})
    deadline = time.monotonic() + 120
    while len(desk.held()) < len(keys):
        assert time.monotonic() < deadline, "not set aside in time"
        time.sleep(0.02)


def test_a_refused_row_lands_by_itself_once_the_node_takes_it(desk: Desk) -> None:
    refuse(desk, 1, 2)
    retrier = desk.retrier()
    desk.until(retrier, lambda: any(h["times"] > 1 for h in desk.held()))
    assert desk.qty(1) is None, "it was refused once more"
    desk.pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check")
    desk.until(retrier, lambda: desk.told[-1].waiting == 0)
    assert (desk.qty(1), desk.qty(2)) == ((5001,), (5002,))
    assert desk.held() == []
    retrier.let_go()


def test_a_row_that_is_refused_so_often_is_a_dead_letter(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also for a successor, and until an operator has mended it."""
    refuse(desk, 1)
    retrier = desk.retrier()
    desk.until(retrier, lambda: bool(desk.told) and desk.told[-1].dead == 1)
    [hold] = desk.held()
    assert (hold["times"], hold["dead_after"]) == (4, 3), "the first time, and three tries"
    retrier.let_go()
    retrier = desk.retrier()
    retrier.step()
    assert (desk.told[-1].waiting, desk.told[-1].dead) == (0, 1)
    with closing(open_store(load(desk.config))) as store:
        store.recall(time.time())
        [letter] = store.buried()
    assert (letter.key, letter.node, letter.origin, letter.tries) == ("1", "pg", "mongo", 3)
    assert "goods_qty_check" in letter.reason
    assert main(["dlq", "list", "-c", str(desk.config), "--log-level", "error"]) == 0
    assert "dead (3 tries)" in capsys.readouterr().out
    kinds = [e["kind"] for e in entries(desk.config.parent / "audit", "operator")]
    assert kinds == ["dead_letter"]
    retrier.let_go()


def test_a_retry_never_puts_an_older_row_in_the_place_of_a_newer_one(desk: Desk) -> None:
    """What was written since, anywhere, is what a retry sends; a second delivery changes nothing."""
    refuse(desk, 1)
    retrier = desk.retrier()
    retrier.step()
    desk.pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check")
    desk.pg.execute("INSERT INTO goods VALUES (1, 7)")
    deadline = time.monotonic() + 120
    while desk.docs.find_one({"_id": 1})["qty"] != 7:
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    desk.until(retrier, lambda: desk.told[-1].waiting == 0)
    assert desk.qty(1) == (7,)
    assert desk.docs.find_one({"_id": 1})["qty"] == 7
    retrier.let_go()


@pytest.mark.parametrize("desk", ["rabbitmq"], indirect=True)
def test_an_outage_of_the_broker_is_a_detour_and_nothing_more(
    desk: Desk, broker: RabbitServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it held when it was killed comes when it is back, what came meanwhile waits in the local store."""
    refuse(desk, 1)
    retrier = desk.retrier()
    desk.until(retrier, lambda: bool(desk.told) and desk.told[-1].waiting == 1)
    broker.kill()
    refuse(desk, 2)
    desk.until(retrier, lambda: desk.told[-1].waiting == 2 and desk.told[-1].store.away_since != "")
    assert desk.told[-1].store.error.startswith("rabbitmq: ")
    assert main(["check", "-c", str(desk.config), "--json", "--log-level", "error"]) == 0
    [found] = json.loads(capsys.readouterr().out)["rabbitmq"]
    assert (found["level"], found["subject"]) == ("warning", "rabbitmq")
    desk.pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check")
    desk.until(retrier, lambda: desk.qty(2) == (5002,))
    broker.start()
    desk.until(retrier, lambda: desk.told[-1].waiting == 0 and desk.told[-1].store.away_since == "")
    assert desk.qty(1) == (5001,)
    assert desk.held() == []
    assert main(["check", "-c", str(desk.config), "--json", "--log-level", "error"]) == 0
    assert json.loads(capsys.readouterr().out)["rabbitmq"] == []
    retrier.let_go()


def test_over_tls_the_certificate_and_the_name_are_verified(broker: RabbitServer, certificates: Path) -> None:
    url, plan = f"amqps://guest:guest@127.0.0.1:{broker.tls_port}/%2F", RetryPlan()
    RabbitStore(RabbitConfig(url, certificates / "ca.pem"), "tls", plan).close()
    with pytest.raises(BrokerAway, match="certificate verify failed"):
        RabbitStore(RabbitConfig(url), "tls", plan)
    elsewhere = RabbitConfig(url.replace("127.0.0.1", "localhost"), certificates / "ca.pem")
    with pytest.raises(BrokerAway, match="Hostname mismatch"):
        RabbitStore(elsewhere, "tls", plan)


def test_a_wrong_password_is_told_without_it(broker: RabbitServer) -> None:
    url = f"amqp://guest:not-this-one@127.0.0.1:{broker.port}/%2F"
    with pytest.raises(BrokerAway, match="ACCESS_REFUSED") as caught:
        RabbitStore(RabbitConfig(url), "x", RetryPlan())
    assert "not-this-one" not in str(caught.value)


def test_up_sends_rows_again_and_says_so(
    postgres_db: str, mongodb_db: str, broker: RabbitServer, tmp_path: Path
) -> None:
    """`up`, `status` and `dlq`, as processes of their own."""
    config, dsns = tmp_path / "sync.yaml", {"pg": postgres_db, "mongo": mongodb_db}
    settings = {"retries": QUICK, "rabbitmq": f'{{url: "{broker.url}"}}', "shards": 1}
    text = config_text(dsns, "goods: {key: [id]}", **settings)
    config.write_text(text.replace("group: shop", f"group: g{time.time_ns()}"))
    with psycopg.connect(postgres_db, autocommit=True) as pg, MongoClient(mongodb_db) as client:
        pg.execute("CREATE TABLE goods (id int PRIMARY KEY, qty int CHECK (qty < 1000))")
        docs = client.get_default_database()["goods"]
        with subprocess.Popen(sync_worker(config, "up"), stderr=subprocess.PIPE, text=True) as up:
            try:
                read_until(up.stderr, '"group_ready"')
                docs.insert_one({"_id": 1, "qty": 5000})
                read_until(up.stderr, '"dead_letters"')
                code, said = ask(config, "status", "--json")
                retries = json.loads(said)["retries"]
                assert (code, retries["store"]["kind"], retries["store"]["away_since"]) == (0, "rabbitmq", "")
                pg.execute("ALTER TABLE goods DROP CONSTRAINT goods_qty_check")
                code, said = ask(config, "dlq", "retry", "--all")
                assert (code, said.endswith(" goods 1 for pg: sent\n")) == (0, True)
                assert pg.execute("SELECT qty FROM goods").fetchall() == [(5000,)]
            finally:
                up.send_signal(signal.SIGTERM)
                up.communicate(timeout=180)
