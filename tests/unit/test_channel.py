"""Channels between two ends in this process, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from cluster import channel
from cluster.channel import Address, Channel, Listening
from replication.errors import Fenced, NodeUnavailable

HOST = "127.0.0.1"
PATIENCE = 60.0


class Place:
    """Where a part is; it can be lost and made again elsewhere, as Ray does."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._there = threading.Event()
        self.listening: Listening | None = None
        self.asked = 0

    def made(self, **methods: Callable[..., Any]) -> Listening:
        self.listening = Listening(HOST, methods)
        self._stack.callback(self.listening.close)
        self._there.set()
        return self.listening

    def lost(self) -> None:
        self._there.clear()

    def locate(self) -> Address:
        self.asked += 1
        assert self._there.wait(PATIENCE)
        assert self.listening is not None
        return self.listening.address


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def place(stack: ExitStack) -> Place:
    return Place(stack)


def channel_to(place: Place, stack: ExitStack, *, repeats: bool = True) -> Channel:
    opened = Channel("resolver 0", place.locate, repeats=repeats)
    stack.callback(opened.close)
    return opened


def test_calls_of_one_caller_arrive_in_order_and_each_has_its_answer(place: Place, stack: ExitStack) -> None:
    seen: list[int] = []
    place.made(double=lambda n: (seen.append(n), 2 * n)[1])
    opened = channel_to(place, stack)
    answers = [opened.call("double", n) for n in range(500)]
    assert [a.result(PATIENCE) for a in answers] == [2 * n for n in range(500)]
    assert seen == list(range(500))


def test_a_call_that_answers_later_does_not_hold_up_the_next(place: Place, stack: ExitStack) -> None:
    later: Future[str] = Future()
    place.made(later=lambda: later, now=lambda: "now")
    opened = channel_to(place, stack)
    first = opened.call("later")
    assert opened.call("now").result(PATIENCE) == "now"
    assert not first.done()
    later.set_result("later")
    assert first.result(PATIENCE) == "later"


def test_an_error_comes_as_it_was_raised_and_says_where(place: Place, stack: ExitStack) -> None:
    def refuse() -> None:
        message = "batch 7 was refused"
        raise Fenced(message, node="b", hint="end")

    failed: Future[None] = Future()
    failed.set_exception(KeyError("k"))
    late: Future[object] = Future()
    late.set_result(lambda: None)
    place.made(refuse=refuse, failed=lambda: failed, unknown=lambda: lambda: None, late=lambda: late)
    opened = channel_to(place, stack)
    with pytest.raises(Fenced) as raised:
        opened.call("refuse").result(PATIENCE)
    assert (raised.value.node, raised.value.hint) == ("b", "end")
    assert "in refuse" in raised.value.__notes__[0]
    with pytest.raises(KeyError):
        opened.call("failed").result(PATIENCE)
    for unsendable in ("unknown", "late"):
        with pytest.raises(Exception, match="pickle"):
            opened.call(unsendable).result(PATIENCE)
    with pytest.raises(KeyError):
        opened.call("no such method").result(PATIENCE)


def test_arguments_that_cannot_be_sent_are_refused_and_harm_no_other_call(
    place: Place, stack: ExitStack
) -> None:
    place.made(same=lambda value: value)
    opened = channel_to(place, stack)
    with pytest.raises(Exception, match="pickle"):
        opened.call("same", lambda: None)
    assert opened.call("same", 1).result(PATIENCE) == 1


class Odd(Exception):
    """Cannot be made again from what it holds."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"odd {one + two}")


def test_an_error_that_cannot_be_made_again_comes_as_its_text(place: Place, stack: ExitStack) -> None:
    def odd() -> None:
        raise Odd(1, 2)

    place.made(odd=odd)
    with pytest.raises(RuntimeError, match="Odd: odd 3"):
        channel_to(place, stack).call("odd").result(PATIENCE)


def test_a_message_may_be_larger_than_any_buffer(place: Place, stack: ExitStack) -> None:
    place.made(same=lambda b: b)
    opened, large = channel_to(place, stack), bytes(range(256)) * (1 << 16)
    answers = [opened.call("same", large) for _ in range(4)]
    assert all(a.result(PATIENCE) == large for a in answers)


def test_a_caller_does_not_wait_for_an_end_that_does_not_read(place: Place, stack: ExitStack) -> None:
    go_on = threading.Event()
    seen: list[int] = []

    def take(number: int, _: bytes) -> None:
        assert go_on.wait(PATIENCE)
        seen.append(number)

    place.made(take=take)
    opened, large = channel_to(place, stack), b"x" * (4 << 20)
    answers = [opened.call("take", n, large) for n in range(16)]  # more than both systems' buffers hold
    assert not any(a.done() for a in answers)
    go_on.set()
    for answer in answers:
        answer.result(PATIENCE)
    assert seen == list(range(16))


def test_calls_on_their_way_to_a_part_that_is_lost_fail(place: Place, stack: ExitStack) -> None:
    connections = accepted(stack)

    def feed(number: int) -> int:
        if number == 1:
            connections[0].shutdown(socket.SHUT_RDWR)
        return number

    place.made(feed=feed)
    opened = channel_to(place, stack, repeats=False)
    with pytest.raises(NodeUnavailable, match="resolver 0"):
        opened.call("feed", 1).result(PATIENCE)
    assert opened.call("feed", 2).result(PATIENCE) == 2
    assert place.asked == 2


def test_calls_on_their_way_to_a_part_that_is_made_again_are_repeated_in_order(
    place: Place, stack: ExitStack
) -> None:
    connections = accepted(stack)
    begun, seen = threading.Event(), []

    def lose(n: int) -> Future[int]:
        begun.set()
        return Future()  # it never answers

    lost = place.made(apply=lose)
    opened = channel_to(place, stack)
    answers = [opened.call("apply", n) for n in range(5)]
    assert begun.wait(PATIENCE)
    place.lost()
    lost.close()
    for connection in connections:
        connection.shutdown(socket.SHUT_RDWR)
    answers.append(opened.call("apply", 5))
    place.made(apply=lambda n: (seen.append(n), n)[1])
    assert [a.result(PATIENCE) for a in answers] == seen == list(range(6))


def test_what_the_part_has_become_is_the_callers_error(stack: ExitStack) -> None:
    def locate() -> Address:
        message = "an actor was lost"
        raise NodeUnavailable(message)

    opened = Channel("applier b/0", locate, repeats=True)
    stack.callback(opened.close)
    with pytest.raises(NodeUnavailable, match="an actor was lost"):
        opened.call("apply", 1).result(PATIENCE)


def test_machines_that_do_not_reach_each_other_are_named_with_the_remedy(
    place: Place, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "UNREACHABLE_SECONDS", 0.0)
    place.made().close()
    with pytest.raises(NodeUnavailable, match=r"no connection to resolver 0 at 127\.0\.0\.1:.*open them"):
        channel_to(place, stack).call("apply", 1).result(PATIENCE)


def test_who_does_not_know_the_key_is_not_heard(
    place: Place, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "UNREACHABLE_SECONDS", 0.0)
    heard: list[int] = []
    address = place.made(feed=heard.append).address
    for tried in (replace(address, key=b"another"), replace(address, key=b"")):
        opened = Channel("resolver 0", lambda tried=tried: tried, repeats=True)
        stack.callback(opened.close)
        with pytest.raises(NodeUnavailable, match="no connection"):
            opened.call("feed", 1).result(PATIENCE)
    assert heard == []
    assert repr(address.key) not in repr(address)


def test_strangers_who_say_nothing_hold_nobody_up(place: Place, stack: ExitStack) -> None:
    address = place.made(feed=lambda n: n).address
    for _ in range(20):
        stack.enter_context(socket.create_connection((address.host, address.port)))
    assert channel_to(place, stack).call("feed", 1).result(PATIENCE) == 1


def test_a_stranger_who_says_nothing_is_put_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "GREET_SECONDS", 1)
    address = place.made().address
    with socket.create_connection((address.host, address.port), PATIENCE) as stranger:
        while stranger.recv(4096):  # the challenge
            pass


def accepted(stack: ExitStack) -> list[socket.socket]:
    """The parts' ends of all connections that are made from now on."""
    found: list[socket.socket] = []

    class Watched(channel._Outbox):
        def __init__(self, connected: socket.socket) -> None:
            super().__init__(connected)
            if threading.current_thread().name == "answering":
                found.append(connected)

    monkeypatch = pytest.MonkeyPatch()
    stack.callback(monkeypatch.undo)
    monkeypatch.setattr(channel, "_Outbox", Watched)
    return found
