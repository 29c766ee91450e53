"""A changed table, as an operator meets it: `up`, `status`, `up --accept`, `verify`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.commands import ask, config_text, read_until, sync_worker
from tests.fixtures.evolving import apps


@contextmanager
def up(config: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        sync_worker(config, "up", *arguments), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            read_until(process.stderr, '"group_ready"')
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            process.stderr.read()


def test_an_operator_and_a_changed_table(
    postgres_db: str, mysql_db: str, mongodb_db: str, tmp_path: Path
) -> None:
    dsns = {"pg": postgres_db, "my": mysql_db, "mongo": mongodb_db}
    config = tmp_path / "sync.yaml"
    config.write_text(config_text(dsns, "orders: {key: [id], schema: evolve, initial: {from: pg}}"))
    with apps(dsns) as nodes:
        nodes["pg"].sql("CREATE TABLE orders (id int PRIMARY KEY, name text, qty int)")
        nodes["pg"].sql("INSERT INTO orders SELECT i, 'n', 1 FROM generate_series(1, 100) i")
        with up(config) as process:
            nodes["my"].sql("ALTER TABLE orders ADD COLUMN extra int NOT NULL DEFAULT 7")
            read_until(process.stderr, '"group_ready"')
            nodes["my"].insert(200, name="new", extra=9)
            nodes["pg"].sql("ALTER TABLE orders DROP COLUMN qty")
            nodes["pg"].insert(201, name="newer", extra=10)
            read_until(process.stderr, "hint: make the table fit on every node")
            assert process.wait(180) == 2
        code, shown = ask(config, "status")
        assert code == 1
        assert "group shop is halted: schema change\n  orders at pg: column qty is gone" in shown
        assert f"sync-worker up -c {config} --accept orders" in shown
        code, shown = ask(config, "status", "--json")
        assert json.loads(shown)["state"] == "halted: schema change"
        nodes["my"].sql("ALTER TABLE orders DROP COLUMN qty")
        with up(config, "--accept", "orders"):
            code, shown = ask(config, "verify", "--json", "--tries", "60")
            assert code == 0, shown
        assert nodes["mongo"].rows("name", "extra")[200] == ("new", 9)
        assert nodes["my"].rows("name", "extra")[201] == ("newer", 10)
        assert nodes["pg"].rows("extra")[1] == (7,)
    line = [sys.executable, "-m", "cluster.cli", "audit", "tail", "-c", str(config), "--kind", "operator"]
    done = subprocess.run([*line, "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert "column extra was added" in done.stdout, done.stderr
    assert "accepted" in done.stdout
