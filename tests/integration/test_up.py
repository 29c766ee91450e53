"""`sync-worker up` as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
from pymongo import MongoClient


def test_up_copies_synchronises_and_ends_on_sigterm(
    postgres_db: str, mongodb_db: str, tmp_path: Path
) -> None:
    config = tmp_path / "sync.yaml"
    config.write_text(
        f'group: shop\nnodes:\n  pg: {{engine: postgres, dsn: "{postgres_db}", priority: 30}}\n'
        f'  mongo: {{engine: mongodb, dsn: "{mongodb_db}", priority: 10}}\n'
        "tables:\n  orders: {key: [id], initial: {from: pg}}\ncreate_tables: true\nshards: 1\n"
        "audit: {path: audit}\n"
    )
    with psycopg.connect(postgres_db, autocommit=True) as sql, MongoClient(mongodb_db) as client:
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        sql.execute("INSERT INTO orders SELECT i, 'n' FROM generate_series(1, 500) i")
        docs = client.get_default_database()["orders"]
        command = [sys.executable, "-m", "cluster.cli", "up", "-c", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if '"group_ready"' in line:
                        break
                with docs.watch(max_await_time_ms=1000) as stream:
                    sql.execute("INSERT INTO orders VALUES (1000, 'last')")
                    for _ in range(600):
                        change = stream.try_next()
                        if docs.count_documents({}) == 501:
                            break
                    assert docs.count_documents({}) == 501, change
                status = [sys.executable, "-m", "cluster.cli", "status", "-c", str(config), "--json"]
                answer = subprocess.run(status, capture_output=True, text=True, timeout=60, check=False)
                assert answer.returncode == 0, answer.stderr
                state = json.loads(answer.stdout)
                assert state["shards"][0]["changes"] >= 501
                assert state["copies"][0]["rows"] in (500, 501)  # the last row may be copied, too
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stderr.read() is not None
