"""PostgreSQL and MongoDB in sync, both ways, through the whole pipeline."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from replication.audit.holds import open_holds
from replication.change import Changes, LogEvent
from replication.engines.mongodb.source import MongoSource
from tests.fixtures.shop import Group


def test_changes_reach_the_other_side_in_both_directions(group: Group) -> None:
    group.sql.execute("INSERT INTO orders VALUES (1, 'a', 1, '{\"x\": [1, 2]}'), (2, 'b', 2, NULL)")
    group.wait(lambda left, right: left == right and len(right) == 2)
    group.docs.update_one({"_id": 1}, {"$set": {"qty": 5, "note": "stays"}})
    group.docs.insert_one({"_id": 3, "name": "c"})
    group.wait(lambda left, right: left == right and left.get(1, (0, 0))[1] == 5 and 3 in left)
    group.sql.execute("UPDATE orders SET name = 'z' WHERE id = 1")
    group.sql.execute("DELETE FROM orders WHERE id = 2")
    left, right = group.wait(lambda left, right: left == right and 2 not in right and left[1] == right[1])
    assert left[1] == ("z", 5, {"x": [1, 2]})
    assert group.docs.find_one({"_id": 1})["note"] == "stays"
    assert right.keys() == {1, 3}


def test_missing_versus_null(group: Group) -> None:
    """Case 11: a field absent in MongoDB is null in SQL, and still absent after the way back."""
    group.docs.insert_many([{"_id": 1, "name": "absent"}, {"_id": 2, "name": "null", "qty": None}])
    group.wait(lambda left, right: left.keys() == right.keys() == {1, 2})
    group.sql.execute("UPDATE orders SET name = name || '!' WHERE qty IS NULL")
    group.wait(lambda left, right: right[1][0] == "absent!" and right[2][0] == "null!")
    assert "qty" not in group.docs.find_one({"_id": 1})
    assert group.docs.find_one({"_id": 2})["qty"] is None


def test_poison_row_does_not_block(group: Group) -> None:
    """Case 28, in part: a row that cannot be read, or that a node refuses, is set aside with its reason."""
    group.docs.insert_one({"_id": 1, "name": "good", "qty": 1})
    group.wait(lambda left, right: left == right and len(left) == 1)
    group.docs.update_one({"_id": 1}, {"$set": {"qty": "many"}})
    group.sql.execute("ALTER TABLE orders ADD CHECK (qty < 1000)")
    group.docs.insert_many([{"_id": 2, "name": "big", "qty": 1000}, {"_id": 3, "name": "last", "qty": 3}])
    group.wait(lambda left, right: 3 in left)
    group.pipeline.stop()
    holds = open_holds(group.folder)
    assert [(h["node"], h["origin"], h["key_text"]) for h in holds] == [
        ("mongo", "mongo", "1"),
        ("pg", "mongo", "2"),
    ]
    assert "qty" in holds[0]["reason"]
    assert "orders_qty_check" in holds[1]["reason"]
    group.start()
    group.docs.update_one({"_id": 1}, {"$set": {"qty": 7}})
    group.docs.update_one({"_id": 2}, {"$set": {"qty": 8}})
    group.wait(lambda left, right: left == right and left[1][1] == 7 and left[2][1] == 8)
    group.pipeline.stop()
    assert open_holds(group.folder) == []
    group.start()


def test_a_restart_loses_nothing(group: Group) -> None:
    for start in range(1, 5):
        group.sql.execute(
            "INSERT INTO orders SELECT i, 'n', 0, NULL FROM generate_series(%s::int, %s::int) i",
            (start * 100, start * 100 + 50),
        )
        group.docs.insert_many({"_id": start * 1000 + i, "name": "d"} for i in range(20))
        group.pipeline.stop()
        group.sql.execute("UPDATE orders SET qty = 7 WHERE id = %s", (start * 100,))
        group.start()
    group.wait(lambda left, right: left == right and len(left) == 4 * 71)


def test_a_copy_replaces_what_differed_before(postgres_db: str, mongodb_db: str, tmp_path: Path) -> None:
    """A row that the target holds is left alone at first, in case an application has just written it.

    Where it holds just that row, for good: an application's next write may be on its way.
    """
    group = Group(postgres_db, mongodb_db, tmp_path / "audit")
    group.tables = [replace(t, mapping=replace(t.mapping, initial="pg")) for t in group.tables]
    group.sql.execute("INSERT INTO orders SELECT i, 'right', i, NULL FROM generate_series(1, 500) i")
    group.docs.insert_many({"_id": i, "name": "wrong", "note": "stays"} for i in range(1, 500, 3))
    group.docs.insert_many({"_id": i, "name": "right", "qty": i} for i in range(2, 500, 3))
    group.docs.update_one({"_id": 4}, {"$set": {"qty": "many"}})  # cannot be read
    group.start()
    try:
        group.wait(lambda left, right: left == right and len(right) == 500 and right[1][0] == "right")
        assert group.docs.find_one({"_id": 1})["note"] == "stays"
        group.pipeline.stop()
        outcomes = Counter(d["outcome"] for d in group.recorded("decisions"))
        assert outcomes == {"kept": 167 + 166, "committed": 500 - 166}
    finally:
        group.close()


BIG = "repeat(md5(random()::text), 4000)"


def toasted(group: Group) -> None:
    """A row whose document is stored out of line, so that an update of another column does not carry it."""
    group.sql.execute("ALTER TABLE orders ALTER doc SET STORAGE EXTERNAL")
    group.sql.execute(f"INSERT INTO orders VALUES (1, 'a', 1, jsonb_build_object('x', {BIG}))")


def test_unchanged_toast_survives(group: Group) -> None:
    toasted(group)
    group.wait(lambda left, right: left == right and len(right) == 1)
    group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    _, right = group.wait(lambda left, right: left == right and right[1][1] == 2)
    assert len(right[1][2]["x"]) == 128_000


def test_toast_in_one_batch(group: Group) -> None:
    with group.sql.transaction():
        toasted(group)
        group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    _, right = group.wait(lambda left, right: left == right and len(right) == 1)
    assert len(right[1][2]["x"]) == 128_000


def test_a_partial_update_that_beats_a_delete_brings_the_whole_row_back(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the delete is applied first, what the update left out is gone for good."""
    toasted(group)
    group.wait(lambda left, right: left == right and len(right) == 1)
    group.pipeline.stop()
    group.docs.delete_one({"_id": 1})
    group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    come_back = threading.Event()
    hold_changes_back(monkeypatch, come_back)
    group.start()
    group.wait(lambda left, right: left == right and right.get(1, (0, 0))[1] == 2)
    come_back.set()
    group.docs.insert_one({"_id": 2, "name": "last"})
    _, right = group.wait(lambda left, right: left == right and len(right) == 2)
    assert right[1][1] == 2
    assert len(right[1][2]["x"]) == 128_000


def test_an_update_whose_log_is_whole_brings_a_deleted_row_back_in_any_order(group: Group) -> None:
    toasted(group)
    group.sql.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    group.wait(lambda left, right: left == right and len(right) == 1)
    group.pipeline.stop()
    group.docs.delete_one({"_id": 1})
    group.sql.execute("UPDATE orders SET qty = 2 WHERE id = 1")
    group.start()
    _, right = group.wait(lambda left, right: left == right and right.get(1, (0, 0))[1] == 2)
    assert len(right[1][2]["x"]) == 128_000


def hold_changes_back(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> None:
    """Let MongoDB's log show no change of an application until then."""
    poll = MongoSource.poll
    waiting: list[LogEvent] = []

    def poll_less(self: MongoSource, max_rows: int, wait: float) -> list[LogEvent]:
        events = [*waiting, *poll(self, max_rows, wait)]
        places = [i for i, e in enumerate(events) if isinstance(e, Changes)]
        first = places[0] if places and not until.is_set() else len(events)
        waiting[:] = events[first:]
        return events[:first]

    monkeypatch.setattr(MongoSource, "poll", poll_less)
