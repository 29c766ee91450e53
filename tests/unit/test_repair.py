"""Whose row is right where nodes differ: what the policies say, and what the audit log knows."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from cluster.config import GroupConfig, load
from cluster.repair import Plan, make_plan
from cluster.verify_report import TableResult
from replication.audit.holds import HoldRecord
from replication.audit.writer import AuditWriter
from replication.difference import Difference, DifferenceKind
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind
from tests.unit.audit_records import changes

CONFIG = """\
group: shop
nodes:
  pg: {engine: postgres, dsn: "postgresql://127.0.0.1:1/shop", priority: 30}
  mongo: {engine: mongodb, dsn: "mongodb://127.0.0.1:1/shop", priority: 10}
tables:
  orders: {key: [id], conflict: [POLICY]}
audit: {path: audit}
"""


def config_with(folder: Path, policy: str = "last_write_wins") -> GroupConfig:
    file = folder / "sync.yaml"
    file.write_text(CONFIG.replace("POLICY", policy))
    return load(file)


def difference(key: bytes, pg: tuple[str, ...] | None, mongo: tuple[str, ...] | None) -> Difference:
    return Difference("orders", key, DifferenceKind.DIFFERENT, ("note",), {"pg": pg, "mongo": mongo})


def plan(config: GroupConfig, *differences: Difference, delete: bool = False) -> Plan:
    columns = (Column("id", CanonicalType(Kind.INT64)), Column("note", CanonicalType(Kind.TEXT)))
    result = TableResult(Table(config.tables[0], TableSchema("orders", columns, ("id",))))
    for one in differences:
        result.add(one, 100)
    return make_plan(config, [result], delete=delete)


def steps(made: Plan) -> list[tuple[str, bool, list[bytes]]]:
    return [(s.source, s.deletes, s.keys) for s in made.steps]


def written_at_mongo(config: GroupConfig) -> bytes:
    """A key whose newest write, as far as the audit log knows, was made at mongo."""
    rows = changes([7])
    with closing(AuditWriter(config.audit_path, "shop", count(1_700_000_000_000_000).__next__)) as audit:
        audit.add_changes("mongo", 0, "orders", rows)
    key: bytes = rows.column("_key")[0].as_py()
    return key


def test_without_a_record_the_higher_priority_is_right(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    made = plan(config, difference(b"1", ("a",), ("b",)), difference(b"2", None, ("b",)))
    assert steps(made) == [("pg", False, [b"1"]), ("mongo", False, [b"2"])]


@pytest.mark.parametrize(("policy", "winner"), [("last_write_wins", "mongo"), ("source_priority", "pg")])
def test_the_policy_looks_at_the_newest_write_on_record(tmp_path: Path, policy: str, winner: str) -> None:
    config = config_with(tmp_path, policy)
    key = written_at_mongo(config)
    assert steps(plan(config, difference(key, ("a",), ("b",)))) == [(winner, False, [key])]


def test_a_row_is_deleted_only_when_asked_and_never_one_on_hold(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    with closing(AuditWriter(config.audit_path, "shop", count(1_700_000_000_000_000).__next__)) as audit:
        audit.add_holds([HoldRecord("pg", "orders", b"2", "2", "mongo", 7, 0, "too long")])
    lacking = [difference(key, None, ("b",)) for key in (b"1", b"2")]
    assert steps(plan(config, *lacking)) == [("mongo", False, [b"1", b"2"])]
    made = plan(config, *lacking, delete=True)
    assert steps(made) == [("pg", True, [b"1"])]
    assert made.left == Counter({"orders": 1})


def test_what_no_node_can_give_is_left_alone(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    alone = Difference(
        "orders", b"1", DifferenceKind.UNREADABLE, (), {"pg": None, "mongo": None}, {"mongo": "note: no text"}
    )
    made = plan(config, alone, delete=True)
    assert (made.steps, made.left) == ([], Counter({"orders": 1}))
