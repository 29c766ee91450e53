"""What was set aside lately, for whoever sends it again: so nobody has to read the whole audit log for it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from replication.audit.holds import HoldRecord

MOST = 100_000
ASKED = frozenset({"dlq_retried", "dlq_discarded"})
"""Kinds of records after which what is on hold may be over."""


@dataclass(frozen=True, slots=True)
class Lately:
    """What was set aside since somebody asked.

    Attributes:
        run: another one after which something may be missing.
        until: to ask on from.
        holds: what was set aside, oldest first.
        asked: how often an operator has done something to what is on hold.
    """

    run: str
    until: int
    holds: Sequence[HoldRecord]
    asked: int


class LatelyHeld:
    """The newest records of what was set aside, in the order in which they became durable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[HoldRecord] = []
        self._asking = self._asked = self._first = 0
        self._holds: list[HoldRecord] = []
        self._run = uuid.uuid4().hex

    def add(self, holds: Sequence[HoldRecord]) -> None:
        """These are being written."""
        self._new.extend(holds)

    def noted(self, kind: str) -> None:
        """Something is being put on record."""
        self._asking += kind in ASKED

    def flushed(self) -> None:
        """What was being written is durable."""
        with self._lock:
            self._holds += self._new
            self._asked += self._asking
            if len(self._holds) > MOST:  # nobody asks, or not often enough
                self._run, self._first, self._holds = uuid.uuid4().hex, 0, []
        self._new, self._asking = [], 0

    def since(self, run: str, after: int) -> Lately:
        """What came after a place; that is forgotten then, up to that place."""
        with self._lock:
            if run == self._run and after > self._first:
                del self._holds[: after - self._first]
                self._first = after
            return Lately(self._run, self._first + len(self._holds), list(self._holds), self._asked)
