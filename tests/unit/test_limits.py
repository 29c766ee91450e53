"""How many rows a node is given at a time."""

from __future__ import annotations

from actors.limits import AWAY_SECONDS, FIRST_ROWS, LEAST_ROWS, MOST_BYTES, BatchSize, Lag


def test_transactions_grow_while_they_go_through_at_once() -> None:
    size = BatchSize(5_000)
    assert size.rows == FIRST_ROWS
    for _ in range(10):
        size.learn(size.rows, 0)
    assert size.rows == 5_000


def test_small_transactions_tell_nothing_of_large_ones() -> None:
    size = BatchSize(5_000)
    size.learn(10, 0)
    assert size.rows == FIRST_ROWS


def test_write_conflicts_make_transactions_smaller_down_to_a_least_size() -> None:
    size = BatchSize(5_000)
    size.learn(1_000, 1)
    assert size.rows == FIRST_ROWS // 2
    for _ in range(10):
        size.learn(size.rows, 3)
    assert size.rows == LEAST_ROWS


def test_the_configured_most_is_never_exceeded() -> None:
    size = BatchSize(50)
    size.learn(50, 0)
    assert size.rows == 50
    size.learn(50, 9)
    assert size.rows == 50


def test_transactions_of_long_rows_have_few_and_grow_again_with_short_ones() -> None:
    size = BatchSize(5_000)
    for _ in range(3):
        size.learn(size.rows, 0, size.rows * MOST_BYTES // 100)
        assert size.rows == 100
    size.learn(size.rows, 0, size.rows * 2 * MOST_BYTES)
    assert size.rows == 1, "one has to go, however long it is"
    for _ in range(30):
        size.learn(size.rows, 0, size.rows * 100)
    assert size.rows == 5_000


def test_a_node_lags_from_long_silence_until_it_has_caught_up() -> None:
    now = [100.0]
    lag = Lag("b", lambda: now[0])
    assert not lag.look(0, 10)
    lag.ask()
    now[0] += AWAY_SECONDS
    assert not lag.look(50, 10)
    now[0] += 1
    lag.ask()  # the next one does not make it young again
    assert lag.look(50, 10)
    assert lag.since == 100.0
    lag.answer(more=True)
    assert lag.look(50, 10), "it catches up"
    assert not lag.look(10, 10)
    now[0] += AWAY_SECONDS + 1
    assert lag.look(10, 10), "the other one is not answered"
    lag.answer(more=False)
    assert not lag.look(10, 10)
    now[0] += AWAY_SECONDS + 1
    assert not lag.look(50, 10), "nothing is asked of it"
