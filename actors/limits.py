"""Bounds of a running group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a running group.

    Attributes:
        poll_rows: about the most changes read from a log at a time.
        batch_rows: about the most rows in one apply transaction: when as many wait for a node, the other logs
            are held back; one poll may come on top.
        max_backlog: rows on their way to one node above which the other logs are held back.
        wait: seconds to wait on an idle log.
        heartbeat: seconds between heartbeats of an idle group.
        retry_max: longest pause between two tries of an apply, seconds.
    """

    poll_rows: int = 10_000
    batch_rows: int = 20_000
    max_backlog: int = 100_000
    wait: float = 0.2
    heartbeat: float = 10.0
    retry_max: float = 30.0
