"""How many rows a node is given at a time."""

from __future__ import annotations

from actors.limits import FIRST_ROWS, LEAST_ROWS, BatchSize


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
