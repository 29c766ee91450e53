"""Copying the audit log elsewhere, again and again, on a thread of its own. Nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from actors.measured import Key
from replication.errors import SyncError

log = logging.getLogger(__name__)
CLOSE_SECONDS = 20.0
"""At the end, so long for what is left."""


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What an operator sees.

    Attributes:
        copied: up to when everything is in the copy, ISO 8601 in UTC; empty before the first time.
        since: since when that fails, ISO 8601 in UTC; empty while it does not.
        error: why.
    """

    copied: str = ""
    since: str = ""
    error: str = ""


class Archiving:
    """Copies what is new every few seconds, until `close`.

    Args:
        push: copies what is new; see `cluster.archive.Archive.push`.
        seconds: between two times.
    """

    def __init__(self, push: Callable[[], int], seconds: float) -> None:
        self._push, self._seconds = push, seconds
        self._lock = threading.Lock()
        self._status = ArchiveStatus()
        self._copied = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def status(self) -> ArchiveStatus:
        """What an operator sees."""
        return self._status

    def gauges(self) -> dict[Key, float]:
        """For `Measured`."""
        behind = time.monotonic() - self._copied
        return {("audit_archive_up",): not self._status.since, ("audit_archive_behind_seconds",): behind}

    def push(self) -> None:
        """Copy what is new now.

        Raises:
            SyncError: it cannot be.
        """
        with self._lock:
            now, began = _now(), time.monotonic()
            try:
                self._push()
            except Exception as error:
                self._failed(error, now)
                raise
            if self._status.since:
                log.warning("archive_back", extra={"away_since": self._status.since})
            self._status, self._copied = ArchiveStatus(now), began

    def close(self) -> None:
        """Copy what is left, if that is possible within a moment."""
        self._stopping.set()
        self._thread.join(CLOSE_SECONDS)

    def _failed(self, error: Exception, now: str) -> None:
        before = self._status
        text = error.message if isinstance(error, SyncError) else f"{type(error).__name__}: {error}"
        if not before.since:
            hint = error.hint if isinstance(error, SyncError) else ""
            log.warning("archive_away", extra={"error": text, "remedy": hint})
        self._status = ArchiveStatus(before.copied, before.since or now, text)

    def _run(self) -> None:
        while True:
            ends = self._stopping.is_set()  # what was written before is copied, too
            with suppress(Exception):  # it was said, and is tried again
                self.push()
            if ends:
                return
            self._stopping.wait(self._seconds)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
