"""What waits for a node although it could be sent: its table is paused. It is out of the way of all else."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from replication.conflict.rows import KeyState, Run

Queue = deque[Run]
Outbox = dict[KeyState, None]
Parks = Callable[[Run | KeyState], bool]


class Parked:
    """Of one node.

    Attributes:
        runs, states: what waits, oldest first.
        rows: about how many rows that is, never less.
    """

    def __init__(self) -> None:
        self.runs: Queue = deque()
        self.states: Outbox = {}
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self.runs or self.states)

    def add(self, run: Run) -> None:
        """One more run waits."""
        self.runs.append(run)
        self.rows += run.live

    def sort(self, queue: Queue, outbox: Outbox, parks: Parks) -> None:
        """Take what is to wait out of what may be sent, and give back what is not; the older comes first.

        What was parked is older than what is in the queue, or of a table that the queue has nothing of.
        """
        runs, states = [*self.runs, *queue], [*self.states, *outbox]
        for kept in (self.runs, queue, self.states, outbox):
            kept.clear()
        self.rows = 0
        for run in runs:
            if parks(run):
                self.add(run)
            else:
                queue.append(run)
        for state in states:
            (self.states if parks(state) else outbox)[state] = None

    def by_table(self) -> Counter[str]:
        """How many rows of each table."""
        found = Counter(state.table for state in self.states)
        for run in self.runs:
            found[run.rows.table] += run.live
        return found
