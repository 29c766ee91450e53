"""The audit log proves itself: whatever is altered, dropped, put elsewhere or cut off is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replication.audit import evidence, store
from replication.audit.segment import recover
from replication.audit.stored import Form
from replication.audit.stream import Rolling
from replication.audit.verify import Range, faults_of, read_heads, verify
from tests.unit.audit_records import changes, conflict, opened

ROLLING = Rolling(bytes=6_000, seconds=3600, head_seconds=0)
"""A head with every flush, a segment every few."""


def written(path: Path, orders: range = range(1, 25), **options) -> None:
    with opened(path, rolling=ROLLING, **options) as audit:
        for order in orders:
            audit.add_changes("pg", 0, "orders", changes([2 * order, 2 * order + 1]))
            audit.add_changes("pg", 0, "items", changes([order]))
            audit.add_conflicts([conflict(order)])
            audit.flush()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    written(path)
    return path


def faults(path: Path, **options) -> list[str]:
    return list(faults_of(verify(path, **options)))


def files(path: Path, stream: str = "changes/orders") -> list[store.SegmentFile]:
    return store.segments(store.stream_folder(path, stream))


def test_a_log_that_nobody_touched_holds(original: Path) -> None:
    found = verify(original)
    assert not found.faults
    assert found.records == found.sealed == {"changes/orders": 48, "changes/items": 24, "conflicts": 24}
    assert found.heads == len(read_heads(original)) >= 24
    assert len(files(original)) > 3
    assert not files(original)[-1].sealed
    listed = [name for head in read_heads(original) for name in head.files]
    assert sorted(listed) == sorted(evidence.sealed_names(original)), "each once"


# What somebody who can write to the folder can do to it.


def rewrite(file: store.SegmentFile, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a sealed segment anew with other rows and everything else as it was."""
    with pq.ParquetFile(file.path) as parquet:
        metadata, table = parquet.schema_arrow.metadata, parquet.read()
    pq.write_table(change(table).replace_schema_metadata(metadata), file.path, compression="zstd")


def altered(table: pa.Table, row: int, *, forge: bool = False) -> pa.Table:
    rows = table.to_pylist()
    rows[row]["note"] = "forged"
    found = pa.Table.from_pylist(rows, schema=table.schema)
    if forge:
        [batch] = found.combine_chunks().to_batches()
        start = int(rows[0]["id"]) - 2
        rows[row]["_leaf"] = Form(batch.schema).leaves(batch, start)[row]
        found = pa.Table.from_pylist(rows, schema=table.schema)
    return found


def test_an_altered_record_is_named(log: Path) -> None:
    first, second = files(log)[:2]
    rewrite(second, lambda t: altered(t, 1))
    record = pq.read_metadata(first.path).num_rows + 1
    [line] = faults(log)
    place = f"changes/orders record {record} (changes/orders/00000002.parquet)"
    assert line.startswith(f"{place}: the record is not what was written (_recorded ")
    assert not faults(log, only=Range("changes/items", 0, 9)), "the others hold"


def test_an_altered_record_with_an_altered_leaf_is_found(log: Path) -> None:
    rewrite(files(log)[1], lambda t: altered(t, 1, forge=True))
    [line] = faults(log)
    assert "are not those that head" in line


def test_a_dropped_record_is_found(log: Path) -> None:
    rewrite(files(log)[0], lambda t: pa.concat_tables([t.slice(0, 2), t.slice(3)]))
    [line] = faults(log)
    assert line.startswith("changes/orders record 2 "), line


def test_records_in_another_order_are_found(log: Path) -> None:
    rewrite(files(log)[0], lambda t: t.take([0, 1, 3, 2, *range(4, t.num_rows)]))
    [line] = faults(log)
    assert line.startswith("changes/orders record 2 "), line


def test_columns_with_each_others_names_are_found(log: Path) -> None:
    file = files(log, "conflicts")[0]
    swapped = {"left_node": "right_node", "right_node": "left_node"}
    rewrite(file, lambda t: t.rename_columns([swapped.get(n, n) for n in t.column_names]))
    [line] = faults(log)
    assert line.startswith("conflicts record 0 "), line


@pytest.mark.parametrize("place", [0, 1, -2, -1])
def test_a_dropped_segment_is_found(log: Path, place: int) -> None:
    file = files(log)[place]
    file.path.unlink()
    [line] = faults(log)
    assert "missing" in line
    assert line.startswith("changes/orders record ")


def test_a_dropped_stream_is_found(log: Path) -> None:
    shutil.rmtree(log / "changes" / "items")
    [line] = faults(log)
    assert line.startswith("changes/items record 0: records 0 to 23 are missing, ")


def test_swapped_segments_are_found(log: Path) -> None:
    first, second = (file.path for file in files(log)[:2])
    middle = first.with_suffix(".x")
    first.rename(middle)
    second.rename(first)
    middle.rename(second)
    [line] = faults(log)
    assert "segment 2 of changes/orders is in its place" in line


def test_a_segment_of_another_stream_is_found(log: Path) -> None:
    shutil.copy(files(log, "changes/items")[0].path, files(log)[0].path)
    [line] = faults(log)
    assert "segment 1 of changes/items is in its place" in line


def test_a_segment_of_the_same_place_in_another_log_is_found(log: Path, tmp_path: Path) -> None:
    written(tmp_path / "other", range(500, 520))
    shutil.copy(files(tmp_path / "other")[0].path, files(log)[0].path)
    [line] = faults(log)
    assert "are not those that head" in line


def flushes(data: bytes, stream: str, number: int) -> list[int]:
    """Where each flush of an open segment ends."""
    ends = []
    for size in range(len(data) + 1):
        segment = recover(data[:size], stream, number)
        if segment is not None and segment.size not in ends:
            ends.append(segment.size)
    return ends


def test_a_tail_cut_at_the_end_of_a_flush_is_found(log: Path) -> None:
    path = files(log)[-1].path
    data = path.read_bytes()
    ends = [e for e in flushes(data, "changes/orders", int(path.stem)) if e < len(data)]
    assert ends, "the open segment has several flushes"
    path.write_bytes(data[: ends[-1]])
    [line] = faults(log)
    assert "records 46 to 47 are missing" in line


def places(size: int) -> Iterator[int]:
    """Bytes of a file: its edges, and some all over it."""
    yield from {*range(0, size, max(1, size // 40)), 1, size - 1, size - 4, size - 9} & set(range(size))


@pytest.mark.parametrize("which", [0, -1], ids=["sealed", "open"])
def test_any_altered_byte_of_a_segment_is_found(log: Path, which: int) -> None:
    path = files(log)[which].path
    data = path.read_bytes()
    for place in places(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        lines = faults(log, only=Range("changes/orders", 0, 1 << 60))
        assert len(lines) == 1, f"byte {place}"
        assert lines[0].startswith("changes/orders record ")
    path.write_bytes(data)
    assert not faults(log)


def test_any_altered_byte_of_a_head_is_found(log: Path) -> None:
    path = log / evidence.HEADS
    data = path.read_bytes()
    second = data.index(b"\n") + 1
    for place in places(data.index(b"\n", second)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        assert [f for f in faults(log) if f.startswith("heads.jsonl: head ")], f"byte {place}"


@pytest.mark.parametrize("place", [0, 3])
def test_a_dropped_head_is_found(log: Path, place: int) -> None:
    lines = list(evidence.head_lines(log))
    del lines[place]
    (log / evidence.HEADS).write_bytes(b"".join(line + b"\n" for line in lines))
    assert f"heads.jsonl: head {place + 1} is missing: head {place + 2} is in its place" in faults(log)


def test_swapped_heads_are_found(log: Path) -> None:
    lines = list(evidence.head_lines(log))
    lines[3:5] = lines[4], lines[3]
    (log / evidence.HEADS).write_bytes(b"".join(line + b"\n" for line in lines))
    assert faults(log)[0].startswith("heads.jsonl: head 4 is missing")


def test_a_head_signed_by_somebody_else_is_found(log: Path) -> None:
    mine = evidence.folder_signer(log)
    (log / "signing.key").unlink()
    theirs = evidence.folder_signer(log)
    written(log, range(30, 32))
    assert not faults(log), "without a trusted key, whoever signed is only named"
    assert verify(log).signers == sorted([mine.public_key.hex(), theirs.public_key.hex()])
    [line] = faults(log, trusted=[mine.public_key])
    assert line.endswith(f"is signed by another key, {theirs.public_key.hex()}")
    assert not faults(log, trusted=[mine.public_key, theirs.public_key])


def test_a_log_that_was_rolled_back_whole_is_found_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "log"
    written(log, range(1, 5))
    earlier = Path(shutil.copytree(log, tmp_path / "earlier"))
    written(log, range(5, 9))
    kept = read_heads(log)[-1]
    assert not faults(log, given=kept)
    assert not faults(earlier), "by itself it is a good log"
    lines = faults(earlier, given=kept)
    assert lines[0].startswith(f"heads.jsonl: head {kept.number}, which was given, is missing")
    assert (
        "changes/orders record 8 (changes/orders/00000002.arrow): records 8 to 15 are missing, " in lines[2]
    )
    written(earlier, range(100, 140))
    assert f"heads.jsonl: head {kept.number} is not the one that was given" in faults(earlier, given=kept)


def test_heads_that_were_dropped_at_the_end_are_found_by_one_kept_elsewhere(log: Path) -> None:
    kept = read_heads(log)[-1]
    lines = list(evidence.head_lines(log))
    (log / evidence.HEADS).write_bytes(b"".join(line + b"\n" for line in lines[:-2]))
    assert [f for f in faults(log, given=kept) if "which was given, is missing" in f]
    forged = replace(kept, number=kept.number - 1)
    assert "heads.jsonl: the head that was given is not what was signed" in faults(log, given=forged)


# What the writer itself may meet.
