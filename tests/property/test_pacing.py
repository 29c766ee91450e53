"""A copy's pace under every order of good and bad moments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.pacing import (
    CALM,
    CHUNK_SECONDS,
    LEAST_ROWS,
    SETTLE_SECONDS,
    STEPS,
    Bounds,
    Load,
    Pace,
    worst,
)

BOUNDS = Bounds(lag=2.0, apply=4.0)
LATE = Load(lag=2.5, lag_node="my")
seconds = st.floats(0, 10)
loads = st.builds(Load, lag=seconds, lag_node=st.just("my"), apply=seconds, apply_node=st.just("mongo"))
looks = st.lists(st.tuples(loads, st.floats(0, 1e6), st.floats(0.01, 3)), max_size=30)


@given(looks)
def test_a_pace_falls_under_load_alone_and_rises_without_it_alone(moments):
    pace, now = Pace(BOUNDS), 0.0
    for load, speed, passed in moments:
        now += passed
        before, slowed = pace.rate, pace.slowed
        pace.look(load, speed, now)
        if BOUNDS.broken(load):
            assert pace.rate is not None
            assert before is None or pace.rate <= before
            assert pace.because == BOUNDS.broken(load)
        else:
            assert pace.slowed == slowed
            assert before is None or pace.rate is None or pace.rate >= before
        assert pace.rate is None or pace.rate >= LEAST_ROWS
        assert (pace.rate is None) == (pace.because == "")


@given(looks)
def test_a_pace_falls_to_no_less_than_half_and_not_again_before_that_can_show(moments):
    pace, now, fell = Pace(BOUNDS), 0.0, -1e9
    for load, speed, passed in moments:
        now += passed
        before = pace.rate
        pace.look(load, speed, now)
        if before is not None and pace.rate is not None and pace.rate < before:
            assert now - fell >= SETTLE_SECONDS
            assert pace.rate == max(LEAST_ROWS, before / 2)
        if pace.rate is not None and (before is None or pace.rate < before):
            fell = now


@given(looks)
def test_any_pace_is_as_fast_as_ever_after_so_many_calm_moments(moments):
    pace, now = Pace(BOUNDS), 0.0
    for load, speed, passed in moments:
        now += passed
        pace.look(load, speed, now)
    for _ in range(STEPS + 1):
        now += SETTLE_SECONDS
        pace.look(CALM, 0.0, now)
    assert (pace.rate, pace.because, pace.ready(now)) == (None, "", True)


@given(st.floats(0, 1e6), st.lists(st.floats(0, 0.2), min_size=1, max_size=50), st.integers(1, 50_000))
def test_a_held_copy_reads_no_more_than_its_pace_and_a_chunk(speed, pauses, most):
    pace, now, taken = Pace(BOUNDS), 100.0, 0
    pace.look(LATE, speed, now)
    assert pace.rate is not None
    chunk = pace.rows(most)
    assert 1 <= chunk <= max(1, min(most, pace.rate * CHUNK_SECONDS))
    for pause in pauses:
        now += pause
        if pace.ready(now):
            pace.take(chunk, now)
            taken += chunk
    assert taken <= pace.rate * (now - 100.0) + chunk + 1e-3
    assert pace.ready(now + chunk / pace.rate + 1e-3)


@given(st.lists(loads))
def test_the_worst_load_is_the_longest_in_each_respect(found):
    load = worst(found)
    assert load.lag == max((f.lag for f in found), default=0.0)
    assert load.apply == max((f.apply for f in found), default=0.0)


def test_a_copy_is_slowed_down_by_lag_and_by_slow_transactions_and_says_by_which():
    for load, because in [
        (LATE, "changes reach my after 2.5 s"),
        (Load(apply=5.0, apply_node="mongo"), "mongo takes 5.0 s for a transaction"),
    ]:
        pace = Pace(BOUNDS)
        pace.look(CALM, 8_000, 1.0)
        assert (pace.rate, pace.rows(20_000), pace.slowed) == (None, 20_000, 0)
        pace.look(load, 8_000, 2.0)
        assert (pace.rate, pace.rows(20_000), pace.slowed) == (4_000, 2_000, 1)
        assert pace.because == because
        pace.look(load, 4_000, 3.0)
        assert pace.rate == 4_000
        pace.look(load, 4_000, 7.0)
        assert (pace.rate, pace.slowed) == (2_000, 2)
        pace.look(CALM, 2_000, 8.0)
        assert pace.rate == 2_400
