"""`sync-worker audit query` and `export`: what is asked for, all of it, and nothing else."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import cli
from replication.audit.holds import HoldRecord
from replication.audit.query import Query, page, records
from replication.audit.records import DECISION_SCHEMA
from replication.audit.stored import Form
from replication.change import Op
from replication.errors import ConfigError
from tests.unit.audit_records import DATA, SMALL, changes, conflict, opened

COUNT = 40


def decision(number: int, outcome: str) -> pa.RecordBatch:
    values = ["mongo", 0, 2, number, "orders", 2, number.to_bytes(12, "big"), "pg", 1, 0, 5, outcome]
    arrays = [pa.array([v], f.type) for v, f in zip(values, DECISION_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DECISION_SCHEMA)


def write(path: Path, numbers: range) -> None:
    wider = pa.schema([*DATA, ("amount", pa.int32())])
    with opened(path, rolling=SMALL) as audit:
        for n in numbers:
            op = Op.DELETE if n % 3 == 0 else Op.INSERT
            audit.add_changes(
                "pg" if n % 2 else "my", 0, "orders", changes([n], op, DATA if n < 20 else wider)
            )
            audit.add_changes("pg", 0, "items", changes([n]))
            audit.add_decisions(decision(n, "held" if n % 5 == 0 else "committed"))
            audit.add_conflicts([conflict(n, "orders" if n % 2 else "items")])
            audit.add_holds([HoldRecord("pg", "orders", b"k", f"key {n}", "my", 1, 0, 'why, "so"\nand so')])
            audit.add_operator("tick", n)
            audit.flush()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    write(path, range(1, COUNT + 1))
    return path


def found(path: Path, **query: object) -> list[dict]:
    return list(records(path, Query(**query)))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 6 * COUNT),
        ({"table": "orders"}, COUNT + COUNT + COUNT // 2 + COUNT),
        ({"table": "items", "kind": "change"}, COUNT),
        ({"kind": "conflict"}, COUNT),
        ({"op": int(Op.DELETE), "kind": "change"}, COUNT // 3),
        ({"node": "my", "kind": "change"}, COUNT // 2),
        ({"node": "my", "kind": "hold"}, COUNT),
        ({"node": "mongo", "kind": "conflict"}, COUNT),
        ({"outcome": "held"}, COUNT // 5),
        ({"actor": "operator"}, COUNT),
        ({"actor": "application"}, 2 * COUNT),
        ({"actor": "resolver"}, 3 * COUNT),
        ({"actor": "application", "kind": "decision"}, 0),
        ({"key": "key 7"}, 1),
        ({"key": (7).to_bytes(12, "big").hex(), "table": "orders", "kind": "change"}, 1),
        ({"key": "k", "kind": "conflict"}, COUNT),
    ],
)
def test_what_is_asked_for_is_found(log: Path, query: dict, count: int) -> None:
    assert len(found(log, **query)) == count


def test_times_bound_what_is_found(log: Path) -> None:
    everything = [e["_recorded"] for e in found(log)]
    assert everything == sorted(everything)
    low, high = everything[50], everything[150]
    wanted = [t for t in everything if low <= t < high]
    assert [e["_recorded"] for e in found(log, since=low, until=high)] == wanted


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_trace_is_found_in_a_log_that_began_without_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = f"00-{TRACE}-00f067aa0ba902b7-01"
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([1]), context)
    with opened(tmp_path, traced=True) as audit:
        audit.add_changes("pg", 0, "orders", changes([2, 3]), context)
        audit.add_changes("pg", 0, "orders", changes([4]), f"00-{'a' * 32}-00f067aa0ba902b7-01")
        audit.add_changes("pg", 0, "orders", changes([5]))
        audit.add_operator("tick", 1)
    assert [e["id"] for e in found(tmp_path, trace=TRACE)] == [2, 3]
    traces = [e.get("_trace") for e in found(tmp_path, kind="change")]
    assert traces == [None, context, context, f"00-{'a' * 32}-00f067aa0ba902b7-01", None]
    for asked in (TRACE, TRACE.upper(), context):
        assert cli.main(["audit", "query", "--audit", str(tmp_path), "--trace", asked, "--json"]) == 0
        assert [r["id"] for r in json.loads(capsys.readouterr().out)["records"]] == [2, 3]
    assert cli.main(["audit", "query", "--audit", str(tmp_path), "--trace", "4bf9"]) == 2
    assert "32 hexadecimal digits" in capsys.readouterr().err


def test_a_number_is_a_key(tmp_path: Path) -> None:
    rows = changes([5])
    key = pa.array([(7 + (1 << 63)).to_bytes(8, "big")])
    rows = rows.set_column(rows.schema.get_field_index("_key"), "_key", key)
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", rows)
    assert [e["id"] for e in found(tmp_path, key="7")] == [5]
    assert found(tmp_path, key="-7") == []


@pytest.mark.parametrize("size", [7, 60])
@pytest.mark.parametrize("query", [{}, {"table": "orders"}, {"kind": "change"}, {"outcome": "held"}])
def test_pages_give_every_record_once_whatever_their_size(log: Path, size: int, query: dict) -> None:
    cursor, seen = None, []
    while True:
        part, cursor = page(log, Query(**query), size, cursor)
        if not part:
            break
        seen += part
    assert seen == found(log, **query)


def test_a_cursor_goes_on_with_what_comes_later(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5))
    first, cursor = page(tmp_path, Query(kind="change"), 1000)
    assert page(tmp_path, Query(kind="change"), 1000, cursor) == ([], cursor)
    write(tmp_path, range(5, 30))
    later, _ = page(tmp_path, Query(kind="change"), 1000, cursor)
    assert len(first) + len(later) == 2 * 29
    assert sorted([*first, *later], key=lambda e: (e["stream"], e["_record"])) == sorted(
        found(tmp_path, kind="change"), key=lambda e: (e["stream"], e["_record"])
    )


def test_what_lies_before_a_cursor_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever catches up asks for page after page, of one segment too."""
    with opened(tmp_path) as audit:
        for n in range(1, COUNT + 1):
            audit.add_changes("pg", 0, "orders", changes([n]))
            audit.flush()
    read: list[int] = []

    def clear(form: Form, stored: pa.RecordBatch) -> pa.RecordBatch:
        read.append(stored.num_rows)
        return whole(form, stored)

    whole = Form.clear
    monkeypatch.setattr(Form, "clear", clear)
    query, cursor = Query(kind="change", table="orders"), None
    for _ in range(COUNT // 4):
        some, cursor = page(tmp_path, query, 4, cursor)
        assert len(some) == 4
    assert COUNT <= sum(read) <= 2 * COUNT, "each page reads what it gives, and a part more at most"


@pytest.mark.parametrize("cursor", ["nonsense", "e30x", "W10=", "eyJhIjotMX0="])
def test_a_wrong_cursor_is_refused(log: Path, cursor: str) -> None:
    with pytest.raises(ConfigError, match="not a cursor"):
        page(log, Query(), 1, cursor)


# As somebody at a terminal has it.


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["audit", *words])
    return code, *capsys.readouterr()


def test_a_query_prints_records_and_where_to_go_on(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["query", "--audit", str(log), "--op", "delete", "--node", "my", "-n", "2"]
    code, out, _ = call(capsys, *words)
    assert code == 0
    *lines, last = out.splitlines()
    assert [line.split(": ")[-1] for line in lines] == ["id=6 note=note 6", "id=12 note=note 12"]
    code, out, _ = call(capsys, *words, "--cursor", last.removeprefix("next: "), "--json")
    assert [r["id"] for r in json.loads(out)["records"]] == [18, 24]
    code, _, err = call(capsys, "query", "--audit", str(log), "--since", "yesterday")
    assert code == 2
    assert "write 2026-11-25" in err
    code, out, _ = call(capsys, "query", "--audit", str(log), "--since", "1970-01-01T00:00:02", "--json")
    assert json.loads(out)["records"] == []


def exported(folder: Path, form: str) -> dict[str, list[dict]]:
    read = {
        "parquet": lambda p: pq.read_table(p).to_pylist(),
        "jsonl": lambda p: [json.loads(line) for line in p.read_text().splitlines()],
        "csv": lambda p: list(csv.DictReader(io.StringIO(p.read_bytes().decode(), newline=""))),
    }
    return {p.stem: read[form](p) for p in folder.glob(f"*.{form}")}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_an_export_has_every_record(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    out = tmp_path / "out"
    code, said, _ = call(capsys, "export", "--audit", str(log), "--out", str(out), "--format", form)
    assert code == 0
    assert f"{out}/changes-orders.{form}: {COUNT} records" in said
    files = exported(out, form)
    assert {name: len(rows) for name, rows in files.items()} == dict.fromkeys(
        ["changes-orders", "changes-items", "decisions", "conflicts", "holds", "operator"], COUNT
    )
    rows = files["changes-orders"]
    assert [int(row["_record"]) for row in rows] == list(range(COUNT))
    assert [row["note"] for row in rows] == [f"note {n}" for n in range(1, COUNT + 1)]
    assert {row.get("amount") or None for row in rows} == {None}, "a column that came later is there"
    assert {row["reason"] for row in files["holds"]} == {'why, "so"\nand so'}
    key = rows[6]["_key"]
    assert (key.hex() if form == "parquet" else key) == (7).to_bytes(12, "big").hex()
    assert (out / f"holds.{form}").stat().st_mode & 0o077 == 0, "only its owner reads it"
    code, _, err = call(capsys, "export", "--audit", str(log), "--out", str(out), "--format", form)
    assert code == 2
    assert "exists" in err


def test_an_export_is_filtered(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--audit", str(log), "--out", str(tmp_path), "--format", "jsonl", "--outcome", "held"]
    assert call(capsys, *words)[0] == 0
    assert {name: len(rows) for name, rows in exported(tmp_path, "jsonl").items()} == {
        "decisions": COUNT // 5
    }
    code, out, _ = call(capsys, *words[:3], "--out", "-", "--format", "jsonl", "--kind", "operator")
    assert [json.loads(line)["detail"] for line in out.splitlines()] == [str(n) for n in range(1, COUNT + 1)]
    code, _, err = call(capsys, *words[:3], "--out", "-", "--format", "csv")
    assert code == 2
    assert "give --format jsonl" in err


def test_a_column_whose_type_changed_is_exported_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [pa.int32(), pa.int64(), pa.utf8()]
    with opened(tmp_path / "log") as audit:
        for number, kind in enumerate(kinds, 1):
            rows = changes([number]).append_column("amount", pa.array([str(number)]).cast(kind))
            audit.add_changes("pg", 0, "orders", rows)
    words = ["export", "--audit", str(tmp_path / "log"), "--out", str(tmp_path / "out")]
    assert call(capsys, *words)[0] == 0
    assert [r["amount"] for r in exported(tmp_path / "out", "parquet")["changes-orders"]] == ["1", "2", "3"]
