"""`sync-worker demo` as a process of its own, with few rows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def test_demo_ends_with_equal_nodes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("sync-worker-demo-*"))
    command = [sys.executable, "-m", "cluster.cli", "demo", "--rows", "2000", "--seconds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all nodes are equal" in done.stdout.splitlines()
    started, *rest = done.stdout.splitlines()
    nodes = ["pg", "my", "mongo"] if "MySQL" in started else ["pg", "mongo"]
    assert len(nodes) == 3 or rest[0].startswith("without   MySQL: no MySQL: ")
    assert all(any(line.endswith(f"changes at {n}") for line in rest) for n in nodes)
    assert sum(line.startswith("lag ") for line in rest) == len(nodes) * (len(nodes) - 1)
    assert done.stderr == ""
    assert set(Path(tempfile.gettempdir()).glob("sync-worker-demo-*")) <= before
