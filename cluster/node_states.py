"""What the parts of a group say of their ways to the nodes, taken together by node."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from actors.guard import GuardStatus
from replication.breaker import State

log = logging.getLogger(__name__)
WORST = (State.OPEN, State.HALF_OPEN, State.CLOSED)


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node.

    Attributes:
        node: its name.
        breaker: the worst state of the breakers of the parts that connect to it.
        since: when the first of the failures in a row was, ISO 8601 in UTC; empty while there is none.
        failures: the most in a row of any part.
        next_try_in: seconds until one of the parts tries again.
        error: an error that a part got last.
        parts: the state of each part's breaker.
    """

    node: str
    breaker: str
    since: str
    failures: int
    next_try_in: float
    error: str
    parts: dict[str, str]


def by_node(guards: Iterable[GuardStatus]) -> list[NodeState]:
    """The states, by name of the node."""
    parts: dict[str, list[GuardStatus]] = {}
    for guard in guards:
        parts.setdefault(guard.node, []).append(guard)
    return [_together(node, parts[node]) for node in sorted(parts)]


def _together(node: str, guards: Sequence[GuardStatus]) -> NodeState:
    worst = min(guards, key=lambda g: (WORST.index(State(g.state)), -g.failures))
    failing = [g for g in guards if g.failures]
    return NodeState(
        node,
        worst.state,
        min((g.since for g in failing), default=""),
        worst.failures,
        min((g.next_try for g in failing), default=0.0),
        worst.error,
        {g.part: g.state for g in guards},
    )


class NodeWatch:
    """Logs when the breaker of a node changes, in the log of `up`; the parts have logs of their own."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def look(self, guards: Iterable[GuardStatus]) -> None:
        """Log what has changed since the last look."""
        for state in by_node(guards):
            before = self._known.get(state.node, str(State.CLOSED))
            self._known[state.node] = state.breaker
            if before != state.breaker:
                level = logging.INFO if state.breaker == State.CLOSED else logging.WARNING
                detail = {name: value for name, value in asdict(state).items() if value and name != "parts"}
                log.log(level, "node_breaker", extra=detail | {"before": before})
