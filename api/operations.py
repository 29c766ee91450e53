"""What takes longer than a request: it is begun, and asked for until it has ended."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from cluster.sharing.store import Board
from replication.audit.access import Treatment, View
from replication.errors import SyncError

log = logging.getLogger(__name__)
KEPT = 100
"""So many that have ended are remembered; the audit log has all of them."""
SHELF = "operations"
SHOW_SECONDS = 0.5
RUNNING_SECONDS, ENDED_SECONDS = 15.0, 86_400.0
"""So long the other replicas see one; a replica that is lost tells of its own no more."""


@dataclass(slots=True)
class Operation:
    """Something that was begun.

    Attributes:
        kind: `backfill` or `replay`.
        by: who began it.
        asked: what was asked for.
        id: its name.
        state: `running`, `done` or `failed`.
        began, ended: ISO 8601 in UTC; empty while it runs.
        progress: how far it is.
        result: what came of it.
        error, hint: why it has failed, and what to do about it.
        node: whose words the error is, if a node's.
    """

    kind: str
    by: str
    asked: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "running"
    began: str = field(default_factory=lambda: _now())
    ended: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str = ""
    hint: str = ""
    node: str = ""

    def shown(self, view: View) -> dict[str, Any]:
        """Its fields as a view shows them: without a key that was asked for, and without a node's words."""
        fields = {name: value for name, value in asdict(self).items() if name != "node"}
        if "key" in self.asked and view.of_key(self.asked.get("table")) is not Treatment.CLEAR:
            fields["asked"] = self.asked | {"key": view.withheld}
        if self.node:
            fields["error"] = f"{self.node}: {view.text(None, self.error)}"
        return fields


class Operations:
    """Those of this replica, newest last, and what the others tell of theirs.

    Args:
        board: where replicas see each other's.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lock = threading.Lock()
        self._found: dict[str, Operation] = {}

    def begin(self, operation: Operation, work: Callable[[Operation], Any]) -> None:
        """Start `work` on a thread of its own; what it returns is the result."""
        with self._lock:
            ended = [o.id for o in self._found.values() if o.state != "running"]
            for ident in ended[: max(0, len(self._found) - KEPT)]:
                del self._found[ident]
            self._found[operation.id] = operation
        self._show(operation)
        name = f"{operation.kind} {operation.id[:8]}"
        over = threading.Event()

        def run() -> None:
            try:
                self._run(operation, work)
            finally:
                over.set()

        def show() -> None:
            while not over.wait(SHOW_SECONDS):
                self._show(operation)
            self._show(operation)

        threading.Thread(target=run, name=name, daemon=True).start()
        threading.Thread(target=show, name=f"{name} shown", daemon=True).start()

    def find(self, ident: str) -> Operation | None:
        """One of them."""
        with self._lock:
            own = self._found.get(ident)
        if own is not None:
            return own
        told = self._board.get(SHELF, ident)
        return None if told is None else Operation(**orjson.loads(told))

    def all(self) -> list[Operation]:
        """All that are remembered."""
        told = {i: Operation(**orjson.loads(text)) for i, text in self._board.all(SHELF).items()}
        with self._lock:
            found = told | self._found
        return sorted(found.values(), key=lambda o: o.began)[-2 * KEPT :]

    def _show(self, operation: Operation) -> None:
        seconds = RUNNING_SECONDS if operation.state == "running" else ENDED_SECONDS
        self._board.put(SHELF, operation.id, orjson.dumps(asdict(operation), default=str), seconds)

    def _run(self, operation: Operation, work: Callable[[Operation], Any]) -> None:
        try:
            operation.result = work(operation)
        except SyncError as error:
            operation.node, operation.error, operation.hint = error.node or "", error.message, error.hint
        except Exception as error:
            log.exception("operation_failed", extra={"kind": operation.kind})
            operation.error = f"this should not happen: {type(error).__name__}"
        operation.ended = _now()
        operation.state = "failed" if operation.error else "done"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
