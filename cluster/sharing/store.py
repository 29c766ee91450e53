"""What a shared store does, wherever it is.

Nothing in it is needed for good: what is lost is counted from zero, or asked for again. So an outage of
where it is costs exactness, never an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class SharedHealth:
    """Where things are shared.

    Attributes:
        kind: `local`, `ray` or `redis`.
        away_since: since when it cannot be reached, ISO 8601 in UTC; empty while it can.
        error: why.
    """

    kind: str
    away_since: str = ""
    error: str = ""


class Rates(Protocol):
    """Counts requests."""

    def hit(self, kind: str, who: str, most: int) -> float:
        """Count a request of somebody, of whom at most so many a minute are let in.

        Returns:
            0 if it is let in, else after how many seconds the next one may be.
        """


class Board(Protocol):
    """Shelves with values that last for a while; what one puts there all see."""

    def put(self, shelf: str, name: str, value: bytes, seconds: float) -> None:
        """Put a value there, in place of an older one, for so long."""

    def get(self, shelf: str, name: str) -> bytes | None:
        """A value; None if there is none, or none any more."""

    def all(self, shelf: str) -> dict[str, bytes]:
        """Every value on a shelf, by name."""


class SharedStore(Rates, Board, Protocol):
    """Both, in one place. Used by several threads at once."""

    def health(self) -> SharedHealth:
        """How it is."""

    def close(self) -> None:
        """Let go of it."""
