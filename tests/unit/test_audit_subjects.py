"""Keys per subject: a person's records can be made unreadable, and everything else goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from replication.audit import evidence, proofs, store
from replication.audit.feed import Feed
from replication.audit.holds import HoldRecord, open_holds
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.query import Query, records
from replication.audit.reader import read
from replication.audit.records import DECISION_SCHEMA
from replication.audit.stored import SUBJECT, AuditKeyMissing, names_in
from replication.audit.stream import Rolling
from replication.audit.subjects import FILE, SubjectKeys, by_key, by_value
from replication.audit.undecided import undecided
from replication.audit.verify import faults_of, verify
from replication.audit.writer import AuditWriter
from replication.change import Op
from tests.unit.audit_people import SUBJECTS, key_of, ring, rows
from tests.unit.audit_records import conflict, opened

ROLLING = Rolling(bytes=4_000, seconds=3600)
PEOPLE = ("ann", "bob", "cleo")


def decision(number: int, table: str, key: bytes) -> pa.RecordBatch:
    values = ["mongo", 0, 2, number, table, 2, key, "pg", 1, 0, 5, "committed"]
    arrays = [pa.array([v], f.type) for v, f in zip(values, DECISION_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DECISION_SCHEMA)


def add(audit: AuditWriter, order: int, person: str) -> None:
    """A record of each kind about a person."""
    audit.add_changes("pg", 0, "people", rows(order, person, keyed=True))
    audit.add_changes("pg", 0, "orders", rows(order, person))
    audit.add_changes("pg", 0, "items", rows(order, "nobody"))
    audit.add_decisions(decision(order, "people", key_of(person)))
    images = {"left_image": json.dumps({"person": person}), "right_image": json.dumps({"person": None})}
    audit.add_conflicts([replace(conflict(order), **images)])
    audit.add_holds([HoldRecord("my", "people", key_of(person), person, "pg", 1, 0, f"bad {person}")])
    audit.flush()


def written(path: Path, orders: range = range(1, 16), **options: Any) -> None:
    with opened(path, rolling=ROLLING, keys=ring(path), subjects=SUBJECTS, **options) as audit:
        for order in orders:
            add(audit, order, PEOPLE[order % 3])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    written(path)
    return path


def erase(path: Path, person: str = "ann") -> None:
    with opened(path, rolling=ROLLING, keys=ring(path), subjects=SUBJECTS) as audit:
        for who, table in (
            (by_key("people", key_of(person)), "people"),
            (by_value("orders", person), "orders"),
        ):
            name = ring(path).subjects.find(who)
            assert name
            audit.erase(table, name, {})


def everything(path: Path, keys: Keyring | None = None) -> list[dict[str, Any]]:
    return list(records(path, Query(), keys=keys or ring(path)))


def about(found: list[dict[str, Any]], person: str) -> int:
    return sum(person in json.dumps(e) or key_of(person).hex() in json.dumps(e) for e in found)


def faults(path: Path) -> list[str]:
    return list(faults_of(verify(path)))


def test_an_erased_person_is_nowhere_and_everybody_else_is(log: Path) -> None:
    before = everything(log)
    proof = proofs.prove_record(log, "changes/people", 2)
    assert len(store.segments(store.stream_folder(log, "changes/people"))) > 2
    erase(log)
    found = everything(log)
    assert about(before, "ann") == 25, "a change of two tables, a decision, a conflict and a hold, five times"
    assert about(found, "ann") == 0
    for person in ("bob", "cleo", "nobody"):
        assert about(found, person) == about(before, person) > 0
    erased = [e for e in found if e.get("_erased")]
    assert len(erased) == 25
    assert {e["stream"] for e in erased} == {
        "changes/people",
        "changes/orders",
        "decisions",
        "conflicts",
        "holds",
    }
    assert all(e["_node"] == "pg" and e["_key"] is None for e in erased if e["stream"].startswith("changes/"))
    assert not faults(log), "leaves hash ciphertext"
    assert proofs.check(proof)
    assert proofs.check(proofs.prove_record(log, "changes/people", 2))
    assert [json.loads(e["detail"])["table"] for e in found if e.get("kind") == "subject_erased"] == [
        "people",
        "orders",
    ]


def test_what_decides_something_does_not_meet_erased_records(log: Path) -> None:
    keys = ring(log)
    assert {h["key_text"] for h in open_holds(log, keys)} == set(PEOPLE)
    erase(log)
    keys = ring(log)
    assert {h["key_text"] for h in open_holds(log, keys)} == {"bob", "cleo"}
    assert undecided(log, keys) == {}
    assert sum(b.num_rows for b in read(log, "conflicts", keys)) == 10
    with opened(log, rolling=ROLLING, keys=ring(log), subjects=SUBJECTS) as audit:
        assert audit.add_conflicts([replace(conflict(1))]) == 0, "it knows those that can be read"


def test_a_person_who_comes_again_has_another_key(log: Path) -> None:
    erase(log)
    written(log, range(100, 106))
    assert about(everything(log), "ann") == 10
    assert sum(bool(e.get("_erased")) for e in everything(log)) == 25
    assert not faults(log)


def test_a_reader_that_is_at_work_notices(log: Path) -> None:
    keys = ring(log)
    feed = Feed(log, keys)
    assert about(everything(log, keys), "ann") == 25
    erase(log)
    assert about(everything(log, keys), "ann") == 0
    written(log, range(200, 203))
    new = [row for added in feed.new() for row in added.rows.to_pylist()]
    assert {row["person"] for row in new if "person" in row} == {*PEOPLE, "nobody"}


def test_the_file_of_keys_says_nothing_of_whose_they_are(log: Path) -> None:
    erase(log, "bob")
    lines = [json.loads(line) for line in (log / FILE).read_text().splitlines()]
    assert [set(line) for line in lines].count({"name", "erased"}) == 2
    assert len(lines) == 1 + 2 * 3
    text = (log / FILE).read_bytes()
    for person in PEOPLE:
        assert person.encode() not in text
        assert key_of(person).hex().encode() not in text


def test_keys_that_are_lost_are_not_taken_for_erased(log: Path) -> None:
    (log / FILE).rename(log / "elsewhere")
    with pytest.raises(AuditKeyMissing, match="is not in"):
        everything(log)
    lines = (log / "elsewhere").read_text().splitlines()
    entry = json.loads(lines[1])
    entry["key"] = ("00" if entry["key"][:2] != "00" else "01") + entry["key"][2:]
    (log / FILE).write_text("\n".join([lines[0], json.dumps(entry), *lines[2:]]) + "\n")
    with pytest.raises(AuditKeyMissing, match="was altered"):
        everything(log)
    assert not faults(log)


def test_a_torn_line_is_written_over(tmp_path: Path) -> None:
    keys = SubjectKeys(tmp_path, lambda: b"k" * 32)
    [first] = keys.names_of([(b"a",)])
    assert first
    whole = (tmp_path / FILE).read_bytes()
    for torn in (b'{"name": "12', b"{"):
        (tmp_path / FILE).write_bytes(whole + torn)
        again = SubjectKeys(tmp_path, lambda: b"k" * 32)
        assert again.names_of([(b"a",)]) == [first]
        [second] = again.names_of([(b"b",)])
        assert second
        assert SubjectKeys(tmp_path, lambda: b"k" * 32).key(second) == again.key(second)
    (tmp_path / FILE).write_bytes(b'{"gener')
    assert SubjectKeys(tmp_path, lambda: b"k" * 32).names_of([(b"a",)]) != [first]
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_a_conflict_of_two_people_goes_with_either(tmp_path: Path) -> None:
    images = {"left_image": '{"person": "ann"}', "right_image": '{"person": "bob"}'}
    with opened(tmp_path, keys=ring(tmp_path), subjects=SUBJECTS) as audit:
        audit.add_conflicts([replace(conflict(1), **images)])
        audit.add_changes("pg", 0, "orders", rows(1, "bob"))
    [one] = [e for e in everything(tmp_path) if e["stream"] == "conflicts"]
    assert json.loads(one["right_image"]) == {"person": "bob"}
    with opened(tmp_path, keys=ring(tmp_path), subjects=SUBJECTS) as audit:
        name = ring(tmp_path).subjects.find(by_value("orders", "ann"))
        assert name
        audit.erase("orders", name, {})
    assert {e["stream"]: e.get("_erased", False) for e in everything(tmp_path)} == {
        "conflicts": True,
        "changes/orders": False,
        "operator": False,
    }


def test_keys_rotate_and_subjects_stay(log: Path) -> None:
    with opened(log, keys=ring(log), subjects=SUBJECTS) as audit:
        audit.rotate_keys()
        add(audit, 500, "ann")
        audit.rotate_keys(SoftwareMasterKey("ef" * 32))
    assert about(everything(log, ring(log, "ef" * 32)), "ann") == 30
    names = set()
    for file in store.segments(store.stream_folder(log, "changes/people")):
        segment = evidence.stored_segment(file)
        assert segment
        names |= {name for batch in segment.batches for name in names_in(batch)}
    assert len(names) == 3


def test_without_subjects_a_segment_is_as_before_and_a_new_one_begins(tmp_path: Path) -> None:
    with opened(tmp_path, keys=ring(tmp_path)) as audit:
        add(audit, 1, "ann")
    for subjects in (None, SUBJECTS, None):
        with opened(tmp_path, keys=ring(tmp_path), subjects=subjects) as audit:
            add(audit, 2 + len(everything(tmp_path)), "bob")
    found = []
    for file in store.segments(store.stream_folder(tmp_path, "changes/people")):
        segment = evidence.stored_segment(file)
        assert segment
        found.append(SUBJECT in segment.schema.names)
    assert found == [False, True, False]
    assert about(everything(tmp_path), "ann") == 5
    assert not faults(tmp_path)


def test_a_record_without_a_subject_stays_readable(log: Path) -> None:
    with opened(log, keys=ring(log), subjects=SUBJECTS) as audit:
        audit.add_changes("pg", 0, "orders", rows(900, None, Op.DELETE))
    erase(log)
    [last] = [e for e in everything(log) if e["stream"] == "changes/orders"][-1:]
    assert (last["_op"], last["_key"], last.get("_erased")) == (
        Op.DELETE,
        (900).to_bytes(12, "big").hex(),
        None,
    )
