"""What goes wrong at a memory database, as errors of the common tree."""

from __future__ import annotations

from replication.errors import LogLost, NodeUnavailable


def unavailable(node: str, why: str) -> NodeUnavailable:
    """The database is stopped, or this connection to it was cut."""
    return NodeUnavailable(why, node=node)


def log_lost(node: str, position: int, first: int, last: int) -> LogLost:
    """The log holds orders from `first` to `last` and `position` is outside of it."""
    message = f"the log reaches from {first:x} to {last:x}, not to {position:x}"
    return LogLost(message, node=node, position=position, hint="take a new snapshot of this node")
