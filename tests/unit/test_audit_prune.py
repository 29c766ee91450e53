"""Retention: old records go, what is open stays known, and all that is left stays proven."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import cli
from replication.audit import evidence, proofs, store
from replication.audit.heads import SignerUnavailable, SoftwareSigner, new_signing_key
from replication.audit.holds import HoldRecord, open_holds
from replication.audit.query import Query, page, records
from replication.audit.records import DECISION_SCHEMA
from replication.audit.stream import Rolling
from replication.audit.verify import faults_of, read_heads, verify
from replication.audit.writer import AuditWriter
from replication.errors import ConfigError
from tests.fixtures.commands import nobody_there
from tests.unit.audit_records import changes, conflict, recorded

SECOND = 1_000_000
CONFIG = nobody_there("g") + "audit: {path: log}\n"


def opened(path: Path, at: int, **options) -> closing[AuditWriter]:
    rolling = Rolling(bytes=6_000, seconds=3600, head_seconds=5)
    return closing(AuditWriter(path, "g", lambda: at * SECOND, rolling=rolling, **options))


def decision(number: int) -> pa.RecordBatch:
    values = ["mongo", 0, 2, number, "orders", 2, b"k%d" % number, "pg", 1, 0, 5, "committed"]
    arrays = [pa.array([v], f.type) for v, f in zip(values, DECISION_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DECISION_SCHEMA)


def write(path: Path, numbers: range) -> None:
    """A record of each kind a second."""
    for n in numbers:
        with opened(path, n) as audit:
            audit.add_changes("pg", 0, "orders", changes([n]))
            audit.add_decisions(decision(n))
            audit.add_conflicts([conflict(n)])
            audit.add_operator("tick", n)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    write(path, range(1, 40))
    return path


def prune(path: Path, before: int, **options) -> dict[str, int]:
    with opened(path, 100, **options) as audit:
        return audit.prune(before * SECOND)


def faults(path: Path, **options) -> list[str]:
    return list(faults_of(verify(path, **options)))


def test_old_changes_and_decisions_go_and_the_rest_stays_proven(log: Path) -> None:
    kept = read_heads(log)[-1]
    everything = {r["_record"]: r for r in records(log, Query(kind="change"))}
    _, cursor = page(log, Query(kind="change"), 30)
    removed = prune(log, 25)
    assert set(removed) == {"changes/orders", "decisions"}
    left = recorded(log)
    gone = removed["changes/orders"]
    assert 10 < gone < 25, "whole segments only, and none that has a newer record"
    assert left == list(range(gone + 1, 40))
    assert len(recorded(log, "conflicts", "ident")) == 39
    assert not faults(log)
    assert not faults(log, given=kept)
    assert verify(log).pruned["changes/orders"] == gone
    assert {r["_record"]: r for r in records(log, Query(kind="change"))} == {
        place: r for place, r in everything.items() if place >= gone
    }, "records keep their places"
    assert [r["id"] for r in page(log, Query(kind="change"), 2, cursor)[0]] == [31, 32]
    assert (
        proofs.check(proofs.prove_record(log, "changes/orders", 35))["record"].column("id")[0].as_py() == 36
    )
    assert proofs.check(proofs.prove_growth(log, kept))
    with pytest.raises(ConfigError, match="was removed"):
        proofs.prove_record(log, "changes/orders", 0)
    write(log, range(101, 104))
    assert not faults(log)
    assert prune(log, 25) == {}, "once is enough"


def test_everything_old_goes_but_the_newest_segment(log: Path) -> None:
    prune(log, 1000)
    assert recorded(log)
    with opened(log, 200) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([39, 40])) == 1, (
            "what is on record is still known"
        )


def test_who_removes_records_by_himself_is_found(log: Path) -> None:
    [first, *_] = store.segments(store.stream_folder(log, "changes/orders"))
    assert evidence.keep_leaves(first)
    first.path.unlink()
    [line] = faults(log)
    assert line.endswith("its records were removed, and no head says so")


def test_what_is_kept_is_checked(log: Path) -> None:
    prune(log, 25)
    [first, *_] = store.pruned(store.stream_folder(log, "changes/orders"))
    data = first.path.read_bytes()
    for place in (40, len(data) // 2, len(data) - 6):
        damaged = bytearray(data)
        damaged[place] ^= 1
        first.path.write_bytes(bytes(damaged))
        assert len(faults(log)) == 1, place
    first.path.unlink()
    assert "missing" in faults(log)[0]


class Away:
    """A signer that is away."""

    def __init__(self) -> None:
        self.public_key = SoftwareSigner(new_signing_key()).public_key

    def sign(self, data: bytes) -> bytes:
        message = "unplugged"
        raise SignerUnavailable(message)


def test_nothing_is_removed_that_no_head_names(log: Path) -> None:
    assert prune(log, 25, signer=Away()) == {}
    assert recorded(log) == list(range(1, 40))
    assert not faults(log)
    assert prune(log, 25)
    assert not faults(log)


def test_a_crash_before_a_segment_is_removed_loses_nothing(log: Path) -> None:
    before = {f.path: f.path.read_bytes() for f in store.segments(store.stream_folder(log, "changes/orders"))}
    prune(log, 25)
    first = store.pruned(store.stream_folder(log, "changes/orders"))[0].path.with_suffix(".parquet")
    first.write_bytes(before[first])
    assert recorded(log)[:2] == [1, 2]
    assert not faults(log)
    assert prune(log, 25)["changes/orders"] > 0
    assert not faults(log)


def test_a_hold_that_is_over_stays_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with opened(log, 1) as audit:
        for n in (2, 500):
            audit.add_holds([HoldRecord("mongo", "orders", b"k%d" % n, f"{n}", "pg", 1, 0, "why")])
    write(log, range(2, 40))  # decisions: the row of k2 was written, that of k500 was not
    assert [h["key_text"] for h in open_holds(log)] == ["500"]
    (tmp_path / "sync.yaml").write_text(CONFIG)
    words = ["audit", "prune", "-c", str(tmp_path / "sync.yaml")]
    assert cli.main([*words, "--before", "1970-01-01T00:00:25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]["decisions"] > 1
    assert [h["key_text"] for h in open_holds(log)] == ["500"]
    over = [r for r in records(log, Query(kind="operator")) if r["kind"] == "hold_over"]
    assert len(over) == 1
    with opened(log, 300) as audit:
        audit.add_holds([HoldRecord("mongo", "orders", b"k2", "2", "pg", 2, 0, "again")])
    assert [h["key_text"] for h in open_holds(log)] == ["500", "2"]
    assert cli.main([*words, "--keep-days", "1"]) == 0
    assert [h["key_text"] for h in open_holds(log)] == ["500", "2"]
    assert cli.main(["audit", "verify", "-c", str(tmp_path / "sync.yaml")]) == 0
    assert "of them removed by 'audit prune'" in capsys.readouterr().out
    assert cli.main([*words, "--keep-days", "0"]) == 2
