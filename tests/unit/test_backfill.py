import pyarrow as pa
import pytest

from actors.backfill import CopyStatus
from cluster.commands.status import time_left
from replication.backfill import LOST, Chunk, ChunkIdent, ChunkWindow, divided
from replication.batch import TableRows, apply_schema, pack_versions
from replication.change import (
    Changes,
    Echo,
    LogEvent,
    Op,
    Progress,
    TableChanges,
    Unreadable,
    Watermark,
    change_schema,
)
from replication.marker import Marker
from replication.paging import ChunkSize, read_chunks
from replication.position import Position, order_of, split_order
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

DATA = pa.schema([("v", pa.utf8())])
A1 = ChunkIdent("run", "a", 1)
A2 = ChunkIdent("run", "a", 2)


def rows(*keys: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"_key": k, "v": k.decode()} for k in keys], pa.schema([("_key", pa.binary()), *DATA])
    )


def chunk(*keys: bytes) -> Chunk:
    return Chunk(rows(*keys))


def changes(table: str, hi: int, *keys: bytes) -> Changes:
    rows = [{"_op": Op.UPDATE, "_hi": hi, "_lo": i, "_ts": 5, "_key": k} for i, k in enumerate(keys)]
    batch = pa.RecordBatch.from_pylist(rows, change_schema(DATA))
    return Changes((TableChanges(table, batch),), Position(order_of(hi, len(keys)), f"token {hi}"))


def echo(table: str, hi: int, *keys: bytes, decoded: bool) -> Echo:
    rows = [{"_op": Op.UPDATE, "_key": k, "_origin": 0, "_hi": 1, "_lo": 1, "_hlc": 1} for k in keys]
    versions = pack_versions([TableRows(table, pa.RecordBatch.from_pylist(rows, apply_schema(DATA)))])
    tables = changes(table, hi, *keys).tables if decoded else ()
    return Echo(Marker("g", 0, 1, 1, 1, versions=versions), Position(order_of(hi, 1)), tables)


def mark(ident: str, hi: int, lo: int = 3) -> Watermark:
    return Watermark(ident, Position(order_of(hi, lo), f"token {hi}"))


def window(*tables: str) -> ChunkWindow:
    w = ChunkWindow()
    for table in tables:
        w.begin("run", table)
    return w


def keys_of(events: list[LogEvent]) -> list[bytes]:
    first, last = events
    assert isinstance(first, Changes)
    assert isinstance(last, Progress)
    return first.tables[0].rows.column("_key").to_pylist()


def is_progress(events: list[LogEvent]) -> bool:
    return [type(e) for e in events] == [Progress]


def test_a_chunk_comes_out_as_reads_placed_at_its_high_watermark():
    w = window("a")
    assert is_progress(w.on_watermark(mark(A1.low, 10)))
    w.offer(A1, chunk(b"x", b"y"))
    assert w.emitted(A1) is None
    event, end = w.on_watermark(mark(A1.high, 12, lo=3))
    read = event.tables[0].rows
    read.validate(full=True)
    assert read.schema.equals(change_schema(DATA))
    assert read.column("_op").to_pylist() == [Op.READ, Op.READ]
    assert read.column("_hi").to_pylist() == [12, 12]
    assert read.column("_lo").to_pylist() == [4, 5]
    assert read.column("_ts").to_pylist() == [0, 0]
    assert read.column("_have").null_count == read.column("_changed").null_count == 2
    assert read.column("v").to_pylist() == ["x", "y"]
    assert w.emitted(A1) == order_of(12, 5)
    assert event.end.token == end.end.token == "token 12"
    assert split_order(end.end.order)[0] == 12
    assert end.end.order > event.end.order == order_of(12, 5)


def test_a_large_chunk_comes_out_in_pieces_that_follow_each_other():
    w = ChunkWindow(piece_rows=2)
    w.begin("run", "a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1", b"2", b"3", b"4", b"5", b"6"))
    w.on_changes(changes("a", 11, b"2"))
    *pieces, _ = w.on_watermark(mark(A1.high, 12, lo=3))
    assert [e.tables[0].rows.column("_key").to_pylist() for e in pieces] == [
        [b"1", b"3"],
        [b"4", b"5"],
        [b"6"],
    ]
    assert [e.end.order for e in pieces] == [order_of(12, lo) for lo in (5, 7, 8)]
    assert [e.tables[0].rows.column("_lo").to_pylist() for e in pieces] == [[4, 5], [6, 7], [8]]
    assert w.emitted(A1) == order_of(12, 8)


def test_a_piece_is_divided_where_there_is_room_for_fewer(monkeypatch):
    monkeypatch.setattr("replication.backfill.LEAST_ROWS", 2)
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1", b"2", b"3", b"4", b"5"))
    piece, _ = w.on_watermark(mark(A1.high, 12, lo=3))
    assert divided(piece, 5) == [piece]
    parts = divided(piece, 3)
    assert [e.tables[0].rows.column("_key").to_pylist() for e in parts] == [
        [b"1", b"2", b"3"],
        [b"4", b"5"],
    ]
    assert [e.end.order for e in parts] == [order_of(12, lo) for lo in (6, 8)]
    assert [e.rows for e in divided(piece, 0)] == [2, 3]
    whole = changes("a", 13, b"1", b"2", b"3", b"4")
    assert divided(whole, 2) == [whole]  # of one transaction


def test_a_watermark_ends_its_transaction_whether_rows_come_or_not():
    """A restart that reads the log again must get as far at the high watermark as the rows had got."""
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"x"))
    other = ChunkWindow().on_watermark(mark(A1.high, 12))
    assert w.on_watermark(mark(A1.high, 12))[-1].end == other[-1].end


def test_what_is_no_row_and_what_is_gone_come_before_the_rows():
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    bad = ((b"3", "v: not a text"), (b"4", "v: not a text"))
    w.offer(A1, Chunk(rows(b"1", b"2"), bad, rows(b"5", b"6")))
    w.on_changes(changes("a", 11, b"2", b"4", b"6"))
    unreadable, gone, read, end = w.on_watermark(mark(A1.high, 12, lo=3))
    assert unreadable == Unreadable("a", b"3", "v: not a text", Position(order_of(12, 4), "token 12"))
    assert [c.tables[0].rows.column("_op").to_pylist() for c in (gone, read)] == [[Op.DELETE], [Op.READ]]
    assert [c.tables[0].rows.column("_key").to_pylist() for c in (gone, read)] == [[b"5"], [b"1"]]
    assert [c.end.order for c in (gone, read)] == [order_of(12, 5), order_of(12, 6)]
    assert w.emitted(A1) == order_of(12, 6)
    assert isinstance(end, Progress)


def test_a_row_that_became_unreadable_is_left_to_the_log():
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1", b"2"))
    w.on_unreadable(Unreadable("a", b"1", "v: not a text", Position(order_of(11, 1))))
    w.on_unreadable(Unreadable("b", b"2", "v: not a text", Position(order_of(11, 2))))
    assert keys_of(w.on_watermark(mark(A1.high, 12))) == [b"2"]


def test_keys_changed_between_the_watermarks_are_left_to_the_log():
    w = window("a", "b")
    w.on_changes(changes("a", 9, b"1"))
    w.on_watermark(mark(A1.low, 10))
    w.on_changes(changes("a", 11, b"2", b"none"))
    w.on_changes(changes("b", 12, b"5"))
    w.on_echo(echo("a", 13, b"3", decoded=True))
    w.on_echo(echo("a", 14, b"4", decoded=False))
    w.on_echo(echo("b", 15, b"1", decoded=False))
    w.offer(A1, chunk(b"1", b"2", b"3", b"4", b"5"))
    assert keys_of(w.on_watermark(mark(A1.high, 16))) == [b"1", b"5"]


def test_a_chunk_without_rows_left_is_progress_and_counts_as_emitted():
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1"))
    w.on_changes(changes("a", 11, b"1"))
    assert is_progress(w.on_watermark(mark(A1.high, 12)))
    assert w.emitted(A1) == order_of(12, 3)


def test_the_next_chunk_may_be_offered_before_the_last_one_is_emitted():
    w = window("a")
    w.offer(A1, chunk(b"1"))  # the log is behind: not even the low watermark has come
    w.offer(A2, chunk(b"2"))
    w.on_watermark(mark(A1.low, 10))
    assert keys_of(w.on_watermark(mark(A1.high, 11))) == [b"1"]
    w.on_watermark(mark(A2.low, 12))
    w.on_changes(changes("a", 13, b"1"))
    assert keys_of(w.on_watermark(mark(A2.high, 14))) == [b"2"]


def test_chunks_of_one_table_overlap():
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.on_changes(changes("a", 11, b"1"))
    w.on_watermark(mark(A2.low, 12))
    w.on_echo(echo("a", 13, b"2", b"8", decoded=False))
    w.offer(A1, chunk(b"1", b"2", b"3"))
    w.offer(A2, chunk(b"7", b"8", b"9"))
    assert keys_of(w.on_watermark(mark(A1.high, 14))) == [b"3"]
    w.on_changes(changes("a", 15, b"9"))
    assert keys_of(w.on_watermark(mark(A2.high, 16))) == [b"7"]


def test_a_truncate_is_the_end_of_every_open_chunk_of_its_table():
    w = window("a", "b")
    other = ChunkIdent("run", "b", 1)
    for ident in (A1, A2, other):
        w.on_watermark(mark(ident.low, 10))
        w.offer(ident, chunk(b"1"))
    w.on_truncate("a")
    assert (w.emitted(A1), w.emitted(A2), w.emitted(other)) == (LOST, LOST, None)


def test_chunks_of_different_tables_overlap():
    w = window("a", "x/y")
    other = ChunkIdent("run", "x/y", 1)
    w.on_watermark(mark(A1.low, 10))
    w.on_watermark(mark(other.low, 11))
    w.on_changes(changes("a", 12, b"1"))
    w.offer(A1, chunk(b"1", b"2"))
    w.offer(other, chunk(b"1", b"2"))
    assert keys_of(w.on_watermark(mark(A1.high, 13))) == [b"2"]
    assert keys_of(w.on_watermark(mark(other.high, 14))) == [b"1", b"2"]


@pytest.mark.parametrize(
    "ident", ["", "run", "run/a/1", "run/a/1/middle", "run/a/x/low", "/low", "a/low", "run//-1/low"]
)
def test_other_peoples_watermarks_are_progress(ident):
    w = window("a")
    assert is_progress(w.on_watermark(mark(ident, 5)))


def test_what_the_capture_does_not_know_is_lost():
    w = window("a")
    assert w.emitted(A1) == LOST
    w.offer(ChunkIdent("older run", "a", 1), chunk(b"1"))
    assert w.emitted(ChunkIdent("older run", "a", 1)) == LOST
    w.offer(A1, chunk(b"1"))
    assert is_progress(w.on_watermark(mark(A1.high, 5)))  # the low one was before our time
    assert w.emitted(A1) == LOST


@pytest.mark.parametrize("forget", [ChunkWindow.reset, lambda w: w.end("a"), lambda w: w.begin("new", "a")])
def test_a_rewind_or_a_new_run_forgets_every_chunk(forget):
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1"))
    w.on_watermark(mark(A1.high, 11))
    w.offer(A2, chunk(b"2"))
    forget(w)
    assert (w.emitted(A1), w.emitted(A2)) == (LOST, LOST)
    w.on_watermark(mark(A2.low, 12))
    assert is_progress(w.on_watermark(mark(A2.high, 13)))


def test_a_copy_is_active_from_begin_to_end():
    w = ChunkWindow()
    assert not w.active
    w.begin("run", "a")
    assert w.active
    w.end("a")
    assert not w.active


def test_a_truncated_chunk_is_read_again():
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.on_truncate("a")
    w.offer(A1, chunk(b"1"))
    assert w.emitted(A1) == LOST
    assert is_progress(w.on_watermark(mark(A1.high, 11)))


def test_a_window_with_too_many_changes_is_given_up(monkeypatch):
    monkeypatch.setattr("replication.backfill.MAX_CHANGED_KEYS", 3)
    w = window("a")
    w.on_watermark(mark(A1.low, 10))
    w.offer(A1, chunk(b"1"))
    w.on_changes(changes("a", 11, b"7", b"8"))
    assert w.emitted(A1) is None
    w.on_changes(changes("a", 12, b"7", b"8"))
    assert w.emitted(A1) == LOST


def test_only_so_many_emitted_chunks_are_remembered(monkeypatch):
    monkeypatch.setattr("replication.backfill.KEPT", 2)
    w = window("a")
    for number in range(1, 6):
        ident = ChunkIdent("run", "a", number)
        w.offer(ident, chunk(b"1"))
        w.on_watermark(mark(ident.low, 2 * number))
        w.on_watermark(mark(ident.high, 2 * number + 1))
    known = [n for n in range(1, 6) if w.emitted(ChunkIdent("run", "a", n)) != LOST]
    assert known == [4, 5]


TABLE = Table(
    TableMapping("t", ("v",), {}), TableSchema("t", (Column("v", CanonicalType(Kind.TEXT)),), ("v",))
)


class Listed:
    """A snapshot of a list of rows."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self.rows = rows
        self.limits: list[int] = []

    def read_chunk(self, table: Table, after: bytes | None, limit: int) -> pa.RecordBatch:
        self.limits.append(limit)
        keys = self.rows.column("_key").to_pylist()
        return self.rows.slice(0 if after is None else keys.index(after) + 1, limit)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 9])
def test_all_rows_are_read_once_whatever_the_chunk_size(count):
    listed = rows(*(b"%04d" % i for i in range(count)))
    chunks = list(read_chunks(Listed(listed), TABLE, ChunkSize(4, max_rows=4)))
    assert all(c.num_rows for c in chunks)
    assert [k for c in chunks for k in c.column("_key").to_pylist()] == listed.column("_key").to_pylist()


def test_chunks_grow_with_narrow_rows_and_shrink_with_wide_ones():
    size = ChunkSize(100, max_rows=1_000, max_bytes=1 << 20)
    narrow = rows(*(b"%08d" % i for i in range(100)))
    for expected in (800, 1_000, 1_000):
        size.learn(narrow)
        assert size.rows == expected
    size.learn(rows(b"x" * (256 << 10), b"y" * (256 << 10)))  # key and value: a chunk of 1 MB
    assert size.rows in (1, 2)
    size.learn(rows(b"x" * (4 << 20)))
    assert size.rows == 1


@pytest.mark.parametrize(
    ("status", "left"),
    [
        (CopyStatus("t", 1_000, 3_000, 0.5, False), "1:06:40"),
        (CopyStatus("t", 1_000, 3_000, 5.0, False, held_to=0.5), "1:06:40"),
        (CopyStatus("t", 1_000, 3_000, 0.5, False, held_to=5.0), "1:06:40"),
        (CopyStatus("t", 1_000, 0, 10.0, False), "?"),
        (CopyStatus("t", 0, 3_000, 0.0, False), "?"),
        (CopyStatus("t", 3_500, 3_000, 10.0, False), "?"),
        (CopyStatus("t", 3_000, 3_000, 10.0, True), ""),
    ],
)
def test_how_long_a_copy_will_take(status: CopyStatus, left: str) -> None:
    assert time_left(status) == left
