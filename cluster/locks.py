"""Who acts on a running group: one command at a time, and none while `up` sends rows again by itself."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replication.errors import Terminal

LOCK_FILE = "operator.lock"
RETRY_LOCK_FILE = "retries.lock"
"""Held while `up` itself sends rows again, which is over soon; a command waits for it."""
PUBLISHER_LOCK_FILE = "kafka.lock"
"""Held by whoever publishes what the audit log holds."""
PATIENCE_SECONDS = 60.0
"""So long a command waits until `up` has sent rows again."""
BEAT_SECONDS = 0.1


@contextmanager
def acting_alone(folder: Path) -> Iterator[None]:
    """No other command acts on the group, and `up` sends no rows again by itself."""
    with alone(folder, LOCK_FILE), alone(folder, RETRY_LOCK_FILE, PATIENCE_SECONDS):
        yield


def somebody_acts(folder: Path) -> bool:
    """Whether a command acts on the group right now."""
    try:
        with alone(folder, LOCK_FILE):
            return False
    except Terminal:
        return True


@contextmanager
def alone(folder: Path, name: str, patience: float = 0.0) -> Iterator[None]:
    """Nobody else acts on the group while the block runs.

    Args:
        folder: the audit log's.
        name: what is locked.
        patience: so many seconds to wait for others to be done.

    Raises:
        Terminal: others are at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    message = "another command is at work on this group"
                    raise Terminal(message, hint="wait until it has ended") from None
            time.sleep(BEAT_SECONDS)
        yield
    finally:
        os.close(descriptor)
