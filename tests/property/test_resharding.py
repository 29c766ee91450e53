"""The invariants of the conflict core while the number of shards changes; SCHEDULES sets how many are run."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from tests.property.mutations_shards import MUTATIONS
from tests.property.resharding import Resharding, resharding_of
from tests.property.scenario import Scenario
from tests.property.test_convergence import POLICIES, SCHEDULES

EACH = SCHEDULES // 350
"""Schedules for each of the policies."""
CHUNK = 30


def scenario_of(seed: int, policies: tuple[str, ...] = POLICIES[0]) -> Scenario:
    return Scenario(seed, 2 + seed % 2, policies, pipeline=1 + seed % 3)


def explore(policies: tuple[str, ...], base: int) -> tuple[int, int, int]:
    """Run some schedules; changes of the number, those that a crash interrupted, and spoiled attempts."""
    done = [resharding_of(scenario_of(seed, policies)) for seed in range(base, base + CHUNK)]
    for schedule in done:
        schedule.run()
    return sum(s.changes for s in done), sum(s.finished for s in done), sum(s.spoiled for s in done)


@pytest.mark.parametrize("policies", POLICIES, ids=lambda p: p[0])
def test_databases_converge_while_the_number_of_shards_changes(policies: tuple[str, ...]) -> None:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        totals = list(pool.map(partial(explore, policies), range(0, EACH, CHUNK)))
    changes, finished, spoiled = (sum(column) for column in zip(*totals, strict=True))
    assert changes > EACH, "the schedules hardly changed the number"
    assert finished > EACH // 5, "they hardly crashed between two nodes"
    assert spoiled > EACH // 20, "they hardly spoiled an attempt"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__)
def test_every_rule_of_a_change_is_needed(mutation: type[Resharding]) -> None:
    seeds = range(mutation.first, mutation.first + 1000)
    assert any(fails(seed, mutation) and not fails(seed, Resharding) for seed in seeds), "nothing noticed"


def fails(seed: int, kind: type[Resharding]) -> bool:
    """Whether a schedule goes wrong."""
    try:
        kind(scenario_of(seed)).run()
    except (AssertionError, KeyError, StopIteration, IndexError):
        return True
    return False
