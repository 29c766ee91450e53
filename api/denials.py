"""What was refused, on its way to the audit log: gathered for a moment, so a flood becomes few records."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actors.audit import NoteRecords
from actors.remote import Handle
from replication.errors import SyncError

log = logging.getLogger(__name__)
PAUSE_SECONDS = 0.5
MOST = 500
"""So many different ones are kept at a time; of the others only the number."""
ANSWER_SECONDS = 30.0
KIND = "api_denied"


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that was refused.

    Attributes:
        reason: `no token`, `token`, `role`, `column`, `rate`, `keys`, `host` or `origin`.
        subject: who asked, where that is known.
        address: where it came from.
        method: GET, POST, ... or WEBSOCKET.
        path: what was asked for.
        detail: why, in words.
    """

    reason: str
    subject: str
    address: str
    method: str
    path: str
    detail: str


OTHERS = Denial("many", "", "", "", "", "more than are recorded one by one")


class Denials:
    """Puts denials on record, soon after each other; those that are alike as one with their number.

    Args:
        parts: looks the group's parts up; the audit log is among them.
    """

    def __init__(self, parts: Callable[[], Mapping[str, Handle]]) -> None:
        self._parts = parts
        self._waiting: Counter[Denial] = Counter()
        self.totals: Counter[str] = Counter()  # by reason, for the metrics
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._some, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, denial: Denial) -> None:
        """Note one. Never blocks."""
        with self._lock:
            known = denial in self._waiting or len(self._waiting) < MOST
            self._waiting[denial if known else OTHERS] += 1
            self.totals[denial.reason] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="denials", daemon=True)
                self._thread.start()
        self._some.set()

    def close(self) -> None:
        """End; what could not be put on record is lost."""
        self._ended.set()
        self._some.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._some.wait()
            self._some.clear()
            self.write()
            self._ended.wait(PAUSE_SECONDS)

    def write(self) -> None:
        """Put what waits on record, and wait for what is being put there; what cannot be goes on waiting."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, Counter()
        if not taken:
            return
        records: list[Any] = [
            NoteRecords(KIND, {**asdict(denial), "times": times}) for denial, times in taken.items()
        ]
        try:
            self._parts()["audit"].call("write", records).result(ANSWER_SECONDS)
        except (SyncError, KeyError, TimeoutError) as error:
            log.warning("denials_wait", extra={"denials": sum(taken.values()), "error": str(error)})
            with self._lock:
                for denial, times in taken.items():
                    known = denial in self._waiting or len(self._waiting) < MOST
                    self._waiting[denial if known else OTHERS] += times
            self._some.set()
