"""What the running group says of rows in doubt, however it is made anew meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from actors.watching import MOST, Watched, Watches
from cluster.settling import GroupSettling
from replication.errors import NodeUnavailable
from replication.schema import Table, TableMapping, TableSchema
from tests.fixtures.parts import LocalHandle

TABLE = Table(TableMapping("t", ("id",), {"a": "t"}), TableSchema("t", (), ("id",)))
KEYS = [b"1", b"2"]


@dataclass
class Fake:
    """A group of one node and one shard, whose log shows every watermark at once."""

    node: str = "a"
    written: list[str] = field(default_factory=list)
    watching: set[str] = field(default_factory=set)
    touched: frozenset[bytes] = frozenset()
    away: bool = False

    def write_watermark(self, ident: str) -> None:
        self.written.append(ident)

    def passed(self, ident: str) -> int | None:
        return self.written.index(ident) if ident in self.written else None

    def watch(self, ident: str, table: str, keys: list[bytes]) -> None:
        assert (table, keys) == ("t", KEYS)
        self.watching.add(ident)

    def watched(self, ident: str) -> Watched | None:
        if self.away:
            raise NodeUnavailable("the resolver waits for the markers")
        known = ident in self.watching
        return Watched(on_their_way=False, touched=self.touched, position={"a": 99}) if known else None

    def parts(self) -> Mapping[str, LocalHandle]:
        resolver = LocalHandle(watch=self.watch, watched=self.watched, unwatch=self.watching.discard)
        return {"capture a": LocalHandle(passed=self.passed), "resolver 0": resolver}


def test_rows_that_no_log_has_shown_a_change_of_are_not_in_doubt() -> None:
    group = Fake()
    settling = GroupSettling(group.parts, [group])
    settling.settle(TABLE, KEYS, 0)
    group.touched = frozenset({b"2"})
    assert settling.doubtful() == {b"2"}
    assert group.watching == set(), "the watch is let go of"


def test_a_group_that_began_anew_costs_a_try() -> None:
    group = Fake()
    settling = GroupSettling(group.parts, [group])
    settling.settle(TABLE, KEYS, 0)
    group.watching.clear()
    assert settling.doubtful() == set(KEYS)
    settling.settle(TABLE, KEYS, 1)
    assert settling.doubtful() == set()


@pytest.mark.parametrize("lacking", ["a part", "an answer"])
def test_a_group_that_is_not_there_in_time_leaves_everything_in_doubt(lacking: str) -> None:
    group = Fake(away=lacking == "an answer")
    parts = (dict) if lacking == "a part" else group.parts
    settling = GroupSettling(parts, [group], patience=0.05)
    for attempt in range(2):
        settling.settle(TABLE, KEYS, attempt)
        assert settling.doubtful() == set(KEYS)
    assert group.written == []


def test_the_oldest_watch_goes_when_there_are_too_many() -> None:
    watches = Watches()
    for number in range(MOST + 1):
        watches.begin(str(number), "t", KEYS)
    assert watches.get("0") is None
    assert watches.get("1") is not None
    watches.end("1")
    assert watches.get("1") is None
