"""Case 30: everything at debug level with known passwords, which appear nowhere."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from cluster.audit_log import open_keys
from cluster.config_audit import AuditConfig
from replication.audit.reader import read
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig

SECRET = "Tr0ub4dor-and-3"
RABBIT_SECRET = "c0rrect-horse-battery"
REDIS_SECRET = "0pen-sesame-and-lily"
KAFKA_SECRET = "m3tamorph0sis-of-gregor"
TRACING_SECRET = "a-b3ar-called-winnie"
ELSEWHERE_SECRET = "the-0wl-and-the-pussycat"
ACCOUNT = "sync_secret"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's logs of this test alone; a short path, since sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="sw", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def with_secret(dsn: str, user: str = "") -> str:
    parts = urlsplit(dsn)
    user = user or parts.username or "postgres"
    return dsn.replace(parts.netloc, f"{user}:{SECRET}@{parts.hostname}:{parts.port}")


@pytest.fixture
def mysql_account(mysql_db: str) -> Iterator[str]:
    """The address of a database with an account that has a password."""
    with closing(connect(parse(NodeConfig("my", "mysql", mysql_db)))) as c:
        c.query(f"DROP USER IF EXISTS {ACCOUNT}")
        c.query(f"CREATE USER {ACCOUNT} IDENTIFIED BY '{SECRET}'")
        c.query(f"GRANT ALL ON *.* TO {ACCOUNT}")
        yield with_secret(mysql_db, ACCOUNT)
        c.query(f"DROP USER {ACCOUNT}")


def test_secrets_never_logged(
    postgres_db: str, mysql_account: str, mongodb_db: str, tmp_path: Path, ray_folder: Path
) -> None:
    config = tmp_path / "sync.yaml"
    config.write_text(
        'group: shop\nnodes:\n  pg: {engine: postgres, dsn: "${PG_DSN}", priority: 30}\n'
        '  my: {engine: mysql, dsn: "${MY_DSN}", priority: 20}\n'
        '  mongo: {engine: mongodb, dsn: "${MONGO_DSN}", priority: 10}\n'
        "tables:\n  orders: {key: [id], initial: {from: pg}}\ncreate_tables: true\n"
        'audit: {path: audit, key: "${AUDIT_KEY}"}\n'
        'rabbitmq: {url: "amqp://sync:${RABBIT_PASSWORD}@127.0.0.1:1/%2F"}\n'  # nobody is there
        'redis: {url: "redis://sync:${REDIS_PASSWORD}@127.0.0.1:1/0"}\n'
        'kafka: {brokers: ["127.0.0.1:1"], sasl: {username: sync, password: "${KAFKA_PASSWORD}"}}\n'
        'tracing:\n  endpoint: "http://127.0.0.1:1"\n  sample: 1\n'
        '  headers: {authorization: "Bearer ${TRACING}"}\n'
    )
    key = secrets.token_hex(32)
    env = {
        **os.environ,
        "PG_DSN": with_secret(postgres_db),
        "MY_DSN": mysql_account,
        "MONGO_DSN": mongodb_db,
        "AUDIT_KEY": key,
        "RABBIT_PASSWORD": RABBIT_SECRET,
        "REDIS_PASSWORD": REDIS_SECRET,
        "KAFKA_PASSWORD": KAFKA_SECRET,
        "TRACING": TRACING_SECRET,
        "RAY_TMPDIR": str(ray_folder),
    }
    with psycopg.connect(postgres_db, autocommit=True) as sql:
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        sql.execute("INSERT INTO orders VALUES (1, 'a')")
        said = [
            run("check", config, env),
            run("up", config, env, until='"copy_finished"'),
            run("verify", config, env),
        ]
        sql.execute("DROP TABLE orders")
        said.append(run("up", config, env))
    elsewhere = f"u:{ELSEWHERE_SECRET}@127.0.0.1:1/none"
    for name, scheme in (("PG_DSN", "postgresql"), ("MY_DSN", "mysql"), ("MONGO_DSN", "mongodb")):
        dsn = f"{scheme}://{elsewhere}" + "?serverSelectionTimeoutMS=200" * (scheme == "mongodb")
        said.append(run("check", config, {**env, name: dsn}))
    assert any('"copy_finished"' in text for text in said)
    assert "rabbitmq: AMQPConnectionError" in said[0], "check tells of it"
    assert "kafka: " in said[0], "check tells of it"
    files = [f for folder in (tmp_path / "audit", ray_folder) for f in folder.rglob("*") if f.is_file()]
    assert any("worker" in f.name for f in files), "the logs of the actors were not found"
    known = (SECRET, ELSEWHERE_SECRET, RABBIT_SECRET, REDIS_SECRET, KAFKA_SECRET, TRACING_SECRET)
    for secret in (key, *known):
        leaks = [str(f) for f in files if secret.encode() in f.read_bytes()]
        assert not leaks
        assert not [text for text in said if secret in text]
    keys = open_keys(tmp_path / "audit", AuditConfig(key=key))
    rows = [row for batch in read(tmp_path / "audit", "changes/orders", keys) for row in batch.to_pylist()]
    assert [row["name"] for row in rows] == ["a"]
    assert not [f for f in (tmp_path / "audit").rglob("*.arrow") if b"_sealed" not in f.read_bytes()]


def run(command: str, config: Path, env: dict[str, str], until: str = "") -> str:
    """Run a command at debug level, until it says `until` or ends; what it said."""
    arguments = [sys.executable, "-m", "cluster.cli", command, "-c", str(config), "--log-level", "debug"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if until and until in line:
                process.send_signal(signal.SIGTERM)
        process.wait(180)
    return said
