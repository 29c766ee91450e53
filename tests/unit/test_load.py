"""Locust's users can be loaded, in a process of their own: Locust changes how sockets work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from load.drive import CONFIG_VARIABLE, LOCUSTFILE, parser

ROOT = Path(__file__).parents[2]


def test_locust_takes_the_users() -> None:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    listed = [line.strip() for line in done.stdout.splitlines()]
    assert {"Application", "Auditor", "Watcher"} <= set(listed)


def test_both_files_agree_on_how_the_group_is_named() -> None:
    assert f'"{CONFIG_VARIABLE}"' in LOCUSTFILE.read_text()


def test_the_routes_that_are_asked_for_exist() -> None:
    from api.routes import audit, conflicts, health, metrics, sync

    routes = {r.path for part in (audit, conflicts, health, metrics, sync) for r in part.router.routes}
    asked = {line.split('"')[1] for line in LOCUSTFILE.read_text().splitlines() if "self.client.get(" in line}
    assert len(asked) == 5
    assert asked <= routes


def test_what_make_passes_on_is_taken() -> None:
    options = parser().parse_args(["--users", "40", "--seconds", "60"])
    assert (options.users, options.seconds, options.mysql) == (40, 60, False)
    assert 'ARGS="--users 40 --seconds 60"' in (ROOT / "Makefile").read_text()
