"""`up` waits for a node that is away: it says so again and again, and goes on as soon as the node is there.

A group cannot begin without one of its nodes, nor can a lost resolver (ADR 9). While `up` waits, a note in
the audit log's folder says for which node and since when; `status` reads it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cluster.logs import current_redactor
from replication.breaker import Breaker
from replication.errors import Transient

log = logging.getLogger(__name__)
NOTE_FILE = "waiting.json"
LONGEST_PAUSE = 10.0
SLICE_SECONDS = 0.5
OVERDUE_SECONDS = 120.0
"""So long after the next try was due, the note of another machine's `up` is of one that was killed."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Note:
    """What `up` waits for.

    Attributes:
        node: the node that is away.
        doing: what cannot go on without it.
        since: ISO 8601 in UTC.
        tries: how many there were.
        next_try: when the next one is due, seconds since 1970.
        error: what the last one ended with.
        host: where `up` runs.
        pid: its process.
    """

    node: str
    doing: str
    since: str
    tries: int
    next_try: float
    error: str
    host: str
    pid: int


class GaveUp(Exception):
    """It was told to stop, or another process runs the group now."""


class Waiting:
    """Tries again until a node is there.

    Args:
        folder: the audit log's.
        group: the group's name.
        stopping: set when `up` shall end.
        most: longest pause between two tries, seconds.
    """

    def __init__(self, folder: Path, group: str, stopping: threading.Event, most: float) -> None:
        self._folder = folder
        self._group = group
        self.stopping = stopping
        self._most = min(most, LONGEST_PAUSE)
        self._node = self._since = ""
        self._breaker: Breaker | None = None
        self.replaced: Callable[[], object] = lambda: None
        """Says who else runs the group now, if anybody does."""

    def until(self, doing: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, once every node that it needs is there.

        Raises:
            GaveUp: see there.
        """
        while not self.stopping.is_set():
            try:
                result = attempt()
            except Transient as away:
                self.wait(self.away(doing, away))
                continue
            self.over()
            return result
        raise GaveUp

    def away(self, doing: str, error: Transient) -> float:
        """Say which node is away; seconds until the next try."""
        if self._breaker is None or error.node != self._node:
            self._node, self._breaker = error.node, Breaker(most=self._most)
            self._since = datetime.now(UTC).isoformat(timespec="seconds")
        pause = self._breaker.fail(time.monotonic(), random.random())
        tries, text = self._breaker.failures, current_redactor().text(str(error))
        log.warning(
            "waits_for_node",
            extra={
                "group": self._group, "node": error.node, "doing": doing, "since": self._since,
                "tries": tries, "next_try_in": round(pause, 1), "error": text,
            },
        )  # fmt: skip
        host, pid = socket.gethostname(), os.getpid()
        note = Note(error.node, doing, self._since, tries, round(time.time() + pause, 1), text, host, pid)
        self._folder.mkdir(parents=True, exist_ok=True)
        written = self._folder / f"{NOTE_FILE}.new"
        written.write_text(json.dumps(asdict(note)) + "\n")
        written.replace(self._folder / NOTE_FILE)
        return pause

    def wait(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait, and do something every half second.

        Raises:
            GaveUp: see there.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stopping.wait(min(left, SLICE_SECONDS)):
                raise GaveUp
            if other := self.replaced():
                log.error("replaced", extra={"group": self._group, "by": other})
                raise GaveUp
            meanwhile()

    @property
    def due(self) -> bool:
        """Whether the pause is over, for who does something else meanwhile."""
        return self._breaker is None or self._breaker.due(time.monotonic())

    def over(self) -> None:
        """Every node is there."""
        if self._breaker is None:
            return
        seconds = round(time.monotonic() - (self._breaker.since or 0.0), 1)
        log.info("waits_no_more", extra={"group": self._group, "node": self._node, "seconds": seconds})
        self.close()

    def close(self) -> None:
        """Take the note away."""
        self._breaker = None
        with suppress(FileNotFoundError):
            (self._folder / NOTE_FILE).unlink()


def read_note(folder: Path) -> Note | None:
    """What an `up` that is alive waits for, if it does."""
    try:
        note = Note(**json.loads((folder / NOTE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if note.host == socket.gethostname():
        return note if _alive(note.pid) else None
    return note if time.time() < note.next_try + OVERDUE_SECONDS else None


def seconds_since(note: Note) -> float:
    """How long it has been waiting."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(note.since)).total_seconds())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
