"""Faults that tests inject into a memory database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

Refusal = Callable[[str, Mapping[str, Any]], str | None]
"""Asked with a table and a row that an applier wants to write; answers why not, or None."""


class Faults:
    """All of them are off at first. `lock` is the database's."""

    def __init__(self, lock: threading.Condition) -> None:
        self.refuse: Refusal | None = None
        self.waiting = 0
        """How many applies are held up by the pause."""
        self._lock = lock
        self._paused = False
        self._fail_before = 0
        self._fail_after = 0

    def fail_applies(self, count: int, *, after_commit: bool = False) -> None:
        """Let the next `count` applies fail with NodeUnavailable, before or after they have committed."""
        with self._lock:
            if after_commit:
                self._fail_after = count
            else:
                self._fail_before = count

    def pause(self) -> None:
        """Hold up every apply before it starts, and show no source anything new."""
        with self._lock:
            self._paused = True

    def resume(self) -> None:
        """End the pause."""
        with self._lock:
            self._paused = False
            self._lock.notify_all()

    def wait_for_held_apply(self, timeout: float) -> bool:
        """Wait until the pause holds up an apply; False after `timeout` seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: self.waiting > 0, timeout)

    @property
    def paused(self) -> bool:
        """Whether a pause is on."""
        return self._paused

    def hold_apply(self) -> None:
        """Called by appliers with the lock held: wait while paused."""
        if self._paused:
            self.waiting += 1
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self._paused)
            self.waiting -= 1

    def fails_before_commit(self) -> bool:
        """Called by appliers with the lock held: whether this one fails before it does anything."""
        failing = self._fail_before > 0
        self._fail_before -= failing
        return failing

    def fails_after_commit(self) -> bool:
        """Called by appliers with the lock held: whether this one's answer is lost."""
        failing = self._fail_after > 0
        self._fail_after -= failing
        return failing
