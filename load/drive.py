"""`python -m load.drive`: servers of its own, a group between them, and Locust at the API and the databases.

Prints Locust's summary, then whether every node holds the same rows. Exits 0 if they do and nothing failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from cluster.demo.data import PROBES
from cluster.demo.stack import Stack, start_servers
from cluster.servers.process import ServerFailed, free_port

LOCUSTFILE = Path(__file__).with_name("locustfile.py")  # run, never imported: Locust changes how sockets work
CONFIG_VARIABLE = "LOAD_CONFIG"
READY_SECONDS = 120.0
_CONFIG = """\
group: load
nodes:
{nodes}
tables:
  {table}: {{key: [id], initial: none}}
create_tables: true
audit: {{path: audit}}
api: {{port: {port}, replicas: {replicas}, rate: {{subject: 1000000, address: 1000000}}}}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive a group.

    Returns:
        the exit code.
    """
    options = parser().parse_args(arguments)
    with start_servers(mysql=options.mysql) as stack:
        if options.mysql and stack.without:
            print(f"without MySQL: {stack.without}")
        _begin(stack, options.replicas)
        code = _drive(stack, options.users, options.seconds)
        verified = subprocess.run([sys.executable, "-m", "cluster.cli", "verify", "-c", str(stack.config)])
    return code or verified.returncode


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="load", description=__doc__)
    found.add_argument("--users", type=int, default=14, help="of all kinds (default: 14)")
    found.add_argument("--seconds", type=int, default=30, help="how long (default: 30)")
    found.add_argument("--replicas", type=int, default=1, help="of the HTTP interface (default: 1)")
    found.add_argument("--mysql", action="store_true", help="with MySQL as a third node")
    return found


def _begin(stack: Stack, replicas: int) -> None:
    """Start the group and wait until its interface answers."""
    nodes = [
        f'  {n.name}: {{engine: {n.engine}, dsn: "{n.dsn}", priority: {30 - 10 * i}}}'
        for i, n in enumerate(stack.nodes)
    ]
    port = free_port()
    text = _CONFIG.format(nodes="\n".join(nodes), table=PROBES, port=port, replicas=replicas)
    stack.config.write_text(text)
    with psycopg.connect(stack.nodes[0].dsn, autocommit=True) as c:
        c.execute(f"CREATE TABLE {PROBES} (id integer PRIMARY KEY, token bigint)")
    stack.start_up()
    deadline = time.monotonic() + READY_SECONDS
    while b'"api_ready"' not in stack.log.read_bytes():
        stack.check_up()
        if time.monotonic() > deadline:
            message = f"the interface did not begin; {stack.log} says why"
            raise ServerFailed(message)
        time.sleep(0.1)


def _drive(stack: Stack, users: int, seconds: int) -> int:
    """Run Locust until it is over; gives its exit code, 1 if a request failed."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"]
    command += ["--stop-timeout", "40", "--loglevel", "WARNING"]
    env = {**os.environ, CONFIG_VARIABLE: str(stack.config), "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
