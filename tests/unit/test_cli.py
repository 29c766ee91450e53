"""The command line's frame, and the commands that read the audit log."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import cli
from cluster.commands import audit as audit_command
from cluster.commands.common import time_text
from cluster.logs import HIDDEN
from replication.audit.holds import DEAD_LETTER, HoldRecord
from replication.audit.records import DECISION_SCHEMA
from replication.audit.writer import AuditWriter
from replication.errors import NodeUnavailable
from tests.fixtures.commands import nobody_there
from tests.unit.audit_records import changes, conflict

CONFIG = nobody_there()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An audit log with one record of each kind."""
    path = tmp_path / "audit"
    decision = [["mongo"], [0], [2], [7], ["orders"], [2], [b"k"], ["pg"], [1], [0], [5], ["committed"]]
    with closing(AuditWriter(path, "shop", count(1_700_000_000_000_000).__next__)) as audit:
        audit.add_operator("started", {"nodes": 2})
        audit.add_changes("pg", 0, "orders", changes([7]))
        columns = [pa.array(v, f.type) for v, f in zip(decision, DECISION_SCHEMA, strict=True)]
        audit.add_decisions(pa.RecordBatch.from_arrays(columns, schema=DECISION_SCHEMA))
        audit.add_conflicts([conflict(1)])
    return path


def test_help_is_quick_and_lists_every_command() -> None:
    code = "import sys; from cluster.cli import build_parser; build_parser().print_help(); "
    code += "sys.exit(', '.join({'pyarrow', 'ray', 'yaml', 'rich', 'psycopg'} & set(sys.modules)) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"imported for nothing: {found.stderr}"
    for command in cli.COMMANDS:
        assert f"\n    {command} " in found.stdout
    assert "exit codes: 0 success, 1" in found.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["conflicts", "list"],
        ["conflicts", "show"],
        ["dlq", "list"],
        ["dlq", "retry"],
        ["dlq", "discard"],
        ["audit", "tail"],
        ["audit", "query"],
        ["audit", "prune"],
        ["audit", "export"],
        ["audit", "verify"],
        ["audit", "head"],
        ["audit", "proof"],
        ["audit", "rotate-key"],
        ["backfill"],
        ["db", "init"],
        ["db", "migrate"],
        ["db", "drop"],
        ["reset"],
        ["verify"],
    ],
)
def test_every_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"\n  sync-worker {' '.join(words)} " in text, "an example"
    for option in ("--config FILE", "--log-level", "--json"):
        assert option in text


@pytest.mark.parametrize("words", [[], ["nonsense"], ["audit"], ["check", "--nonsense"]])
def test_a_wrong_command_line_exits_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2


def test_errors_are_readable_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG.replace("[id]", "[id], initial: {from: pgg}") + "shard: 1\n")
    assert cli.main(["conflicts", "list", "-c", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {file}:6: tables.orders.initial.from: no node called 'pgg'",
        "    hint: did you mean 'pg'?",
        f"error: {file}:7: shard: unknown key",
        "    hint: did you mean 'shards'?",
    ]
    file.write_text(CONFIG)
    assert cli.main(["audit", "tail", "-c", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: no audit log in {tmp_path}/data/audit",
        "hint: it is written by 'sync-worker up'; --audit DIR names another folder",
    ]


def outcome_of(action: object, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(audit_command, "run", action)
    return cli.main(["audit", "tail", *words])


def test_an_error_names_its_node_and_shows_a_traceback_at_debug_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        message = "cannot connect to postgresql://me:hunter2@db/shop"
        raise NodeUnavailable(message, node="pg", hint="is it running?")

    assert outcome_of(fail, monkeypatch) == 2
    text = capsys.readouterr().err
    assert text == f"error: pg: cannot connect to postgresql://me:{HIDDEN}@db/shop\nhint: is it running?\n"
    assert outcome_of(fail, monkeypatch, "--log-level", "debug") == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "hunter2" not in text


def test_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    assert outcome_of(interrupt, monkeypatch) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_part_that_does_not_answer_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(args: object) -> int:
        raise TimeoutError

    assert outcome_of(late, monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: a part of the group did not answer in time"


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-m", "cluster.cli", "audit", "tail", "--audit", str(folder), "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "started" in child.stdout.readline()
        child.stdout.close()
        with closing(AuditWriter(folder, "shop", count(1_800_000_000_000_000).__next__)) as audit:
            audit.add_operator("stopped", {})
        assert child.wait(timeout=30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_audit_tail_shows_one_line_per_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "tail", "--audit", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        '2023-11-14T22:13:20.000001Z  operator  started {"nodes":2}',
        "2023-11-14T22:13:20.000002Z  change    orders insert on pg: id=7 note=note 7",
        "2023-11-14T22:13:20.000003Z  decision  orders update of pg for mongo: committed"
        " (key 6b, epoch 2, batch 7)",
        "2023-11-14T22:13:20.000004Z  conflict  orders update_update of k on pg and mongo:"
        " pg by last_write_wins",
    ]
    assert cli.main(["audit", "tail", "--audit", str(folder), "--json", "-n", "1", "--kind", "change"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["id"] == 7


def test_conflicts_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conflicts", "list", "--audit", str(folder)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "recorded", "table", "key", "kind", "writes", "winner", "policy"]
    assert row.split()[2:5] == ["orders", "k", "update_update"]
    assert cli.main(["conflicts", "list", "--audit", str(folder), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["ident"], found["winner"], found["key"]) == ("c1", "pg", "6b")
    assert cli.main(["conflicts", "list", "--audit", str(folder), "--table", "other"]) == 0
    assert capsys.readouterr().out == "no conflicts on record\n"


def test_rows_on_hold_are_listed_until_they_are_written_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def held(key: bytes, origin: str, reason: str) -> HoldRecord:
        return HoldRecord("mongo", "orders", key, key.decode(), origin, 7, 0, reason)

    with closing(AuditWriter(folder, "shop", count(1_800_000_000_000_000).__next__)) as audit:
        audit.add_holds([held(b"k", "pg", "too long"), held(b"l", "mongo", "qty: not a number")])
        audit.add_holds([held(b"k", "pg", "still too long")])
    assert cli.main(["dlq", "list", "--audit", str(folder)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["id", "since", "node", "table", "key"]
    assert [r.split(maxsplit=7)[2:] for r in rows] == [
        ["mongo", "orders", "l", "mongo", "unreadable", "qty: not a number"],
        ["mongo", "orders", "k", "pg", "waits", "still too long"],
    ]
    assert cli.main(["dlq", "list", "--audit", str(folder), "--json", "--table", "orders"]) == 0
    assert [(h["key"], h["times"]) for h in json.loads(capsys.readouterr().out)] == [("6c", 1), ("6b", 2)]
    given_up = [{"node": "mongo", "table": "orders", "key": "6b", "tries": 6}]
    with closing(AuditWriter(folder, "shop", count(1_850_000_000_000_000).__next__)) as audit:
        audit.add_operator(DEAD_LETTER, given_up)
    assert cli.main(["dlq", "list", "--audit", str(folder)]) == 0
    assert "  dead (6 tries)  still too long" in capsys.readouterr().out
    assert cli.main(["dlq", "list", "--audit", str(folder), "--json"]) == 0
    assert [h["dead_after"] for h in json.loads(capsys.readouterr().out)] == [None, 6]
    assert cli.main(["audit", "tail", "--audit", str(folder), "-n", "2"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[0]
        .endswith("  hold      orders k of pg for mongo: still too long")
    )
    decision = [["mongo"], [0], [2], [8], ["orders"], [2], [b"k"], ["pg"], [1], [0], [5], ["committed"]]
    with closing(AuditWriter(folder, "shop", count(1_900_000_000_000_000).__next__)) as audit:
        columns = [pa.array(v, f.type) for v, f in zip(decision, DECISION_SCHEMA, strict=True)]
        audit.add_decisions(pa.RecordBatch.from_arrays(columns, schema=DECISION_SCHEMA))
    assert cli.main(["dlq", "list", "--audit", str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["dlq", "list", "--audit", str(folder), "--table", "other"]) == 0
    assert capsys.readouterr().out == "nothing is on hold\n"


def test_a_conflict_is_shown_with_both_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "audit"
    images = {"left_image": '{"id":7,"note":"a"}', "right_image": '{"id":7,"note":"b"}'}
    with closing(AuditWriter(folder, "shop", count(1_700_000_000_000_000).__next__)) as audit:
        audit.add_conflicts([replace(conflict(1), **images)])
    assert cli.main(["conflicts", "list", "--audit", str(folder), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert cli.main(["conflicts", "show", found["id"][:5], "--audit", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"conflict  {found['id']}, recorded ")
    assert lines[1:4] == ["row       orders k", "kind      update_update", "winner    pg"]
    assert lines[4].startswith("policy    last_write_wins: the later write")
    assert lines[6].split() == ["pg", "mongo"]
    assert [line.split() for line in lines[8:]] == [["id", "7", "7"], ["*", "note", '"a"', '"b"']]
    assert cli.main(["conflicts", "show", "nope", "--audit", str(folder)]) == 2
    assert "no conflicts have an ID that begins with 'nope'" in capsys.readouterr().err


def test_a_discarded_hold_is_off_the_list_until_it_is_held_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sync.yaml"
    config.write_text(CONFIG)
    path = tmp_path / "data" / "audit"
    held = HoldRecord("mongo", "orders", b"k", "k", "pg", 7, 0, "too long")
    with closing(AuditWriter(path, "shop", count(1_500_000_000_000_000).__next__)) as audit:
        audit.add_holds([held])
    assert cli.main(["dlq", "list", "-c", str(config), "--json"]) == 0
    [hold] = json.loads(capsys.readouterr().out)
    assert cli.main(["dlq", "discard", "-c", str(config)]) == 2
    assert "one or more IDs, or --all" in capsys.readouterr().err
    assert cli.main(["dlq", "discard", "ffffffff", "-c", str(config)]) == 2
    assert "no rows on hold" in capsys.readouterr().err
    assert cli.main(["dlq", "discard", hold["id"][:4], "-c", str(config)]) == 0
    assert capsys.readouterr().out == f"{hold['id']}  orders k for mongo: discarded\n"
    assert cli.main(["dlq", "list", "-c", str(config)]) == 0
    assert capsys.readouterr().out == "nothing is on hold\n"
    assert cli.main(["audit", "tail", "-c", str(config), "-n", "1"]) == 0
    assert "operator  dlq_discarded" in capsys.readouterr().out
    with closing(AuditWriter(path, "shop", count(2_500_000_000_000_000).__next__)) as audit:
        audit.add_holds([held])
    assert cli.main(["dlq", "list", "-c", str(config), "--json"]) == 0
    assert [h["id"] for h in json.loads(capsys.readouterr().out)] == [hold["id"]]


def test_times_beyond_the_calendar_are_numbers() -> None:
    assert time_text(0) == "1970-01-01T00:00:00.000000Z"
    assert time_text(2**63 - 1) == str(2**63 - 1)


def test_the_version_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("sync-worker ")


def test_a_lost_log_is_what_status_tells(tmp_path: Path) -> None:
    from cluster.commands.status import last_halt
    from cluster.config import load
    from cluster.running import note_at_rest

    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG)
    config = load(file)
    assert last_halt(config) is None
    detail = {"node": "pg", "error": "the slot is gone", "hint": "reset it"}
    note_at_rest(config, [("halted", detail)])
    assert last_halt(config) == detail
    note_at_rest(config, [("log_gap", {"node": "pg"})])
    assert last_halt(config) is None
