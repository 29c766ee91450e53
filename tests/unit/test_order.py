"""The order of the tests themselves."""

from __future__ import annotations

import pytest

from tests.fixtures.order import spread


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize(("long", "short"), [(0, 10), (5, 0), (4, 2), (7, 50), (32, 2700), (0, 0)])
def test_every_test_runs_once_and_no_long_one_last(long: int, short: int, processes: int) -> None:
    order = spread(range(long), range(1000, 1000 + short), processes)
    assert sorted(order) == [*range(long), *range(1000, 1000 + short)]
    if long and short > 10 * long:
        ends = [len(order) * (n + 1) // processes for n in range(processes)]
        begins = [0, *ends[:-1]]
        for begin, end in zip(begins, ends, strict=True):
            places = [place for place, item in enumerate(order[begin:end]) if item < 1000]
            assert long // processes <= len(places) <= long // processes + 1
            assert max(places) <= (end - begin) * 0.7
