"""`audit erase`: a person's records are made unreadable, as somebody at a terminal has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.backend import Backend
from cluster import cli
from cluster.config import load
from replication.audit.holds import HoldRecord
from replication.audit.subjects import Subjects
from replication.audit.writer import AuditWriter
from tests.unit.audit_people import KEY, SUBJECTS, ring, rows
from tests.unit.audit_records import conflict
from tests.unit.test_config import complaints

CONFIG = f"""\
group: shop
nodes:
  pg: {{engine: postgres, dsn: "postgresql://127.0.0.1/shop"}}
  mongo: {{engine: mongodb, dsn: "mongodb://127.0.0.1/shop"}}
tables:
  people: {{key: [id]}}
  orders: {{key: [id]}}
api: {{}}
audit:
  path: log
  key: {KEY}
  subjects: {{people: id, orders: person}}
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG)
    with at_rest(tmp_path / "log", None) as audit:
        audit.add_changes("pg", 0, "orders", rows(1, "ann"))
    with at_rest(tmp_path / "log", SUBJECTS) as audit:
        for order, person in enumerate(("ann", "ann", "bob"), 2):
            audit.add_changes("pg", 0, "orders", rows(order, person))
            audit.add_changes("pg", 0, "people", rows(order, person, keyed=True))
            audit.add_conflicts([replace(conflict(order), left_image=json.dumps({"person": person}))])

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "-c", str(file)])
        return code, *capsys.readouterr()

    return run


def at_rest(path: Path, subjects: Subjects | None) -> closing[AuditWriter]:
    clock = count(1_000_000).__next__
    return closing(AuditWriter(path, "shop", clock, keys=ring(path), subjects=subjects))


def test_the_plan_is_shown_and_nothing_is_done_without_yes(call: Call) -> None:
    code, out, err = call("audit", "erase", "--table", "orders", "--subject", "ann")
    assert (code, out.splitlines()[-1]) == (0, "nothing was erased")
    assert "--yes erases without asking" in err
    assert "changes/orders: 2 records could never be read again" in out
    assert "conflicts: 2 records could never be read again" in out
    assert "changes/orders: 1 records stay readable, from before" in out
    assert "people" not in out
    assert "ann" not in out, "whoever sees the plan need not see whose it is"
    assert call("audit", "query")[1].count("ann") == 10


def test_what_is_erased_is_shown_as_erased(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("audit", "erase", "--table", "orders", "--subject", "ann", "--yes", "--json")
    assert code == 0
    done = json.loads(out)
    assert (done["records"], done["left"], done["erased"]) == (
        {"changes/orders": 2, "conflicts": 2},
        {"changes/orders": 1},
        True,
    )
    lines = call("audit", "query")[1].splitlines()
    assert sum(line.endswith("change    orders insert on pg: erased") for line in lines) == 2
    assert sum(line.endswith("conflict  orders on pg and mongo: erased") for line in lines) == 2
    assert [line for line in lines if "subject_erased" in line and done["key"] in line]
    assert call("audit", "verify")[0] == 0
    assert json.loads(call("conflicts", "list", "--json")[1])[0]["left_image"] == '{"person": "bob"}'
    assert call("audit", "tail")[0] == 0
    code, _, err = call("audit", "export", "--out", str(tmp_path / "out"))
    assert code == 0, err
    exported = pq.read_table(tmp_path / "out" / "changes-orders.parquet").to_pylist()
    assert [row["_erased"] for row in exported] == [None, True, True, False]
    code, _, err = call("audit", "erase", "--table", "orders", "--subject", "ann", "--yes")
    assert (code, "it may be erased already" in err) == (2, True)
    backend = Backend(load(tmp_path / "sync.yaml"), dict)
    client = TestClient(create_app(backend), base_url="http://127.0.0.1")
    shown = client.get("/audit/logs").json()["records"]
    assert sum(bool(r.get("_erased")) for r in shown) == 4
    assert [c["left"] for c in client.get("/conflicts").json()["conflicts"]] == [{"person": "bob"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--table", "orders", "--subject", "zoe"), "no record of orders is under a key of that subject"),
        (("--table", "items", "--subject", "ann"), "the records of items have no keys per subject"),
    ],
)
def test_what_cannot_be_erased_is_refused(call: Call, words: tuple[str, ...], said: str) -> None:
    code, _, err = call("audit", "erase", "--yes", *words)
    assert (code, said in err) == (2, True)


def test_a_person_of_whom_something_is_open_is_not_erased(call: Call, tmp_path: Path) -> None:
    with at_rest(tmp_path / "log", SUBJECTS) as audit:
        waits = replace(conflict(9), left_image='{"person": "ann"}', policy="manual", winner="")
        audit.add_conflicts([waits])
        audit.add_holds([HoldRecord("mongo", "people", b"bob", "bob", "pg", 1, 0, "bad")])
    code, _, err = call("audit", "erase", "--table", "orders", "--subject", "ann", "--yes")
    assert (code, "settle them first" in err) == (2, True)
    code, _, err = call("audit", "erase", "--table", "people", "--subject", "bob", "--yes")
    assert (code, "settle them first" in err) == (2, True)
    assert call("audit", "erase", "--table", "people", "--subject", "ann", "--yes")[0] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            ("{people: id, orders: person}", "{poeple: id}"),
            "audit.subjects.poeple: no table called 'poeple' | did",
        ),
        (("{people: id, orders: person}", "{}"), "audit.subjects: no table is named | write TABLE: COLUMN"),
        (
            (f"  key: {KEY}\n", ""),
            "audit.subjects: keys per subject need an audit log that is encrypted | set",
        ),
        (
            ("orders: {key: [id]}", "orders: {key: [id], exclude: [person]}"),
            "'person' is excluded | name a column",
        ),
    ],
)
def test_a_wrong_setting_is_named(wrong: tuple[str, str], said: str) -> None:
    assert wrong[0] in CONFIG
    [found] = complaints(CONFIG.replace(*wrong))
    assert said in found
