"""A writing process is killed at random moments; what it acknowledged is there exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from replication.audit.writer import AuditWriter
from tests.unit import audit_records
from tests.unit.audit_records import changes, conflict, counted, recorded

KILLS = 12


def run_and_kill(path: Path, start: int, acknowledgements: int, *mode: str) -> int:
    """Let a child write from `start`, kill it after so many acknowledgements; gives the last one read."""
    command = [sys.executable, "-m", audit_records.__name__, str(path), str(start), *mode]
    acknowledged = start
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(acknowledgements):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        return int(whole[-1]) if whole else acknowledged


def test_killed_anywhere(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    acknowledged = 1
    for _ in range(KILLS):
        # A restarted resolver re-reads its log from somewhere before the end.
        start = max(1, acknowledged - rng.randrange(40))
        acknowledged = max(acknowledged, run_and_kill(tmp_path, start, 1 + rng.randrange(60)))
        for table, found in counted(tmp_path, "pg").items():
            assert not +(Counter(range(1, acknowledged)) - found), f"{table}: changes are missing"
            assert max(found.values()) == 1, f"{table}: a change is on record twice"
    again = range(1, acknowledged + 20)
    with closing(AuditWriter(tmp_path, "g", lambda: 0)) as audit:
        for table in ("orders", "items"):
            audit.add_changes("pg", 0, table, changes(again))
        audit.add_conflicts([conflict(o) for o in again])
    expected = Counter(again)
    assert {t: +f for t, f in counted(tmp_path, "pg").items()} == {"orders": expected, "items": expected}
    assert Counter(recorded(tmp_path, "conflicts", "ident")) == Counter(f"c{o}" for o in again)
