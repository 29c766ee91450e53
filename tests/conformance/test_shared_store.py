"""What every shared store must do: in memory, in an actor, in Redis, and Redis with memory behind it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from cluster.servers.process import free_port
from cluster.sharing.address import RedisConfig
from cluster.sharing.fallback import WithFallback
from cluster.sharing.local import LocalStore
from cluster.sharing.on_ray import OnRay
from cluster.sharing.redis import RedisStore
from cluster.sharing.store import SharedStore
from tests.fixtures.parts import LocalHandle

Open = Callable[[], SharedStore]
KINDS = ("local", "ray", "redis", "both", "away")
SHARED = ("ray", "redis", "both")


def actor() -> LocalHandle:
    """A store, as a handle of the actor that holds it is used."""
    store = LocalStore()
    return LocalHandle(hit=store.hit, put=store.put, get=store.get, all=store.all, health=store.health)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens stores of one group; what they hold of earlier tests is of other groups."""
    kind, group = getattr(request, "param", "redis"), f"t{time.time_ns()}"
    with ExitStack() as stack:

        def kept(store: SharedStore) -> SharedStore:
            return stack.enter_context(closing(store))

        if kind == "local":
            yield lambda: kept(LocalStore())
        elif kind == "ray":
            handle = actor()
            yield lambda: kept(OnRay(handle))
        elif kind == "away":
            nowhere = RedisConfig(f"redis://127.0.0.1:{free_port()}/0")
            yield lambda: kept(WithFallback("redis", lambda: RedisStore(nowhere, group), LocalStore()))
        else:
            there = RedisConfig(request.getfixturevalue("redis_url"))
            far = lambda: RedisStore(there, group)  # noqa: E731
            if kind == "redis":
                yield lambda: kept(far())
            else:
                yield lambda: kept(WithFallback("redis", far, LocalStore()))


def refused(store: SharedStore, who: str, most: int) -> float:
    """Ask until somebody is refused; gives for how long.

    At the turn of a minute a few more than `most` are let in: what was before counts less and less.
    """
    for _ in range(10 * most):
        if wait := store.hit("subject", who, most):
            return wait
    message = f"{10 * most} were let in"
    raise AssertionError(message)


every_store = pytest.mark.parametrize("opened", KINDS, indirect=True)
shared_ones = pytest.mark.parametrize("opened", SHARED, indirect=True)


@every_store
def test_so_many_are_let_in_and_the_next_is_told_when(opened: Open) -> None:
    store = opened()
    assert [store.hit("subject", "alice", 5) for _ in range(5)] == [0.0] * 5
    assert 1.0 <= refused(store, who="alice", most=5) <= 120.0


@every_store
def test_kinds_and_people_are_counted_apart(opened: Open) -> None:
    store = opened()
    for kind, who in (("subject", "a"), ("subject", "b"), ("address", "a"), ("address", "2001:db8::7/x")):
        assert store.hit(kind, who, 1) == 0.0, (kind, who)
    assert refused(store, who="a", most=1)
    assert store.hit("subject", "a", 3) == 0.0, "a limit of its own"


@every_store
def test_threads_together_are_let_in_no_more_than_that(opened: Open) -> None:
    store, began = opened(), time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        waits = list(threads.map(lambda _: store.hit("subject", "a", 100), range(200)))
    at_the_turn = 1 + 100 * (time.monotonic() - began) / 60
    assert 100 <= Counter(waits)[0.0] <= 100 + at_the_turn


@every_store
def test_the_newest_value_is_there_until_it_expires(opened: Open) -> None:
    store = opened()
    assert (store.get("s", "a"), store.all("s")) == (None, {})
    store.put("s", "a", b"old", 60)
    store.put("s", "a", b"\x00\xff", 60)
    store.put("s", "", b"", 60)
    store.put("other", "a", b"elsewhere", 60)
    assert store.get("s", "a") == b"\x00\xff"
    assert store.all("s") == {"a": b"\x00\xff", "": b""}
    store.put("s", "a", b"short", 0.2)
    deadline = time.monotonic() + 60
    while store.get("s", "a") is not None:
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.01)
    assert store.all("s") == {"": b""}


@shared_ones
def test_what_one_replica_puts_and_counts_the_others_see(opened: Open) -> None:
    one, other = opened(), opened()
    one.put("s", "a", b"1", 60)
    other.put("s", "b", b"2", 60)
    assert one.all("s") == other.all("s") == {"a": b"1", "b": b"2"}
    assert one.get("s", "b") == b"2"
    began = time.monotonic()
    assert [s.hit("subject", "x", 20) for s in (one, other) * 10] == [0.0] * 20
    more = [s.hit("subject", "x", 20) for s in (one, other) * 10]
    assert more.count(0.0) <= 1 + 20 * (time.monotonic() - began) / 60, (
        "at the turn of a minute, see `refused`"
    )


@every_store
def test_health_says_what_it_is(opened: Open, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["opened"]
    health = opened().health()
    assert health.kind == (kind if kind in ("local", "ray") else "redis")
    assert bool(health.away_since) == bool(health.error) == (kind == "away")
