"""What the processes of all parts have in common; see `processes`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from actors.host import hand_over_quickly
from actors.measured import Measured
from actors.tracing import open_tracing
from cluster.channel import Address, Listening
from cluster.plan import GroupPlan

LOOPBACK = "127.0.0.1"


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
        self._one_machine = plan.one_machine
        self._listening: Listening | None = None
        # What was imported stays. Python would look through all of it now and then, and 20 ms each time.
        gc.collect()
        gc.freeze()

    @staticmethod
    def host() -> str:
        """The address of this machine, for parts on other machines."""
        return LOOPBACK

    def straight(self) -> Mapping[str, Callable[..., Any]]:
        """What it answers beside Ray; see `channel`."""
        return {}

    def listening(self) -> Address:
        """Where it answers that."""
        if self._listening is None:
            host = LOOPBACK if self._one_machine else self.host()
            self._listening = Listening(host, self.straight())
        return self._listening.address

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
