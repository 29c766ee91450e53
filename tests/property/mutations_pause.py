"""The core with a rule of paused tables switched off."""

from __future__ import annotations

from typing import Any

from replication.conflict.parking import Parked
from tests.property.checked import CheckedShard


class PausedRowsCountAsSent(CheckedShard):
    """A batch that leaves behind what is paused has the cut of one that took all."""

    def form_batch(self, node: str, *args: Any, **kwargs: Any) -> Any:
        parked, self.parked[node] = self.parked[node], Parked()
        outgoing = super().form_batch(node, *args, **kwargs)
        self.parked[node] = parked
        return outgoing


class ResumedRowsAreLost(CheckedShard):
    """What waited for a paused table is gone when it is resumed."""

    def pause_keys(self, keys: frozenset[bytes]) -> None:
        for parked in self.parked.values():
            parked.runs.clear()
            parked.states.clear()
        super().pause_keys(keys)
