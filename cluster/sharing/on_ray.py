"""The shared store in an actor that holds a `LocalStore`: several replicas, and no Redis."""

from __future__ import annotations

from typing import Any

from actors.remote import Handle
from cluster.sharing.store import SharedHealth
from replication.errors import NodeUnavailable

ACTOR = "shared"
ANSWER_SECONDS = 5.0


class OnRay:
    """See `SharedStore`.

    Args:
        handle: the actor.

    Raises:
        NodeUnavailable: it does not answer.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._ask("health")

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self._handle.call(method, *args).result(ANSWER_SECONDS)
        except TimeoutError as error:
            message = "the actor that replicas share does not answer"
            raise NodeUnavailable(message) from error

    def hit(self, kind: str, who: str, most: int) -> float:
        """See `Rates`."""
        return float(self._ask("hit", kind, who, most))

    def put(self, shelf: str, name: str, value: bytes, seconds: float) -> None:
        """See `Board`."""
        self._ask("put", shelf, name, value, seconds)

    def get(self, shelf: str, name: str) -> bytes | None:
        """See `Board`."""
        found: bytes | None = self._ask("get", shelf, name)
        return found

    def all(self, shelf: str) -> dict[str, bytes]:
        """See `Board`."""
        found: dict[str, bytes] = self._ask("all", shelf)
        return found

    def health(self) -> SharedHealth:
        """See `SharedStore`."""
        return SharedHealth("ray")

    def close(self) -> None:
        """See `SharedStore`."""
