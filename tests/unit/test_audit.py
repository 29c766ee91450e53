"""The audit log: what a flush acknowledged is there, once, whatever happens after."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replication.audit import reader, store
from replication.audit.records import DECISION_SCHEMA, decision_records
from replication.audit.segment import AuditDamaged, Header, Segment, committed_batches, recover
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, TableRows, apply_schema
from replication.change import Op
from replication.errors import ConfigError, Terminal
from replication.marker import Marker
from tests.unit.audit_records import DATA, SMALL, changes, clock, conflict, opened, recorded


def test_what_is_flushed_is_read_back(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([1, 2])) == 2
        audit.add_operator("started", {"nodes": ["pg", "mongo"]})
        assert audit.pending_rows == 3
        assert reader.tail(tmp_path, 10) == []
        audit.flush()
        assert audit.pending_rows == 0
        first, second, third = reader.tail(tmp_path, 10)
        assert (first["id"], first["_node"], first["_shard"], first["note"]) == (1, "pg", 0, "note 1")
        assert second["id"] == 2
        assert third["stream"] == "operator"
        assert json.loads(third["detail"]) == {"nodes": ["pg", "mongo"]}


def test_adding_again_changes_nothing(tmp_path: Path) -> None:
    orders = [5, 6, (1 << 32) + 1, 3 << 40]
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes(orders[:3]))
        assert audit.add_changes("pg", 0, "orders", changes(orders)) == 1, "not flushed yet, but added"
        audit.flush()
        assert audit.add_changes("pg", 0, "orders", changes(orders)) == 0
        assert audit.add_changes("mongo", 0, "orders", changes([5])) == 1, "another node's log"
        assert audit.add_changes("pg", 1, "orders", changes([5])) == 1, "another shard"
        assert audit.add_changes("pg", 0, "items", changes([5])) == 1, "another table of the same transaction"
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([*orders, (3 << 40) + 1])) == 1
    assert recorded(tmp_path) == [*orders, 5, 5, (3 << 40) + 1]


STEPS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=6)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 60), STEPS), max_size=4))
def test_re_reading_the_log_from_anywhere_records_each_change_once(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, list[tuple[int, bool]]]]
) -> None:
    path = tmp_path_factory.mktemp("audit")
    done = 0
    for start, steps in [*runs, (0, [(200, True)])]:
        at = min(start, done)
        with opened(path, rolling=SMALL) as audit:
            for length, flush in steps:
                audit.add_changes("pg", 0, "orders", changes(range(at + 1, at + length + 1)))
                at += length
                if flush:
                    audit.flush()
        done = max(done, at)
    assert recorded(path) == list(range(1, done + 1))


def test_rows_of_the_initial_copy_are_kept_beside_changes(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([10]))
        assert audit.add_changes("pg", 0, "orders", changes([4, 4], Op.READ)) == 2
        mixed = pa.concat_batches([changes([9, 10]), changes([50], Op.READ), changes([11])])
        assert audit.add_changes("pg", 0, "orders", mixed) == 2
        assert audit.add_changes("pg", 0, "orders", changes([12])) == 1, "a row read does not move the mark"
    assert recorded(tmp_path) == [10, 4, 4, 50, 11, 12]


def test_a_table_that_changes_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    wider = pa.schema([*DATA, ("amount", pa.utf8())])
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([1]))
        audit.add_changes("pg", 0, "orders", changes([2], data=wider))
        audit.flush()
    names = [batch.schema.names[-1] for batch in reader.read(tmp_path, "changes/orders")]
    assert names == ["note", "amount"]
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([1, 2, 3], data=wider)) == 1
    assert recorded(tmp_path) == [1, 2, 3]


def test_segments_are_sealed_by_size_and_by_age(tmp_path: Path) -> None:
    now = [0]
    with closing(AuditWriter(tmp_path, "g", lambda: now[0], rolling=Rolling(20_000, seconds=60))) as audit:
        for order in range(1, 40):
            audit.add_changes("pg", 0, "orders", changes([order]))
            audit.flush()
        audit.add_operator("started", {})
        audit.flush()
        now[0] += 61_000_000
        audit.add_operator("stopped", {})
    folder = store.stream_folder(tmp_path, "changes/orders")
    files = store.segments(folder)
    assert [f.sealed for f in files] == [True] * (len(files) - 1) + [False]
    assert len(files) > 2
    assert recorded(tmp_path) == list(range(1, 40))
    assert [f.sealed for f in store.segments(tmp_path / "operator")] == [True, False]
    assert pq.read_metadata(files[0].path).row_group(0).column(0).compression == "ZSTD"


def test_conflicts_are_recorded_once(tmp_path: Path) -> None:
    with opened(tmp_path, rolling=SMALL) as audit:
        assert audit.add_conflicts([conflict(1), conflict(2), conflict(1)]) == 2
        assert audit.add_conflicts([conflict(2)]) == 0
    with opened(tmp_path, rolling=SMALL) as audit:
        assert audit.add_conflicts([conflict(1), conflict(2), conflict(3)]) == 1
    assert recorded(tmp_path, "conflicts", "ident") == ["c1", "c2", "c3"]


def test_decisions_say_what_became_of_each_row(tmp_path: Path) -> None:
    columns = {
        "_op": [2, 3],
        "_key": [b"a", b"b"],
        "_origin": [1, 0],
        "_hi": [7, 8],
        "_lo": [0, 1],
        "_hlc": [9, 9],
    }
    schema = apply_schema(DATA)
    rows = pa.RecordBatch.from_arrays(
        [pa.array(columns.get(f.name, [None, None]), f.type) for f in schema], schema=schema
    )
    batch = ApplyBatch("pg", Marker("g", 3, 4, epoch=2, seq=17), [TableRows("orders", rows)])
    held = Applied(
        Outcome.COMMITTED, held=[HeldRow("orders", b"b", "check"), HeldRow("items", b"a", "other table")]
    )
    nodes = ["mongo", "pg"]
    kept = Applied(Outcome.COMMITTED, kept={("orders", b"a"): True, ("items", b"b"): False})
    answers = [(17, held), (18, Applied(Outcome.FENCED)), (19, kept)]
    with opened(tmp_path) as audit:
        for seq, applied in answers:
            numbered = replace(batch, marker=replace(batch.marker, seq=seq))
            assert audit.add_decisions(decision_records(numbered, applied, nodes))
        assert not audit.add_decisions(decision_records(ApplyBatch("pg", batch.marker, []), held, nodes))
    assert recorded(tmp_path, "decisions", "outcome") == [
        "committed", "held", "fenced", "fenced", "kept", "committed",
    ]  # fmt: skip
    first = reader.tail(tmp_path, 6)[0]
    assert (first["_node"], first["_shard"], first["_epoch"], first["_seq"]) == ("pg", 3, 2, 17)
    assert (first["_origin"], first["_table"], first["_key"]) == ("pg", "orders", "61")


def test_what_became_of_a_batch_is_recorded_once(tmp_path: Path) -> None:
    def add(audit: AuditWriter, seq: int, epoch: int = 2, node: str = "pg", shard: int = 0) -> bool:
        names = {"_node": node, "_shard": shard, "_epoch": epoch, "_seq": seq}
        columns = [pa.array([names.get(f.name)], f.type) for f in DECISION_SCHEMA]
        return audit.add_decisions(pa.RecordBatch.from_arrays(columns, schema=DECISION_SCHEMA))

    with opened(tmp_path, rolling=SMALL, shards=2) as audit:
        assert add(audit, 7)
        assert not add(audit, 7), "not flushed yet, but added"
        assert add(audit, 9)
        assert not add(audit, 8), "an older one, which came late"
        assert add(audit, 8, node="mongo")
        assert add(audit, 8, shard=1)
    with opened(tmp_path, rolling=SMALL, shards=2) as audit:
        assert not add(audit, 9)
        assert add(audit, 9, epoch=3), "a database that lost a batch is sent another of its number"
    assert recorded(tmp_path, "decisions", "_seq") == [7, 9, 8, 8, 9]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(store.AuditInUse, match="is being written by process"):
        AuditWriter(tmp_path, "g", clock())
    opened(tmp_path).thing.close()


def test_a_log_belongs_to_one_group(tmp_path: Path) -> None:
    opened(tmp_path).thing.close()
    with pytest.raises(ConfigError, match="belongs to the group 'g'"):
        AuditWriter(tmp_path, "other", clock())


def test_what_is_on_record_is_known_under_another_number_of_shards(tmp_path: Path) -> None:
    audit = AuditWriter(tmp_path, "g", clock(), shards=2)
    audit.add_changes("pg", 0, "orders", changes([1, 4]))
    audit.add_changes("pg", 1, "orders", changes([2, 5]))
    audit.close()
    with opened(tmp_path, shards=3) as audit:
        for shard in range(3):
            assert audit.add_changes("pg", shard, "orders", changes([5, 6 + shard])) == 1
    with opened(tmp_path, shards=3) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([6])) == 0
        assert audit.add_changes("pg", 0, "orders", changes([7])) == 1


def test_a_database_that_was_replaced_begins_a_new_log(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([100]))
        audit.add_changes("mongo", 0, "orders", changes([100]))
        audit.begin_new_log("pg")
        assert audit.add_changes("pg", 0, "orders", changes([3])) == 1
        assert audit.add_changes("mongo", 0, "orders", changes([3])) == 0
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([3, 4])) == 1
        assert audit.add_changes("mongo", 0, "orders", changes([100])) == 0
    assert recorded(tmp_path) == [100, 100, 3, 4]
    assert recorded(tmp_path, "operator", "kind") == ["log_replaced"]


NAME = ("changes/orders", 1)


def segment_bytes(flushes: int) -> tuple[bytes, list[int]]:
    """A segment of one row per flush, and where each flush ends."""
    segment = Segment(Header("g", *NAME, 0).on(changes([1]).schema))
    data, ends = b"", []
    for order in range(1, flushes + 1):
        data += segment.encode([changes([order])], {"pg/0/1": f"{order:x}"})
        ends.append(len(data))
    return data, ends


DATA_BYTES, ENDS = segment_bytes(4)


def ids(data: bytes) -> list[int]:
    return [batch.column("id")[0].as_py() for batch in committed_batches(data)[0]]


@given(st.integers(0, ENDS[-1]))
def test_a_torn_segment_goes_on_after_its_last_complete_flush(cut: int) -> None:
    torn = DATA_BYTES[:cut]
    complete = sum(end <= cut for end in ENDS)
    expected = list(range(1, complete + 1))
    assert ids(torn) == expected
    segment = recover(torn, *NAME)
    if complete == 0:
        assert segment is None
        return
    assert segment is not None
    assert (segment.size, segment.rows, segment.flushes) == (ENDS[complete - 1], complete, complete)
    assert segment.marks == {"pg/0/1": f"{complete:x}"}
    again = torn[: segment.size] + segment.encode([changes([9])], {})
    assert ids(again) == [*expected, 9]
    reread = recover(again, *NAME)
    assert reread is not None
    assert reread.digest.hexdigest() == segment.digest.hexdigest()
    assert replace(reread, digest=None) == replace(segment, digest=None)


@given(st.integers(0, ENDS[-1]), st.binary(min_size=1, max_size=3000))
@example(653, b"\x00\x00\x01")  # inside the schema: a type that Arrow does not know
def test_what_a_lost_write_left_behind_is_cut_off(cut: int, garbage: bytes) -> None:
    data = DATA_BYTES[:cut] + garbage
    segment = recover(data, *NAME)
    complete = sum(end <= cut for end in ENDS)
    assert ids(data)[:complete] == list(range(1, complete + 1))
    rows = segment.rows if segment else 0
    # The last bytes of a commit are padding, which garbage may stand in for.
    assert rows == complete or (rows == complete + 1 and ENDS[complete] - cut < 64)


@given(st.integers(0, ENDS[-1] - 1), st.integers(1, 255))
def test_a_flipped_bit_never_passes_unnoticed(place: int, mask: int) -> None:
    damaged = bytearray(DATA_BYTES)
    damaged[place] ^= mask
    try:
        segment = recover(bytes(damaged), *NAME)
    except AuditDamaged:
        return
    assert segment is not None
    if segment.rows < len(ENDS):
        assert segment.rows == len(ENDS) - 1
        assert place >= ENDS[-2], "only the last flush may be cut off"
    else:
        assert ids(bytes(damaged)) == [1, 2, 3, 4], "the flip was in what carries no meaning"
        assert segment.marks == {"pg/0/1": "4"}


def test_a_lost_page_inside_the_last_flush_is_cut_off() -> None:
    damaged = bytearray(DATA_BYTES)
    place = damaged.rindex(b"note 4") if b"note 4" in damaged else (ENDS[-2] + ENDS[-1]) // 2 - 600
    damaged[place - 64 : place + 64] = bytes(128)
    segment = recover(bytes(damaged), *NAME)
    assert segment is not None
    assert segment.rows == 3
    assert ids(bytes(damaged))[:3] == [1, 2, 3]


def test_damage_to_acknowledged_records_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        for order in range(1, 4):
            audit.add_changes("pg", 0, "orders", changes([order]))
            audit.flush()
    [file] = store.segments(store.stream_folder(tmp_path, "changes/orders"))
    data = bytearray(file.path.read_bytes())
    data[data.index(b"note 1") if b"note 1" in data else len(data) // 3] ^= 1
    file.path.write_bytes(bytes(data))
    with pytest.raises(AuditDamaged, match=r"00000001\.arrow"):
        AuditWriter(tmp_path, "g", clock())
    file.path.unlink()
    opened(tmp_path).thing.close()


def test_a_cut_tail_is_itself_on_record(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([1]))
    [file] = store.segments(store.stream_folder(tmp_path, "changes/orders"))
    with file.path.open("ab") as torn:
        torn.write(b"\xff\xff\xff\xff\x10")
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([1, 2])) == 1
    assert recorded(tmp_path) == [1, 2]
    [detail] = recorded(tmp_path, "operator", "detail")
    assert json.loads(detail) == {"stream": "changes/orders", "bytes": 5}


@pytest.mark.parametrize("moment", ["temporary", "renamed"])
def test_a_crash_while_sealing_loses_nothing_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes([1, 2]))
    [file] = store.segments(store.stream_folder(tmp_path, "changes/orders"))
    before = file.path.read_bytes()
    store.seal(file.path, "changes/orders")
    sealed = file.path.with_suffix(".parquet")
    if moment == "temporary":
        sealed.rename(file.path.with_suffix(".parquet.tmp"))
    file.path.write_bytes(before)
    assert recorded(tmp_path) == [1, 2], "a reader meets the same folder"
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([1, 2, 3])) == 1
    assert recorded(tmp_path) == [1, 2, 3]
    assert not list(file.path.parent.glob("*.tmp"))


def test_a_writer_that_failed_refuses_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = AuditWriter(tmp_path, "g", clock())
    audit.add_changes("pg", 0, "orders", changes([1]))
    audit.flush()

    def half(descriptor: int, data: bytes) -> None:
        append(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    append = store.append
    monkeypatch.setattr(store, "append", half)
    audit.add_changes("pg", 0, "orders", changes([2]))
    with pytest.raises(OSError, match="No space left"):
        audit.flush()
    monkeypatch.setattr(store, "append", append)
    audit.add_changes("pg", 0, "orders", changes([3]))
    with pytest.raises(Terminal, match="cannot go on"):
        audit.flush()
    audit.close()
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([1, 2, 3])) == 2
    assert recorded(tmp_path) == [1, 2, 3]


def test_every_type_survives_sealing(tmp_path: Path) -> None:
    columns = {
        "flag": pa.array([True, None]),
        "small": pa.array([-(2**15), None], pa.int16()),
        "ratio": pa.array([float("inf"), 0.1], pa.float32()),
        "day": pa.array([2**31 - 1, -(2**31)], pa.int32()).cast(pa.date32()),
        "clock": pa.array([86_400_000_000, 0], pa.int64()).view(pa.time64("us")),
        "at": pa.array([2**63 - 1, -(2**63)], pa.int64()).cast(pa.timestamp("us")),
        "instant": pa.array([2**63 - 1, -(2**63)], pa.int64()).cast(pa.timestamp("us", "UTC")),
        "blob": pa.array([b"\0\xff", None], pa.binary()),
        "words": pa.array(["\0𝄞", ""]),
    }
    rows = changes([1, 2])
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", rows)
    [file] = store.segments(store.stream_folder(tmp_path, "changes/orders"))
    open_rows = pa.Table.from_batches(reader.read(tmp_path, "changes/orders"))
    store.seal(file.path, "changes/orders")
    sealed_rows = pa.Table.from_batches(reader.read(tmp_path, "changes/orders"))
    assert sealed_rows.schema.equals(open_rows.schema, check_metadata=True)
    assert sealed_rows.equals(open_rows)
    assert open_rows.drop(["_node", "_shard", "_recorded"]).equals(pa.Table.from_batches([rows]))
    assert json.dumps(reader.tail(tmp_path, 2)[0]["day"])
