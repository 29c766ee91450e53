"""`sync-worker up` as a process of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from pymongo import MongoClient

from cluster.archive import fetch
from cluster.lean_ray import FEW_HEAPS
from cluster.servers.process import free_port
from load.processes import find
from replication.audit import reader
from replication.audit.verify import faults_of, verify
from replication.change import Op
from tests.fixtures.collector import Collector, collector
from tests.fixtures.commands import ask, config_text, read_until, sync_worker
from tests.fixtures.kafka import Cluster
from tests.fixtures.until import until

PATIENCE = 180.0
SUBJECTS = f"key: {'ab' * 32}, subjects: {{orders: id}}"


@pytest.fixture
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster that runs already, as `ray start` makes one."""
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray-")  # short: it holds sockets, whose paths may have 107 bytes
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "2"]
    command += ["--port", str(port), "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]
    command += ["--temp-dir", folder, "--disable-usage-stats"]
    command += ["--no-monitor", "--include-log-monitor", "false"]
    command += ["--ray-client-server-port", str(free_port())]  # another test's may have the default one
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            read_until(process.stdout, "Ray runtime started")
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
            shutil.rmtree(folder, ignore_errors=True)


def write_config(folder: Path, postgres: str, mongodb: str, shards: int, **more: object) -> Path:
    config = folder / "sync.yaml"
    table = "orders: {key: [id], initial: {from: pg}}"
    config.write_text(config_text({"pg": postgres, "mongo": mongodb}, table, shards=shards, **more))
    return config


def copies_and_synchronises(
    config: Path,
    postgres: str,
    mongodb: str,
    address: list[str],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    with psycopg.connect(postgres, autocommit=True) as sql, MongoClient(mongodb) as client:
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        sql.execute("INSERT INTO orders SELECT i, 'n' FROM generate_series(1, 500) i")
        docs = client.get_default_database()["orders"]
        docs.insert_one({"_id": 5000, "name": "from before"})
        with subprocess.Popen(
            sync_worker(config, "up", *address), stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                read_until(process.stderr, '"group_ready"')
                if not address:
                    assert daemons(process).keys() == {"gcs_server", "raylet"}, "nothing that nobody asks for"
                    assert has_few_heaps(process, "resolver 0")
                with docs.watch(max_await_time_ms=1000) as stream:
                    sql.execute("INSERT INTO orders VALUES (1000, 'last')")
                    for _ in range(600):
                        change = stream.try_next()
                        if docs.count_documents({}) == 502:
                            break
                    assert docs.count_documents({}) == 502, change
                meanwhile()
                verify = sync_worker(config, "verify", "--json", *address)
                answer = subprocess.run(verify, capture_output=True, text=True, timeout=PATIENCE, check=False)
                assert answer.returncode == 1, answer.stderr
                found = json.loads(answer.stdout)
                assert found["settled_by"] == "group"
                assert [d["key"] for d in found["tables"][0]["differences"]] == [{"id": 5000}]
                status = sync_worker(config, "status", "--json", *address)
                answer = subprocess.run(status, capture_output=True, text=True, timeout=PATIENCE, check=False)
                assert answer.returncode == 0, answer.stderr
                state = json.loads(answer.stdout)
                assert sum(s["changes"] for s in state["shards"]) >= 501
                assert state["copies"][0]["rows"] in (500, 501)  # the last row may be copied, too
                again = sync_worker(config, "backfill", "orders", "--json", *address)
                answer = subprocess.run(again, capture_output=True, text=True, timeout=PATIENCE, check=False)
                assert answer.returncode == 0, answer.stderr
                assert json.loads(answer.stdout)["rows"] == 501
                asks_the_audit_log(config, address)
                if SUBJECTS in config.read_text():
                    erases(config, address)
                if "kafka" in state:
                    kills_the_publisher(config, process, sql)
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
            assert process.stderr is not None
            assert process.stderr.read() is not None


def daemons(up: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """What this `up` has started of Ray, by the name of the program."""
    return {Path(child.exe()).name: child for child in psutil.Process(up.pid).children()}


def has_few_heaps(up: subprocess.Popen[str], part: str) -> bool:
    """Whether the process of a part gives back what it frees."""
    process = find(up.pid, part)
    assert process is not None
    return FEW_HEAPS.items() <= process.environ().items()


def asks_the_audit_log(config: Path, address: list[str]) -> None:
    """While the group runs: the log holds, and old records are removed by whoever writes it."""
    words = [sys.executable, "-m", "cluster.cli", "audit"]
    for more in (["verify"], ["prune", "--keep-days", "1", *address], ["verify"]):
        command = [*words, *more, "-c", str(config), "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        found = json.loads(answer.stdout)
        assert found.get("removed", {}) == {}, "nothing is that old"
        assert found.get("holds", True)


def on_record(folder: Path) -> set[tuple[int, int]]:
    """Operation and key of every change that the audit log holds."""
    return {
        change
        for rows in reader.read(folder, "changes/orders")
        for change in zip(rows.column("_op").to_pylist(), rows.column("id").to_pylist(), strict=True)
    }


def erases(config: Path, address: list[str]) -> None:
    """While the group runs: a subject's records are unreadable from then on, and the log holds."""
    words = ("--table", "orders", "--subject", "1000", *address)
    code, plan = ask(config, "audit", "erase", *words)
    assert (code, plan.splitlines()[-1]) == (0, "nothing was erased")
    code, said = ask(config, "audit", "erase", *words, "--yes", "--json")
    assert (code, json.loads(said)["erased"]) == (0, True), said
    code, said = ask(config, "audit", "query", "-n", "5000", "--json")
    records = json.loads(said)["records"]
    assert {r["stream"] for r in records if r.get("_erased")} == {"changes/orders", "decisions"}
    changes = [r for r in records if r["stream"] == "changes/orders"]
    assert 1 in {r["id"] for r in changes}
    assert 1000 not in {r["id"] for r in changes}
    assert {"subject_erasing", "subject_erased"} <= {r.get("kind") for r in records}
    assert ask(config, "audit", "verify")[0] == 0


def kills_the_publisher(config: Path, up: subprocess.Popen[str], sql: psycopg.Connection[Any]) -> None:
    """It begins again alone, and publishes what is written while it is away."""
    publisher = find(up.pid, "publisher")
    assert publisher is not None
    publisher.kill()
    publisher.wait(PATIENCE)
    sql.execute("DELETE FROM orders WHERE id = 1000")
    sql.execute("UPDATE orders SET id = 2000 WHERE id = 1")
    deadline = time.monotonic() + PATIENCE
    expected = {(Op.DELETE, 1000), (Op.DELETE, 1), (Op.INSERT, 2000)}
    while not expected <= on_record(config.parent / "audit"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while True:
        code, text = ask(config, "status", "--json")
        assert code == 0
        kafka = json.loads(text).get("kafka")  # not while it is being made again
        if kafka and kafka["published"] and kafka["waiting"] == {"orders": 0}:
            break
        assert time.monotonic() < deadline, text
    assert kafka["since"] == ""


def test_up_copies_synchronises_and_ends_on_sigterm(
    ray_cluster: str, postgres_db: str, mongodb_db: str, tmp_path: Path, kafka: Cluster
) -> None:
    """Another Ray on this machine is not asked, nor the one of a run that was killed."""
    assert ray_cluster
    brokers = f"{{brokers: ['{kafka.address}']}}"
    with collector() as collected:
        tracing = f"{{endpoint: '{collected.endpoint}', sample: 1}}"
        more = {"kafka": brokers, "tracing": tracing}
        config = write_config(tmp_path, postgres_db, mongodb_db, shards=1, **more)
        (tmp_path / "audit").mkdir()
        (tmp_path / "audit" / "address").write_text("127.0.0.1:1\n")
        copies_and_synchronises(config, postgres_db, mongodb_db, [], lambda: is_traced(collected))
    assert not (tmp_path / "audit" / "address").exists()
    has_published(kafka, tmp_path / "audit")


def is_traced(collected: Collector) -> None:
    """The change that was written is followed through three processes."""
    applied, *_ = until(lambda: collected.spans("apply mongo"), patience=PATIENCE)
    parents = until(lambda: [s for s in collected.spans() if s.ident == applied.parent], patience=PATIENCE)
    resolved = parents[0]
    firsts = until(lambda: [s for s in collected.spans() if s.ident == resolved.parent], patience=PATIENCE)
    way = [firsts[0], resolved, applied]
    assert [s.name for s in way] == ["capture pg", "resolve pg", "apply mongo"]
    assert [s.resource["service.instance.id"] for s in way] == ["capture pg", "resolver 0", "applier mongo/0"]
    assert {s.trace for s in way} == {applied.trace}
    assert applied.about["db.system.name"] == "mongodb"


def has_published(kafka: Cluster, folder: Path) -> None:
    """Every record of the audit log is in the topic, those of a row in their order."""
    own = json.loads((folder / "kafka.json").read_text())["log"].encode()
    ops: dict[int, list[str]] = {}
    seen: set[int] = set()
    traced = 0
    for message in kafka.read("shop.orders"):
        headers = dict(message.headers() or [])
        if headers["sync-worker.log"] != own:
            continue  # of another run
        traced += "traceparent" in headers
        if (sequence := int(headers["sync-worker.sequence"])) not in seen:
            value = json.loads(message.value() or b"{}")
            ops.setdefault(json.loads(message.key())["id"], []).append(value.get("op", "tombstone"))
            seen.add(sequence)
    assert traced, "no message goes on with the trace of its change"
    records = sum(batch.num_rows for batch in reader.read(folder, "changes/orders"))
    assert {sequence // 2 for sequence in seen} == set(range(records))
    assert ops.keys() == {*range(1, 501), 1000, 2000}, "what was only copied from elsewhere is not there"
    assert ops[1][-2:] == ops[1000][-2:] == ["d", "tombstone"]
    assert set(ops[2]) == {"r"}
    assert ops[2000] == ["c"]


def test_up_runs_on_a_cluster_with_two_shards(
    ray_cluster: str, postgres_db: str, mongodb_db: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, postgres_db, mongodb_db, shards=2)
    (tmp_path / "archive").mkdir()
    archive = (tmp_path / "archive").as_uri()
    audit = f"{{path: audit, {SUBJECTS}, archive: '{archive}', archive_seconds: 1}}"
    config.write_text(config.read_text().replace("{path: audit}", audit))
    copies_and_synchronises(
        config, postgres_db, mongodb_db, ["--address", ray_cluster], lambda: is_archived(config, ray_cluster)
    )
    fetch(archive, tmp_path / "fetched")
    assert list(faults_of(verify(tmp_path / "fetched"))) == []
    here, there = (verify(tmp_path / name).records for name in ("audit", "fetched"))
    assert here == there
    assert sum(there.values()) > 1_000


def is_archived(config: Path, address: str) -> None:
    """`status` says up to when everything is in the archive."""

    def copied() -> bool:
        return bool(json.loads(ask(config, "status", "--json", "--address", address)[1])["archive"]["copied"])

    until(copied, patience=PATIENCE)


@contextmanager
def ended_after(up: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process that hangs, so that whoever reads what it writes goes on."""
    timer = threading.Timer(2 * PATIENCE, up.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_another_up_takes_over_and_a_lost_daemon_of_ray_begins_it_anew(
    postgres_db: str, mongodb_db: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, postgres_db, mongodb_db, shards=1)
    with ExitStack() as stack:
        sql = stack.enter_context(psycopg.connect(postgres_db, autocommit=True))
        docs = stack.enter_context(MongoClient(mongodb_db)).get_default_database()["orders"]
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        ups = []
        for event in ('"group_ready"', '"standing_by"'):
            command = subprocess.Popen(sync_worker(config, "up"), stderr=subprocess.PIPE, text=True)
            up = stack.enter_context(command)
            stack.callback(up.kill)
            stack.enter_context(ended_after(up))
            ups.append(up)
            read_until(up.stderr, event)
        first, second = ups
        first.kill()
        read_until(second.stderr, '"takes_over"')
        read_until(second.stderr, '"group_ready"')
        daemons(second)["raylet"].kill()
        read_until(second.stderr, '"ray_lost"')
        read_until(second.stderr, '"group_ready"')
        with docs.watch(max_await_time_ms=1000) as stream:
            sql.execute("INSERT INTO orders VALUES (1, 'after')")
            for _ in range(60):
                if docs.count_documents({}) == 1:
                    break
                stream.try_next()
        assert docs.count_documents({}) == 1
        second.send_signal(signal.SIGTERM)
        assert second.wait(PATIENCE) == 0
