"""Values that a person gives, and the conflicts that await one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.resolve import plan, value_of
from replication.audit.undecided import RESOLVED, newest_writes, undecided
from replication.audit.writer import AuditWriter
from replication.errors import ConfigError
from replication.position import order_of
from replication.schema import Table, TableMapping, TableSchema
from replication.types import Kind
from tests.fixtures.tables import column
from tests.unit.audit_records import conflict

COLUMNS = (
    column("id", Kind.INT64, "bigint", nullable=False),
    column("flag", Kind.BOOLEAN, "boolean", nullable=False),
    column("small", Kind.INT16, "smallint"),
    column("price", Kind.NUMERIC, "numeric"),
    column("doc", Kind.JSON, "jsonb"),
    column("raw", Kind.BYTES, "bytea"),
    column("day", Kind.DATE, "date"),
    column("ref", Kind.UUID, "uuid"),
    column("name", Kind.TEXT, "text"),
)
TABLE = Table(TableMapping("t", ("id",), {"pg": "t", "my": "t"}), TableSchema("t", COLUMNS, ("id",)))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("flag", "true", True),
        ("small", "-7", -7),
        ("price", "1.50", "1.50"),
        ("doc", '{"a": [1]}', '{"a": [1]}'),
        ("raw", "00ff", b"\x00\xff"),
        ("ref", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("name", "null", "null"),
        ("name", "", ""),
        ("name", None, None),
    ],
)
def test_a_value_is_read_as_its_column_has_it(name: str, text: str | None, expected: object) -> None:
    value = value_of(TABLE, name, text)
    assert value.as_py() == expected
    assert value.type == TABLE.schema.column(name).type.arrow


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nix", "1", "t has no column called 'nix'"),
        ("id", "1", "'id' is the key"),
        ("flag", None, "None is no boolean for 'flag'"),
        ("small", "40000", "'40000' is no int16 for 'small'"),
        ("price", "much", "'much' is no numeric for 'price'"),
        ("doc", "{", "'{' is no json for 'doc'"),
        ("raw", "xyz", "'xyz' is no bytes for 'raw'"),
        ("day", "soon", "'soon' is no date for 'day'"),
        ("ref", "12", "'12' is no uuid for 'ref'"),
    ],
)
def test_no_value_of_the_column_is_refused(name: str, text: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        value_of(TABLE, name, text)
    assert refused.value.message == message
    assert refused.value.hint


def test_what_awaits_a_person_is_known_from_the_audit_log(tmp_path: Path) -> None:
    writer = AuditWriter(tmp_path, "g", iter(range(1, 100)).__next__)
    nobody = [replace(conflict(number), winner="", policy="manual") for number in (1, 3)]
    writer.add_conflicts([nobody[0], conflict(2), nobody[1]])
    writer.flush()
    assert list(undecided(tmp_path)) == ["c1", "c3"]
    writer.add_operator(RESOLVED, {"idents": ["c1"]})
    writer.flush()
    assert list(undecided(tmp_path)) == ["c3"]
    writer.close()


def test_one_conflict_of_a_row_settles_all_of_it() -> None:
    rows = [
        {"ident": ident, "table": "t", "key": key, "left_node": "pg", "left_hi": hi, "left_lo": 1,
         "right_node": "my", "right_hi": 4, "right_lo": 0}
        for ident, key, hi in (("a", b"1", 5), ("b", b"1", 9), ("c", b"2", 7))
    ]  # fmt: skip
    (step,) = plan({"t": TABLE}, rows[:1], rows, "my", {"small": "3"})
    assert ([c["ident"] for c in step.conflicts], step.key, step.given["small"].as_py()) == (
        ["a", "b"],
        b"1",
        3,
    )
    assert newest_writes(step.conflicts) == {"pg": order_of(9, 1), "my": order_of(4, 0)}
    with pytest.raises(ConfigError, match="no node called 'mongo'"):
        plan({"t": TABLE}, rows[:1], rows, "mongo", {})
    with pytest.raises(ConfigError, match="table 't' is not mapped any more"):
        plan({}, rows[:1], rows, "my", {})
