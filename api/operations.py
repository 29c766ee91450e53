"""What takes longer than a request: it is begun, and asked for until it has ended."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from replication.audit.access import Treatment, View
from replication.errors import SyncError

log = logging.getLogger(__name__)
KEPT = 100
"""So many that have ended are remembered; the audit log has all of them."""


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
    """Those of this process, newest last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Operation] = {}

    def begin(self, operation: Operation, work: Callable[[Operation], Any]) -> None:
        """Start `work` on a thread of its own; what it returns is the result."""
        with self._lock:
            ended = [o.id for o in self._found.values() if o.state != "running"]
            for ident in ended[: max(0, len(self._found) - KEPT)]:
                del self._found[ident]
            self._found[operation.id] = operation
        name = f"{operation.kind} {operation.id[:8]}"
        threading.Thread(target=self._run, args=(operation, work), name=name, daemon=True).start()

    def find(self, ident: str) -> Operation | None:
        """One of them."""
        with self._lock:
            return self._found.get(ident)

    def all(self) -> list[Operation]:
        """All that are remembered."""
        with self._lock:
            return list(self._found.values())

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
