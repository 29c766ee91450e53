"""A breaker with a clock, and what is said of it by node."""

from __future__ import annotations

import logging

import pytest

from actors.guard import Guard, GuardStatus
from cluster.node_states import NodeWatch, by_node
from replication.errors import NodeUnavailable

AWAY = NodeUnavailable("gone", node="pg")


def test_each_change_of_a_breaker_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    guard = Guard("pg", "capture pg", 8.0, lambda: now[0], lambda: now[0], lambda: 1.0)
    pauses = []
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            pauses.append(guard.pause())
            now[0] += pauses[-1]
            guard.failed(AWAY)
        assert guard.status() == GuardStatus(
            "pg", "capture pg", "open", 4, "1970-01-01T00:01:40+00:00", 0.8, "pg: gone"
        )
        now[0] += guard.pause()
        assert guard.status().state == "half-open"
        guard.succeeded()
        guard.succeeded()
    assert pauses == pytest.approx([0.0, 0.1, 0.2, 0.4])
    assert [r.msg for r in caplog.records] == [
        "tries_again", "breaker_open", *["breaker_half_open", "breaker_open"] * 2, "breaker_half_open",
        "breaker_closed",
    ]  # fmt: skip
    assert guard.status() == GuardStatus("pg", "capture pg", "closed")
    assert guard.pause() == 0.0


def test_of_a_node_the_worst_of_its_parts_is_said_and_each_change(caplog: pytest.LogCaptureFixture) -> None:
    away = GuardStatus("my", "applier my/0", "open", 5, "2026-01-01T00:00:02+00:00", 3.0, "my: gone")
    probing = GuardStatus("my", "capture my", "half-open", 7, "2026-01-01T00:00:01+00:00", 0.0, "my: away")
    fine = GuardStatus("pg", "capture pg", "closed")
    my, pg = by_node([away, fine, probing])
    assert (my.node, my.breaker, my.since, my.error) == ("my", "open", probing.since, "my: gone")
    assert my.parts == {"applier my/0": "open", "capture my": "half-open"}
    assert (pg.node, pg.breaker, pg.failures) == ("pg", "closed", 0)
    watch, back = NodeWatch(), GuardStatus("my", "applier my/0", "closed")
    with caplog.at_level(logging.INFO):
        for guards in (
            [fine],
            [fine, away],
            [fine, away],
            [fine, back],
        ):
            watch.look(guards)
    assert [(r.node, r.before, r.breaker) for r in caplog.records] == [
        ("my", "closed", "open"), ("my", "open", "closed"),
    ]  # fmt: skip
