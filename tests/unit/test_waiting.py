"""`up` waits for a node, and says so."""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import waiting as module
from cluster.waiting import GaveUp, Waiting, read_note
from replication.errors import NodeUnavailable, Terminal


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(tmp_path / "audit", "shop", threading.Event(), 0.001)


def away(node: str = "pg") -> NodeUnavailable:
    return NodeUnavailable("cannot be reached", node=node)


def test_it_tries_until_the_node_is_there_and_leaves_a_note_meanwhile(
    waiting: Waiting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors, notes = [away(), away(), away("my")], []

    def attempt() -> str:
        notes.append(read_note(tmp_path / "audit"))
        if errors:
            raise errors.pop(0)
        return "there"

    with caplog.at_level(logging.INFO):
        assert waiting.until("start", attempt) == "there"
    assert [n and (n.node, n.tries, n.pid) for n in notes] == [
        None, ("pg", 1, os.getpid()), ("pg", 2, os.getpid()), ("my", 1, os.getpid()),
    ]  # fmt: skip
    assert read_note(tmp_path / "audit") is None
    said = [(r.msg, getattr(r, "node", "")) for r in caplog.records]
    assert said == [("waits_for_node", n) for n in ("pg", "pg", "my")] + [("waits_no_more", "my")]


def test_what_waiting_does_not_help_is_not_waited_for(waiting: Waiting) -> None:
    def attempt() -> None:
        message = "wrong password"
        raise Terminal(message, node="pg")

    with pytest.raises(Terminal):
        waiting.until("start", attempt)


def test_it_gives_up_when_told_to_stop_and_takes_the_note_away(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, "shop", threading.Event(), 60.0)

    def attempt() -> None:
        waiting.stopping.set()
        raise away()

    with closing(waiting), pytest.raises(GaveUp):
        waiting.until("start", attempt)
    assert read_note(tmp_path) is None
    with pytest.raises(GaveUp):
        waiting.until("start", lambda: None)


def test_it_gives_up_when_another_process_runs_the_group(waiting: Waiting) -> None:
    waiting.replaced = lambda: "db2:17"
    waiting.away("start", away())
    with pytest.raises(GaveUp):
        waiting.wait(60.0)


def test_a_note_of_a_process_that_is_gone_says_nothing(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.away("start", away())
    note = read_note(tmp_path / "audit")
    assert note is not None
    path = tmp_path / "audit" / module.NOTE_FILE

    def write(changed: module.Note) -> None:
        path.write_text(json.dumps({name: getattr(changed, name) for name in changed.__slots__}))

    gone = 2**22 + 1  # beyond the greatest process id of Linux
    write(replace(note, pid=gone))
    assert read_note(tmp_path / "audit") is None
    write(replace(note, host="another", pid=gone))
    assert read_note(tmp_path / "audit") is not None, "nobody here knows"
    write(replace(note, host="another", next_try=0.0))
    assert read_note(tmp_path / "audit") is None
    path.write_text("{")
    assert read_note(tmp_path / "audit") is None


def test_passwords_stay_out_of_the_note(waiting: Waiting, tmp_path: Path) -> None:
    waiting.away("start", NodeUnavailable("no route to postgresql://u:hunter2@db/shop", node="pg"))
    assert "hunter2" not in (tmp_path / "audit" / module.NOTE_FILE).read_text()
