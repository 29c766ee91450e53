"""When a node that does not answer is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.breaker import Breaker, State

STEPS = st.lists(st.tuples(st.sampled_from(["fail", "succeed", "look"]), st.floats(0, 100)), max_size=60)


def test_it_opens_after_failures_in_a_row_and_closes_when_a_try_succeeds() -> None:
    breaker = Breaker(first=1.0, most=10.0, threshold=3)
    now = 100.0
    for _ in range(2):
        assert breaker.due(now)
        now += breaker.fail(now, 1.0)
        assert breaker.state is State.CLOSED
    assert breaker.due(now)
    pause = breaker.fail(now, 1.0)
    assert (breaker.state, pause, breaker.since) == (State.OPEN, 4.0, 100.0)
    assert not breaker.due(now + 3.9)
    assert breaker.state is State.OPEN
    assert breaker.due(now + 4.0)
    assert breaker.state is State.HALF_OPEN
    breaker.succeed()
    assert (breaker.state, breaker.failures, breaker.since) == (State.CLOSED, 0, None)
    assert breaker.due(now)


def test_a_failed_try_opens_it_again_with_twice_the_pause() -> None:
    breaker, now = Breaker(first=1.0, most=10.0, threshold=1), 0.0
    pauses = []
    for _ in range(6):
        assert breaker.due(now)
        pauses.append(breaker.fail(now, 1.0))
        assert breaker.state is State.OPEN
        now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_success_in_between_begins_the_count_anew() -> None:
    breaker = Breaker(threshold=2)
    for now in range(10):
        breaker.fail(now, 0.5)
        assert breaker.state is State.CLOSED
        breaker.succeed()


def test_luck_is_half_of_the_pause_at_most() -> None:
    assert Breaker(first=8.0).fail(0.0, 0.0) == 4.0
    assert Breaker(first=8.0).fail(0.0, 1.0) == 8.0
    assert Breaker(first=8.0, most=2.0).fail(0.0, 1.0) == 2.0


@given(STEPS, st.floats(0, 1))
def test_whatever_happens_no_pause_is_too_long_and_nothing_is_tried_during_one(
    steps: list[tuple[str, float]], luck: float
) -> None:
    breaker, now, trying = Breaker(first=0.5, most=20.0), 0.0, False
    for what, seconds in steps:
        now += seconds
        waits = bool(breaker.failures) and now < breaker.next_try
        due = not trying and breaker.due(now)
        assert not (due and waits)
        assert trying or due or waits, "it is tried as soon as the pause is over"
        trying = trying or due
        if trying and what == "fail":
            assert 0.25 <= breaker.fail(now, luck) <= 20.0
            trying = False
        elif trying and what == "succeed":
            breaker.succeed()
            trying = False
        assert (breaker.state is State.CLOSED) or breaker.failures >= 2
