"""What a role sees of a record: the rules as they are written, and what becomes of values."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import cli
from cluster.config import InvalidConfig, load
from cluster.topology import open_catalogs, read_topology
from replication.audit.access import (
    EVERYTHING,
    HASH_PREFIX,
    ROLES,
    NotForRole,
    TableRule,
    Treatment,
    View,
    complete,
    masked,
)
from replication.audit.holds import HoldRecord
from replication.audit.keys import HASHING, Keyring, SoftwareMasterKey
from replication.audit.query import Query, records
from replication.audit.writer import AuditWriter
from replication.engines.memory import drop_database, open_database
from tests.fixtures.api_bed import ORDERS, write_config
from tests.unit.audit_records import changes, conflict
from tests.unit.test_config import MINIMAL, complaints, read

KEY = "ab" * 32
KEYED = f"audit:\n  key: {KEY}\n  access:\n"


def view(role: str = "auditor", secret: bytes = b"s", **columns: dict[str, Treatment]) -> View:
    rule = TableRule(("id",), {c.replace("all", "*"): complete(t) for c, t in columns.items()})
    return View(role, {"orders": rule, "items": TableRule(("id",))}, secret)


# The rules.


def test_rules_are_read() -> None:
    access = read(
        MINIMAL
        + KEYED
        + "    orders:\n      email: {auditor: masked, admin: clear}\n      note: hidden\n      '*': clear\n"
    ).audit.access
    assert access is not None
    rule = access["orders"]
    assert rule.key == ("id",)
    assert list(rule.columns["email"].values()) == ["hidden", "masked", "masked", "clear"]
    assert set(rule.columns["note"].values()) == {"hidden"}
    assert set(rule.columns["*"].values()) == {"clear"}
    assert read(MINIMAL).audit.access is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            KEYED + "    order: {note: hidden}\n",
            "sync.yaml:10: audit.access.order: no table called 'order' | did you mean 'orders'?",
        ),
        (
            KEYED + "    orders: {note: hiden}\n",
            "sync.yaml:10: audit.access.orders.note: 'hiden' is not known here | did you mean 'hidden'?",
        ),
        (
            KEYED + "    orders: {note: {auditer: clear}}\n",
            "sync.yaml:10: audit.access.orders.note.auditer: unknown key | did you mean 'auditor'?",
        ),
        (
            KEYED + "    orders: {note: {auditor: clear, operator: masked}}\n",
            "sync.yaml:10: audit.access.orders.note: operator would see less than auditor | "
            "each role sees what those before it see: viewer, auditor, operator, admin",
        ),
        (
            KEYED + "    orders: {note: [hidden]}\n",
            "sync.yaml:10: audit.access.orders.note: expected a treatment, or one for each role, found a list"
            " | write hidden, or {auditor: masked, admin: clear}",
        ),
        (
            KEYED + "    orders: {}\n",
            "sync.yaml:10: audit.access.orders: no column is named | name at least one, or '*' for all",
        ),
        (
            "audit: {access: {orders: {note: hidden}}}\n",
            "sync.yaml:7: audit.access: it needs an audit log that is encrypted | set audit.key: in clear, "
            "whoever reads the log's folder or its proofs sees every value",
        ),
    ],
)
def test_a_wrong_rule_is_named_with_its_line_and_its_fix(text: str, said: str) -> None:
    assert said in complaints(MINIMAL + text)


def test_an_excluded_column_has_no_rule() -> None:
    text = MINIMAL.replace("{key: [id]}", "{key: [id], exclude: [note]}") + KEYED
    [said] = complaints(text + "    orders: {note: hidden}\n")
    assert "audit.access.orders.note: 'note' is excluded" in said


def test_a_column_that_no_table_has_keeps_a_group_from_starting(tmp_path: Path) -> None:
    access = f", key: {KEY}, access: {{orders: {{nmae: hidden, name: masked}}}}"
    config = load(write_config(tmp_path, audit=access))
    names = [n.dsn.removeprefix("memory://") for n in config.nodes]
    try:
        for name in names:
            open_database(name).create_table(ORDERS)
        with open_catalogs(config) as catalogs, pytest.raises(InvalidConfig) as caught:
            read_topology(config, catalogs)
    finally:
        for name in names:
            drop_database(name)
    [problem] = caught.value.problems
    assert problem.path == "audit.access.orders.nmae"
    assert (problem.line, problem.hint) == (9, "did you mean 'name'?")


# What becomes of values.


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("Jane.Doe@example.com", "xxxx.xxx@xxxxxxx.xxx"),
        ("", ""),
        ("東京 7!", "xx x?"),
        (-12.5, "-xx.x"),
        (True, "x"),
        (b"\0\1\2", "3 bytes"),
        ("a" * 41, "x" * 40 + "…"),
    ],
)
def test_a_masked_value_shows_its_shape_alone(value: Any, shape: str) -> None:
    assert masked(value) == shape


def shown(seen: View, values: list[Any], kind: pa.DataType, table: str = "orders") -> list[Any]:
    rows = changes(range(1, len(values) + 1))
    rows = rows.set_column(rows.schema.get_field_index("note"), "note", pa.array(values, kind))
    found = seen.rows(f"changes/{table}", rows)
    return found.column("note").to_pylist() if "note" in found.schema.names else []


def test_equal_values_hash_alike_and_only_under_the_same_key_and_column() -> None:
    rules = {"note": {"auditor": Treatment.HASHED}, "all": {"auditor": Treatment.HASHED}}
    a, b, c, none = shown(view(**rules), ["x", "y", "x", None], pa.utf8())
    assert (a == c, a == b, none) == (True, False, None)
    assert a.startswith(HASH_PREFIX)
    assert shown(view(secret=b"t", **rules), ["x"], pa.utf8()) != [a]
    assert shown(view(**rules), [5], pa.int32()) == shown(view(**rules), [5], pa.int64())
    other = view(**rules).rows("changes/orders", changes([1])).column("id").to_pylist()
    assert other != shown(view(**rules), ["1"], pa.utf8()), "each column has hashes of its own"


def test_a_role_that_is_not_named_sees_what_the_one_before_it_does() -> None:
    rule = {"note": {"auditor": Treatment.MASKED, "admin": Treatment.CLEAR}}
    seen = {role: shown(view(role, **rule), ["ab"], pa.utf8()) for role in ROLES}
    assert seen == {"viewer": [], "auditor": ["xx"], "operator": ["xx"], "admin": ["ab"]}


def test_a_star_is_for_what_is_not_named_and_other_tables_stay_open_or_are_not_known() -> None:
    seen = view(all={"auditor": Treatment.HIDDEN}, id={"auditor": Treatment.CLEAR})
    rows = seen.rows("changes/orders", changes([7]))
    assert rows.column("id").to_pylist() == [7]
    assert "note" not in rows.schema.names
    assert seen.rows("changes/items", changes([7])).equals(changes([7]))
    assert not {"id", "note", "_key"} & set(seen.rows("changes/gone", changes([7])).schema.names)


def test_the_strictest_column_of_a_key_decides() -> None:
    parts = {"a": complete({"viewer": Treatment.HASHED}), "b": complete({"viewer": Treatment.MASKED})}
    assert View("viewer", {"t": TableRule(("a", "b"), parts)}).of_key("t") is Treatment.MASKED


@pytest.mark.parametrize("treatment", [Treatment.MASKED, Treatment.HIDDEN])
def test_a_key_that_is_not_seen_cannot_be_asked_for(treatment: Treatment) -> None:
    seen = view(id={"viewer": treatment})
    for table in ("orders", None, "gone"):
        with pytest.raises(NotForRole, match="cannot ask for one") as caught:
            Query(table=table, key="7", view=seen)
        assert "7" not in str(caught.value)
    assert Query(table="items", key="7", view=seen).key == "7"


def test_who_sees_everything_gets_what_is_recorded() -> None:
    rows = changes([1, 2])
    assert EVERYTHING.rows("changes/orders", rows) is rows
    assert view("admin", note={"admin": Treatment.CLEAR}).rows("changes/orders", rows) is rows


# As somebody at a terminal has it.

ACCESS = "    orders: {note: {auditor: hashed, admin: clear}, id: {auditor: hashed, admin: clear}}\n"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command on a log with one record of each kind."""
    file = tmp_path / "sync.yaml"
    file.write_text(MINIMAL + KEYED.replace("audit:\n", "audit:\n  path: log\n") + ACCESS)
    keys = Keyring(tmp_path / "log", SoftwareMasterKey(KEY))
    with closing(AuditWriter(tmp_path / "log", "shop", count(1).__next__, keys=keys)) as audit:
        audit.add_changes("pg", 0, "orders", changes([7]))
        audit.add_conflicts([conflict(7)])
        audit.add_holds([HoldRecord("pg", "orders", b"k", "key k", "mongo", 1, 0, "note 7 is too long")])
        audit.add_operator("dlq_retried", [{"id": "1", "key": "note 7"}])

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "-c", str(file)])
        return code, *capsys.readouterr()

    return run


COMMANDS = (
    "audit tail",
    "audit query",
    "audit query --json",
    "audit export --out - --format jsonl",
    "conflicts list",
    "dlq list",
    "dlq list --json",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_show_everything_and_as_a_role_what_it_sees(call: Call, command: str) -> None:
    words = command.split()
    code, out, _ = call(*words)
    assert (code, "note 7" in out or " k " in out) == (0, True)
    code, limited, err = call(*words, "--as", "auditor")
    assert (code, "note 7" in limited, " k " in limited, "key k" in limited) == (0, False, False, False), err
    assert HASH_PREFIX in limited
    assert call(*words, "--as", "admin")[1] == out


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_an_export_for_a_role_holds_what_it_sees(call: Call, tmp_path: Path, form: str) -> None:
    code, _, err = call(
        "audit", "export", "--format", form, "--as", "auditor", "--out", str(tmp_path / "out")
    )
    assert code == 0, err
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(written) == {f"{n}.{form}" for n in ("changes-orders", "conflicts", "holds", "operator")}
    if form == "parquet":
        tables = {n: pq.read_table(tmp_path / "out" / n) for n in written}
        [note] = tables["changes-orders.parquet"].column("note").to_pylist()
        assert note.startswith(HASH_PREFIX)
        written = {n: str(t.to_pylist()).encode() for n, t in tables.items()}
    assert not any(b"note 7" in data or b"key k" in data for data in written.values())


def test_a_conflict_has_another_name_where_its_key_is_not_seen(call: Call) -> None:
    [whole] = json.loads(call("conflicts", "list", "--json")[1])
    [seen] = json.loads(call("conflicts", "list", "--json", "--as", "auditor")[1])
    assert seen["id"] != whole["id"], "it is made from the key, which could be tried out"
    assert call("conflicts", "show", seen["id"], "--as", "auditor")[0] == 0
    assert call("conflicts", "show", whole["id"], "--as", "auditor")[0] == 2
    code, _, err = call("conflicts", "show", seen["id"], "--as", "auditor", "--now")
    assert (code, "leave out --now" in err) == (2, True)


def test_as_needs_the_rules(call: Call, tmp_path: Path) -> None:
    code, _, err = call("audit", "tail", "--as", "auditor", "--audit", str(tmp_path / "log"))
    assert (code, "leave --audit out" in err) == (2, True)
    file = tmp_path / "sync.yaml"
    file.write_text(file.read_text().replace("{note: {", "{noet: {"))
    code, _, err = call("audit", "tail", "--as", "auditor")
    assert (code, "audit.access.orders.noet: no such column is on record" in err) == (2, True)


def test_hashes_outlive_a_rotation(call: Call, tmp_path: Path) -> None:
    before = call("audit", "query", "--kind", "change", "--as", "auditor")[1]
    assert call("audit", "rotate-key")[0] == 0
    assert call("audit", "query", "--kind", "change", "--as", "auditor")[1] == before
    keys = Keyring(tmp_path / "log", SoftwareMasterKey(KEY))
    assert HASHING not in {e["stream"] for e in records(tmp_path / "log", Query(), keys=keys)}
