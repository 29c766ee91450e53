"""The benchmarks and the soak run through, small, and report every line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from load import soak

ROOT = Path(__file__).parents[2]
LINES = [
    "capture",
    "apply",
    "drain postgres -> postgres",
    "processor, postgres -> postgres",
    "drain postgres -> memory",
    "processor, postgres -> memory",
    "initial copy",
    "backfill postgres -> postgres",
    "backfill postgres -> mysql",
    "backfill from afar, workers 1",
    "backfill from afar, workers 2",
    "backfill from afar, workers 4",
    "latency p50",
    "latency p99",
    "latency p50 on Ray",
    "latency p99 on Ray",
    "everything on against off",
    "stream to 100 clients, p99",
    "recovery, capture killed",
    "recovery, resolver killed",
    "recovery, applier killed",
    "memory, huge transaction",
    "capture mysql",
    "apply mysql",
    "drain postgres -> mysql",
    "processor, postgres -> mysql",
    "drain mysql -> postgres",
    "processor, mysql -> postgres",
    "capture binlog",
    "capture binlog: times as fast",
    "audit records",
]


def test_every_figure_is_reported() -> None:
    command = [sys.executable, "-m", "load.bench", "--quick", "--rows", "500", "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    header, *lines, _ = done.stdout.splitlines()
    assert "load average" in header
    assert [line.split("  ")[0] for line in lines] == LINES
    for line in lines:
        assert " ratio " in line
        assert " goal " in line


def test_a_soak_counts_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--schedules", "30", "--base", "5", "--processes", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("held: 30 schedules")


def test_a_schedule_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_schedules.py").write_text(
        "POLICIES = [('p',), ('q',)]\n"
        "def explore(policies, seed, count):\n"
        "    assert (policies, seed) != (('q',), 7), 'diverged'\n"
        "    return 1, 1, 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(soak, "TESTS", "broken_schedules")
    assert soak.run((("p",), 0, 10)).failure == ""
    result = soak.run((("q",), 0, 10))
    assert result.schedules == 8
    assert result.failure.startswith("seed 7: ")
    assert "explore(('q',), 7, 1)" in result.failure
    assert "diverged" in result.failure


def test_a_failure_ends_the_soak(tmp_path: Path) -> None:
    (tmp_path / "broken_schedules.py").write_text(
        "POLICIES = [('p',)]\ndef explore(policies, seed, count):\n    raise AssertionError\n"
    )
    # At the top, so that the processes of the soak see it as well.
    (tmp_path / "main.py").write_text(
        "import sys\nfrom load import soak\nsoak.TESTS = 'broken_schedules'\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(soak.main(['--schedules', '40', '--processes', '1', '--base', '0']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(tmp_path / "main.py")], env=environment, cwd=ROOT,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "seed 0: " in done.stdout
