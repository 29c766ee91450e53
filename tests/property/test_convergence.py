"""The invariants of the conflict core, over random schedules of the product's own shard."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import pytest

from tests.property.checked import CheckedShard
from tests.property.databases import Database
from tests.property.holding import schedule_of
from tests.property.mutations import MUTATIONS, Mutation
from tests.property.mutations_hold import HOLD_MUTATIONS
from tests.property.scenario import Scenario

SCHEDULES = int(os.environ.get("SCHEDULES", "21000"))
POLICIES = [("last_write_wins",), ("source_priority",), ("merge_fields", "last_write_wins"), ("manual",)]
CHUNK = 500


def explore(
    policies: tuple[str, ...], base: int, count: int, *, filtered: bool = False, pauses: bool = False
) -> tuple[int, int, int, int]:
    """Run `count` schedules; their writes, conflicts, crashes, and batches sent beside what is paused."""
    writes = conflicts = crashes = beside = 0
    for seed in range(base, base + count):
        more = {"pipeline": 1 + seed % 3, "filtered": filtered, "pauses": pauses}
        scenario = Scenario(seed, 2 + seed % 2, policies, **more)
        done = schedule_of(scenario).run()
        writes += len(done.writes)
        conflicts += len(done.conflicts)
        crashes += done.crashes
        beside += done.sent_beside
    return writes, conflicts, crashes, beside


def fails(mutation: Mutation, schedules: int) -> bool:
    """Whether one of `schedules` schedules that the product passes notices the mutation."""
    for seed in range(mutation.first, mutation.first + schedules):
        scenario = mutation.build(seed)
        if not holds(scenario) and holds(replace(scenario, shard=CheckedShard, database=Database)):
            return True
    return False


def holds(scenario: Scenario) -> bool:
    """Whether nothing goes wrong in a schedule."""
    try:
        schedule_of(scenario).run()
    except (AssertionError, KeyError, StopIteration, IndexError):
        return False
    return True


@pytest.mark.parametrize("policies", POLICIES, ids=lambda p: p[0])
def test_databases_converge_whatever_the_interleaving(policies: tuple[str, ...]) -> None:
    check_all(policies, SCHEDULES // len(POLICIES))


@pytest.mark.parametrize("policies", POLICIES[:2], ids=lambda p: p[0])
def test_a_node_with_a_filter_holds_what_matches(policies: tuple[str, ...]) -> None:
    check_all(policies, SCHEDULES // 10, filtered=True)


@pytest.mark.parametrize("policies", POLICIES, ids=lambda p: p[0])
def test_paused_tables_wait_and_others_do_not(policies: tuple[str, ...]) -> None:
    """Whatever is paused and resumed when, and whoever crashes in between."""
    assert check_all(policies, SCHEDULES // 100, pauses=True) > SCHEDULES // 500


def check_all(policies: tuple[str, ...], each: int, **more: bool) -> int:
    """Run `each` schedules, and see that there was something to check."""
    bases = range(0, each, CHUNK)
    counts = [min(CHUNK, each - b) for b in bases]
    work = partial(explore, policies, **more)
    if each <= CHUNK:
        totals = [work(0, each)]  # quicker than to start a process for it
    else:
        # Schedules make very many objects and few cycles, which Python need not look for that often.
        rarely = {"initializer": gc.set_threshold, "initargs": (20_000, 20, 20)}
        with ProcessPoolExecutor(mp_context=get_context("spawn"), **rarely) as pool:
            totals = list(pool.map(work, bases, counts))
    writes, conflicts, crashes, beside = (sum(column) for column in zip(*totals, strict=True))
    assert writes > each * 10, "the schedules hardly wrote"
    assert conflicts > each, "the schedules hardly met a conflict"
    assert crashes > each, "the schedules hardly crashed"
    return beside


@pytest.mark.parametrize("mutation", [*MUTATIONS, *HOLD_MUTATIONS], ids=lambda m: m.name)
def test_every_rule_is_needed(mutation: Mutation) -> None:
    assert fails(mutation, 6000), f"no schedule noticed {mutation.name}"


def test_no_rule_is_blamed_when_none_is_off() -> None:
    assert not fails(Mutation("none", lambda seed: Scenario(seed, 2 + seed % 2)), 200)
