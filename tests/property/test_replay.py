"""Schedules in which a restarted shard comes to another decision than its predecessor had sent."""

from __future__ import annotations

import pytest

from tests.property.scenario import Scenario
from tests.property.schedule import Schedule


def send(schedule: Schedule, node: str) -> None:
    """Form a batch for a node, and commit it there."""
    batch = schedule.form(node)
    assert batch is not None
    schedule.in_flight.append((node, batch))
    schedule.commit()


@pytest.mark.parametrize("order", ["ACBBC", "ABBCC", "BBACC", "CACBB"])
def test_a_node_that_holds_an_overturned_decision_is_sent_the_new_one(order: str) -> None:
    """A write that saw the first winner makes the loser win; the loser's node holds the first winner."""
    schedule = Schedule(Scenario(0, 3, ("source_priority",), pipeline=1))
    schedule.deletes = False
    schedule.write("C", 1)
    schedule.deliver("C")
    send(schedule, "A")
    schedule.deliver("A")
    schedule.write("B", 2)
    schedule.deliver("B")
    send(schedule, "B")  # C's write has the higher priority
    send(schedule, "C")
    schedule.deliver("C")
    schedule.deliver("B")
    schedule.write("A", 3)  # it saw C's write, not B's
    schedule.shard = schedule.start()
    for node in order:
        schedule.deliver(node)
    schedule.quiesce()
    schedule.check()
