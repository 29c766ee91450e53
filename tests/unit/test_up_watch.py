"""What `up` makes of a group that does not answer, without Ray."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import launch
from cluster.commands.up import _run_incarnation
from cluster.evolve import Note
from cluster.interface import NoInterface
from cluster.ready import Ready
from cluster.waiting import Waiting
from replication.errors import NodeUnavailable
from replication.retries import DEFAULT_PLAN


class SlowGroup:
    """Its audit log has not begun when a schema change is to be put on record."""

    parts = ()

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.killed = False
        made.append(self)

    def begin(self) -> None:
        """It begins."""

    def note(self, kind: str, details: list[dict[str, str]]) -> None:
        raise TimeoutError

    def kill(self) -> None:
        self.killed = True


made: list[SlowGroup] = []


def test_a_group_that_is_slow_to_begin_is_made_again_with_all_that_is_to_be_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made.clear()
    monkeypatch.setattr(launch, "Group", SlowGroup)
    note = Note("orders", "pg", "column extra was added", "carried")
    ready = Ready((), [note])
    plan: Any = SimpleNamespace(group="g", tables=(), engines=dict)
    audit = SimpleNamespace(is_encrypted=False)
    config: Any = SimpleNamespace(audit=audit, audit_path=tmp_path, retries=DEFAULT_PLAN)
    lease: Any = SimpleNamespace(lost=None)
    waiting = Waiting(tmp_path, "g", threading.Event(), 1.0)
    error = _run_incarnation(config, plan, ready, lease, waiting, NoInterface())
    assert isinstance(error, NodeUnavailable)
    assert ready.notes == [note]
    assert made[0].killed
