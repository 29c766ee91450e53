"""What every retry store must do: the local one, RabbitMQ, and RabbitMQ with the local one behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cluster.retries.address import RabbitConfig
from cluster.retries.fallback import WithFallback
from cluster.retries.local import LocalStore
from cluster.retries.rabbitmq import RabbitStore
from replication.retries import DeadLetter, Deferred, RetryPlan, RetryStore
from tests.fixtures.rabbitmq import remove_queues

PLAN = RetryPlan(tries=3, first_seconds=0.4, max_seconds=1.0)
Open = Callable[[], RetryStore]


@pytest.fixture(params=["local", "rabbitmq", "both"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, own_group_of: Callable[[], tuple[str, str]]
) -> Open:
    if request.param == "local":
        return lambda: LocalStore(tmp_path)
    url, group = own_group_of()
    broker = lambda: RabbitStore(RabbitConfig(url), group, PLAN)  # noqa: E731
    if request.param == "rabbitmq":
        return broker
    return lambda: WithFallback(broker, LocalStore(tmp_path))


@pytest.fixture
def own_group_of(request: pytest.FixtureRequest) -> Iterator[Callable[[], tuple[str, str]]]:
    """The server and a group's name that nobody else uses, for whoever needs them."""
    made: list[tuple[str, str]] = []

    def make() -> tuple[str, str]:
        made.append((request.getfixturevalue("rabbitmq_url"), f"t{time.time_ns()}"))
        return made[-1]

    yield make
    for url, group in made:
        remove_queues(url, group, tuple(int(1000 * p) for p in PLAN.pauses()))


@contextmanager
def store_of(opened: Open) -> Iterator[RetryStore]:
    with closing(opened()) as store:
        store.recall(time.time())
        yield store


def wait_due(store: RetryStore, count: int) -> list[Deferred]:
    found: list[Deferred] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += store.due(time.time())
        time.sleep(0.01)
    return found


def test_an_entry_comes_when_it_is_due_and_not_before(opened: Open) -> None:
    with store_of(opened) as store:
        at = time.time() + 0.9
        entry = Deferred("a", 2, at)
        store.defer([entry], time.time())
        assert wait_due(store, 1) == [entry]
        assert time.time() >= at - 0.05
        assert store.due(time.time()) == [], "it is delivered once"
        store.confirm([entry])
        assert store.recall(time.time()) == []


def test_what_was_not_confirmed_comes_again(opened: Open) -> None:
    now = time.time()
    entries = [Deferred(name, 0, now) for name in "abc"]
    with store_of(opened) as store:
        store.defer(entries, now)
        came = wait_due(store, 3)
        assert {e.ident for e in came} == {"a", "b", "c"}
        store.confirm([e for e in came if e.ident == "b"])
    with store_of(opened) as store:
        assert sorted(e.ident for e in wait_due(store, 2)) == ["a", "c"]


def test_an_entry_that_waits_is_recalled_by_a_successor_and_still_comes(opened: Open) -> None:
    entry = Deferred("a", 1, time.time() + 0.8)
    with store_of(opened) as store:
        store.defer([entry], time.time())
    with closing(opened()) as store:
        assert store.recall(time.time()) == [entry]
        assert wait_due(store, 1) == [entry]
        store.confirm([entry])


def test_one_that_is_deferred_again_before_it_is_confirmed_stays(opened: Open) -> None:
    """What follows from a message is durable before the message is given back."""
    now = time.time()
    with store_of(opened) as store:
        first, second = Deferred("a", 1, now), Deferred("a", 1, now + 0.3)
        store.defer([first], now)
        assert wait_due(store, 1) == [first]
        store.defer([second], time.time())
        store.confirm([first])
        assert wait_due(store, 1) == [second]
        store.confirm([second])
    with closing(opened()) as store:
        assert store.recall(time.time()) == []


def test_many_entries_come_once_each(opened: Open) -> None:
    now = time.time()
    with store_of(opened) as store:
        store.defer([Deferred(str(i), 0, now + (i % 5) / 10) for i in range(300)], now)
        came = wait_due(store, 300)
        assert sorted(int(e.ident) for e in came) == list(range(300))
        store.confirm(came)
        assert store.recall(time.time()) == []


def test_dead_letters_stay_until_they_are_taken(opened: Open) -> None:
    letters = [DeadLetter(name, 6, 10.0, "pg", "orders", "mongo", name, "too long") for name in "abc"]
    with store_of(opened) as store:
        store.bury(letters)
        store.bury([DeadLetter("a", 6, 20.0, "pg", "orders", "mongo")])
    with store_of(opened) as store:
        found = {letter.ident: letter for letter in store.buried()}
        assert found.keys() == {"a", "b", "c"}
        assert found["b"] == letters[1]
        assert found["a"].since == 20.0, "the newest counts"
        store.take(["a", "nobody"])
        assert {letter.ident for letter in store.buried()} == {"b", "c"}
        store.take(["b", "c"])
        assert store.buried() == []
