"""The column of the rest: fields of a document that no other column maps, as a json column in SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from cluster.comparison import Manner, compare
from cluster.topology import with_rest
from replication.audit.holds import open_holds
from tests.fixtures.ends import MongoEnd, SqlEnd
from tests.fixtures.shop import Shop

FIXTURES = {"pg": "postgres_db", "my": "mysql_db", "mongo": "mongodb_db"}
SHAPES = [("pg", "mongo"), ("my", "mongo"), ("pg", "my", "mongo")]
OID = ObjectId("0123456789abcdef01234567")


class Loose(Shop):
    """A shop whose column `doc` is the rest; `exclude`d fields stay in the documents."""

    def loosen(self) -> None:
        """Map the rest."""
        for table in self.tables:
            mapping = replace(table.mapping, rest="doc", exclude=frozenset({"secret"}))
            self.tables = [replace(table, mapping=mapping, schema=with_rest(mapping, table.schema))]

    @property
    def docs(self) -> Any:
        """The collection."""
        mongo = self.ends["mongo"]
        assert isinstance(mongo, MongoEnd)
        return mongo.docs

    @property
    def sql(self) -> dict[str, SqlEnd]:
        """The other ends."""
        return {n: end for n, end in self.ends.items() if isinstance(end, SqlEnd)}

    def rest(self, node: str, key: int) -> Any:
        """What a SQL node has in the column; `...` if there is no such row."""
        found = self.sql[node].execute("SELECT doc FROM orders WHERE id = %s", key)[1]
        if not found:
            return ...
        text = found[0][0]
        return json.loads(text) if isinstance(text, str) else text

    def wait_rest(self, key: int, expected: Any) -> None:
        """Wait until every SQL node has this."""
        for node in self.sql:
            self.wait_for(
                lambda node=node: self.rest(node, key) == expected,
                state=lambda node=node: f"{node}: {self.rest(node, key)}",
            )

    def wait_document(self, key: int, expected: dict[str, Any] | None) -> None:
        """Wait until the document is this."""
        self.wait_for(
            lambda: self.docs.find_one({"_id": key}) == expected,
            state=lambda: str(self.docs.find_one({"_id": key})),
        )

    def differences(self) -> list:
        """What `verify` finds."""
        (result,) = compare(list(self.engines.values()), self.tables, Manner(quiet_time=0.2, tries=1))
        return result.shown


@pytest.fixture(params=SHAPES, ids="-".join)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Loose]:
    shop = Loose({n: request.getfixturevalue(FIXTURES[n]) for n in request.param}, tmp_path / "audit")
    shop.loosen()
    try:
        yield shop
    finally:
        shop.close()


def test_unmapped_fields_go_both_ways(shop: Loose) -> None:
    end = next(iter(shop.sql.values()))
    shop.start()
    shop.docs.insert_one({"_id": 1, "name": "a", "qty": 1, "tag": "x", "deep": {"n": [1, 2]}, "secret": 7})
    shop.wait_rest(1, {"tag": "x", "deep": {"n": [1, 2]}})
    shop.docs.update_one({"_id": 1}, {"$set": {"deep.n.1": 5, "qty": 2}, "$unset": {"tag": ""}})
    shop.wait_rest(1, {"deep": {"n": [1, 5]}})
    end.execute("UPDATE orders SET doc = %s WHERE id = 1", '{"deep": {"n": [1, 5]}, "more": null}')
    shop.wait_document(1, {"_id": 1, "name": "a", "qty": 2, "deep": {"n": [1, 5]}, "more": None, "secret": 7})
    end.execute("UPDATE orders SET doc = NULL WHERE id = 1")
    shop.wait_document(1, {"_id": 1, "name": "a", "qty": 2, "secret": 7})
    shop.docs.update_one({"_id": 1}, {"$set": {"back": True}})
    shop.wait_rest(1, {"back": True})
    shop.docs.replace_one({"_id": 1}, {"name": "b", "secret": 8})
    shop.wait_rest(1, None)
    end.execute("INSERT INTO orders VALUES (2, 'new', 2, %s)", '{"tag": [1, {"z": 0}]}')
    shop.wait_document(2, {"_id": 2, "name": "new", "qty": 2, "tag": [1, {"z": 0}]})
    shop.pipeline.stop()
    shop.docs.update_one({"_id": 2}, {"$set": {"while": "away"}})  # nobody looks
    end.execute("INSERT INTO orders VALUES (3, 'away', 3, %s)", '{"while": "away"}')
    shop.start()
    shop.wait_rest(2, {"tag": [1, {"z": 0}], "while": "away"})
    shop.wait_document(3, {"_id": 3, "name": "away", "qty": 3, "while": "away"})
    assert not shop.differences()
    shop.pipeline.stop()
    assert not shop.recorded("conflicts")


def test_a_field_that_stays_keeps_its_type(shop: Loose) -> None:
    """A change of one field sets that field: BSON types that JSON spells alike stay as they are."""
    end = next(iter(shop.sql.values()))
    shop.docs.insert_one({"_id": 1, "long": Int64(5), "id": OID, "other": 1})
    shop.copy_from("mongo")
    shop.start()
    shop.wait_rest(1, {"long": 5, "id": {"$oid": str(OID)}, "other": 1})
    end.execute(
        "UPDATE orders SET doc = %s, qty = 9 WHERE id = 1",
        json.dumps({"id": {"$oid": str(OID)}, "long": 5, "other": 2}),
    )
    shop.wait_document(1, {"_id": 1, "long": 5, "id": OID, "other": 2, "qty": 9})
    assert type(shop.docs.find_one({"_id": 1})["long"]) is Int64


def test_a_copy_and_what_is_empty(shop: Loose) -> None:
    """`{}` and a JSON null are no fields, and stay what they are where they were written."""
    first = next(iter(shop.sql))
    end = shop.sql[first]
    for key, doc in enumerate([None, "{}", "null", '{"tag": 1}', '{"a": {}}'], 1):
        end.execute("INSERT INTO orders VALUES (%s, 'n', 0, %s)", key, doc)
    shop.copy_from(first)
    shop.start()
    shop.wait_document(5, {"_id": 5, "name": "n", "qty": 0, "a": {}})
    shop.wait_for(lambda: all(each.count() == 5 for each in shop.ends.values()))
    assert [set(d) - {"_id", "name", "qty"} for d in shop.docs.find({}, sort=[("_id", 1)])] == [
        set(), set(), set(), {"tag"}, {"a"},
    ]  # fmt: skip
    assert not shop.differences()
    shop.docs.update_many({}, {"$set": {"qty": 1}})  # comes back with the rest as MongoDB has it
    for each in shop.sql.values():
        shop.wait_for(lambda each=each: all(row[1] == 1 for row in each.rows().values()))
    assert [shop.rest(first, key) for key in range(1, 6)] == [None, {}, None, {"tag": 1}, {"a": {}}]
    found = shop.sql[first].execute("SELECT id FROM orders WHERE doc IS NULL")[1]
    assert [row[0] for row in found] == [1], "a JSON null stays one"
    assert not shop.differences()


def test_what_cannot_be_a_field_is_held(shop: Loose) -> None:
    end = next(iter(shop.sql.values()))
    shop.start()
    bad = ["[1]", '{"qty": 1}', '{"secret": 1}', '{"a.b": 1}', '{"_id": 1}', '{"": 1}']
    for key, doc in enumerate(bad, 1):
        end.execute("INSERT INTO orders VALUES (%s, 'bad', 5, %s)", key, doc)
    end.execute(
        "INSERT INTO orders VALUES (10, 'good', 5, %s)", '{"$x": {"y": 1}, "ok": 1}'.replace("$x", "x")
    )
    shop.wait_document(10, {"_id": 10, "name": "good", "qty": 5, "x": {"y": 1}, "ok": 1})
    shop.pipeline.stop()
    assert shop.docs.count_documents({}) == 1
    reasons = {h["key_text"]: h["reason"] for h in open_holds(shop.folder)}
    assert reasons.keys() == {str(key) for key in range(1, len(bad) + 1)}
    assert "no JSON object" in reasons["1"]
    assert "the field qty has a place of its own" in reasons["2"]
    assert "no update can set a field called 'a.b'" in reasons["4"]
