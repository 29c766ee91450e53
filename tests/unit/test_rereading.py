"""The log of a paused node is read again exactly as far as it had been read."""

from __future__ import annotations

import pytest

from actors.rereading import Rereading
from replication.change import Changes, Echo, LogEvent, Progress
from replication.marker import Marker
from replication.position import Position, order_of
from tests.unit.test_resolver import insert

START = Position(order_of(1, 0), "")


class Log:
    """Sources of one log of single rows; `least` of them come together at least."""

    def __init__(self, last: int, least: int = 1) -> None:
        self.rows = list(range(2, last + 1))
        self.least = least
        self.echoes: set[int] = set()
        self.opened: list[int] = []

    def open(self, start: Position) -> Cursor:
        self.opened.append(start.order >> 32)
        return Cursor(self, start.order)


class Cursor:
    def __init__(self, log: Log, order: int) -> None:
        self.log, self.order, self.decode_echoes = log, order, False

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        left = [n for n in self.log.rows if order_of(n, 0) > self.order][: max(max_rows, self.log.least)]
        if not left:
            return []
        self.order = order_of(left[-1], 0)
        if left[0] in self.log.echoes:
            return [Echo(Marker("g", 0, 1, 1, 1), Position(self.order, ""))]
        return [insert(*left)]

    def confirm(self, position: Position) -> None:
        pass

    def close(self) -> None:
        pass


def keys(events: list[LogEvent]) -> list[int]:
    return [k for e in events if isinstance(e, Changes) for t in e.tables for k in t.rows["id"].to_pylist()]


def read_again(log: Log, until: int, most: int) -> tuple[Rereading, list[LogEvent]]:
    """Poll until the place is reached."""
    reading = Rereading(log.open, log.open(START), START)
    reading.source.decode_echoes = True
    events: list[LogEvent] = []
    for _ in range(100):
        events += reading.poll(most, 0.0, order_of(until, 0))
        if events and events[-1].end.order >= order_of(until, 0):
            break
    assert reading.source.decode_echoes
    return reading, events


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_what_was_written_since_stays_in_the_log(most: int) -> None:
    reading, events = read_again(Log(20), 9, most)
    assert keys(events) == list(range(2, 10))
    assert keys(reading.poll(100, 0.0, None)) == list(range(10, 21)), "and comes when the node is resumed"


def test_a_place_that_lies_between_two_changes_is_reached_without_either() -> None:
    log = Log(20)
    log.rows = [2, 3, 12, 13]
    reading, events = read_again(log, 9, 2)
    assert keys(events) == [2, 3]
    assert isinstance(events[-1], Progress)
    assert events[-1].end.order == order_of(9, 0)
    assert keys(reading.poll(100, 0.0, None)) == [12, 13]


def test_a_log_that_gives_no_less_at_a_time_is_taken_as_it_comes() -> None:
    reading, events = read_again(Log(20, least=4), 7, 100)
    assert keys(events) == list(range(2, 10))
    assert keys(reading.poll(100, 0.0, None)) == list(range(10, 21))


def test_beyond_the_place_events_come_one_by_one_until_our_echo_does() -> None:
    log = Log(20)
    log.echoes = {7}
    reading, _ = read_again(log, 5, 100)
    until = order_of(5, 0)
    assert keys(reading.poll(100, 0.0, until)) == [6]
    assert isinstance(reading.poll(100, 0.0, until)[0], Echo)
