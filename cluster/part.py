"""What the processes of all parts have in common; see `processes`."""

from __future__ import annotations

import os
from dataclasses import replace

from actors.host import hand_over_quickly
from actors.measured import Measured
from actors.tracing import open_tracing
from cluster.plan import GroupPlan


class Part:
    """What every part answers.

    Args:
        plan: the group.
        name: the part's name, where it takes part in traces.
    """

    def __init__(self, plan: GroupPlan, name: str = "") -> None:
        plan.log()
        hand_over_quickly()
        self.tracing = open_tracing(plan.tracing if name else None, plan.group, name)
        self.error: BaseException | None = None

    def health(self) -> int:
        """The process id; raises the error that ended this part."""
        if self.error is not None:
            raise self.error
        return os.getpid()

    def fail(self, error: BaseException) -> None:
        """Note what ends this part; the first error counts."""
        if self.error is None:
            self.error = error

    def with_traces(self, measured: Measured) -> Measured:
        """What a part has counted, and what became of its spans."""
        if self.tracing is None:
            return measured
        counters = {**measured.counters, **self.tracing.measured().counters}
        return replace(measured, counters=counters)

    def end_traces(self) -> None:
        """Send the spans that wait."""
        if self.tracing is not None:
            self.tracing.close()
