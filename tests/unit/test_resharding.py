"""The markers that another number of shards begins from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication.errors import LogLost
from replication.marker import Marker
from replication.position import Position
from replication.resharding import begun, first_markers, next_number

PLACES = {"a": Position(70, "seventy"), "b": Position(9, "nine")}
OLD = [Marker("g", s, 2, epoch=5, seq=10 + s, after=9, cut={"a": 70, "b": 9}) for s in range(2)]
NEW = [replace(m, epoch=8) for m in first_markers("g", PLACES, 3, 12)]


def test_new_shards_begin_where_the_old_ones_came_to_rest() -> None:
    assert next_number({"a": OLD, "b": [replace(m, seq=m.seq - 3) for m in OLD]}) == 12
    assert [(m.shard, m.shards, m.seq, m.after) for m in NEW] == [(s, 3, 12, 12) for s in range(3)]
    for marker in NEW:
        assert marker.resume == PLACES
        assert marker.cut == {"a": 70, "b": 9}
        assert marker.absorbed == {"a": {"b": 9}, "b": {"a": 70}}
        assert marker.echoed == {"a": 12, "b": 12}


def stored(markers: list[Marker]) -> list[Marker]:
    """What a node gives back of them."""
    return [Marker.load(m.group, m.shard, m.shards, m.epoch, m.seq, m.state(), m.versions) for m in markers]


def test_an_interrupted_change_is_known_from_any_node_that_has_the_new_markers() -> None:
    expected = [replace(m, epoch=0) for m in NEW]
    assert begun({"a": stored(NEW), "b": stored(OLD)}) == expected
    assert begun({"a": stored(OLD), "b": stored(NEW)}) == expected
    raised = [replace(m, epoch=m.epoch + 1) for m in NEW]  # a start that failed raises some
    assert begun({"a": stored(OLD), "b": stored(raised), "c": stored(NEW), "d": []}) == expected
    fewer = first_markers("g", PLACES, 1, 12)
    assert begun({"a": stored(OLD), "b": stored(fewer)}) == fewer


def test_nothing_is_to_be_finished_where_all_nodes_have_the_same_number() -> None:
    assert begun({"a": stored(OLD), "b": stored(OLD)}) is None
    assert begun({"a": stored(NEW), "b": stored([replace(m, seq=40) for m in NEW])}) is None
    assert begun({"a": [], "b": []}) is None


@pytest.mark.parametrize(
    "changed", [{"seq": 13}, {"cut": {"a": 71, "b": 9}}, {"weighed": {"a": 71, "b": 9}}], ids=str
)
def test_a_node_that_was_set_back_to_another_number_is_refused(changed: dict) -> None:
    gone_on = [*NEW[:2], replace(NEW[2], **changed)]
    told = "b was set back: it has markers of 2 shards, and others go on with 3"
    with pytest.raises(LogLost, match=told) as lost:
        begun({"a": stored(gone_on), "b": stored(OLD)})
    assert lost.value.node == "b"


def test_markers_that_are_not_older_are_not_replaced() -> None:
    with pytest.raises(LogLost):
        begun({"a": stored(NEW), "b": stored([replace(m, seq=12) for m in OLD])})
