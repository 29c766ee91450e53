"""Whole rows are read in key order, chunk by chunk, and watermarks say when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest

from replication.change import Changes, Watermark
from replication.key import decode_key, encode_key
from replication.types import Kind
from tests.conformance.samples import NOTHING, PLANES, item
from tests.conformance.tools import Peer, Write, decimals, eventually, key_kinds, rows_of
from tests.fixtures.engines import EngineHarness, Key


def chunks(peer: Peer, table: str, limit: int, after: bytes | None = None) -> list[pa.RecordBatch]:
    """Every chunk after a key."""
    found = []
    while True:
        found.append(peer.snapshot.read_chunk(peer.harness.tables[table], after, limit))
        if found[-1].num_rows < limit:
            return found
        after = found[-1].column("_key")[-1].as_py()


def keys_in(peer: Peer, table: str, batches: list[pa.RecordBatch]) -> list[Key]:
    kinds = key_kinds(peer.harness.tables[table])
    return [decode_key(key, kinds) for b in batches for key in b.column("_key").to_pylist()]


def data(peer: Peer, table: str, batch: pa.RecordBatch) -> list[dict]:
    found = peer.harness.tables[table]
    return [decimals(found, row) for row in batch.drop_columns(["_key"]).to_pylist()]


def test_an_empty_table_is_one_empty_chunk(harness: EngineHarness, peer: Peer) -> None:
    chunk = peer.snapshot.read_chunk(harness.tables["items"], None, 10)
    assert chunk.num_rows == 0
    assert chunk.schema.names == ["_key", *harness.tables["items"].schema.arrow.names]


def test_a_chunk_holds_the_rows_as_they_are(harness: EngineHarness, peer: Peer) -> None:
    harness.insert("items", item(1) | {"secret": "top", "extra": "local"})
    harness.insert("items", item(2, **NOTHING))
    peer.apply(Write("items", (3,), item(3)))
    chunk = peer.snapshot.read_chunk(harness.tables["items"], None, 10)
    schema = harness.tables["items"].schema.arrow
    assert chunk.schema.names == ["_key", *schema.names]
    assert chunk.schema.types == [pa.binary(), *schema.types]
    assert data(peer, "items", chunk) == [item(1), item(2, **NOTHING), item(3)]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_chunks_are_complete_and_ascending(harness: EngineHarness, peer: Peer, limit: int) -> None:
    idents = [-(2**63), -7, -1, 0, 1, 2, 255, 256, 2**31, 2**63 - 1]
    with harness.transaction() as tx:
        for ident in reversed(idents):
            tx.insert("items", item(ident, price=Decimal(1)))
        for word in PLANES:
            tx.insert("words", {"word": word})
        for num in (3, -1):
            for word in PLANES:
                tx.insert("pairs", {"num": num, "code": word})
    text = sorted(PLANES, key=str.encode)
    expected = {
        "items": [(i,) for i in idents],
        "words": [(w,) for w in text],
        "pairs": [(n, w) for n in (-1, 3) for w in text],
    }
    for table, keys in expected.items():
        found = chunks(peer, table, limit)
        assert keys_in(peer, table, found) == keys
        raw = [key for b in found for key in b.column("_key").to_pylist()]
        assert raw == sorted(set(raw))
        assert all(b.num_rows == limit for b in found[:-1])


def test_reading_resumes_after_any_key(harness: EngineHarness, peer: Peer) -> None:
    with harness.transaction() as tx:
        for num in (1, 2):
            for code in ("a", "b", "ü"):
                tx.insert("pairs", {"num": num, "code": code})
    keys = keys_in(peer, "pairs", chunks(peer, "pairs", 100))
    kinds = key_kinds(harness.tables["pairs"])
    for at, key in enumerate(keys):
        rest = chunks(peer, "pairs", 2, encode_key(key, kinds))
        assert keys_in(peer, "pairs", rest) == keys[at + 1 :]
    between = encode_key((1, "aa"), kinds)
    assert keys_in(peer, "pairs", chunks(peer, "pairs", 100, between)) == keys[1:]
    assert keys_in(peer, "pairs", chunks(peer, "pairs", 100, encode_key((2, "z"), kinds))) == keys[5:]


def test_a_range_ends_with_its_last_key(harness: EngineHarness, peer: Peer) -> None:
    with harness.transaction() as tx:
        for ident in range(5):
            tx.insert("items", item(ident))
        for num in (1, 2):
            for code in ("a", "b", "ü"):
                tx.insert("pairs", {"num": num, "code": code})
    for table in ("items", "pairs"):
        whole = peer.snapshot.read_chunk(harness.tables[table], None, 100).column("_key").to_pylist()
        for start, after in enumerate([None, *whole]):
            for end, until in enumerate(whole, 1):
                found = peer.snapshot.read_chunk(harness.tables[table], after, 100, until=until)
                assert found.column("_key").to_pylist() == whole[start:end]
        found = peer.snapshot.read_chunk(harness.tables[table], whole[0], 2, until=whole[-1])
        assert found.column("_key").to_pylist() == whole[1:3]


def test_rows_can_be_skipped(harness: EngineHarness, peer: Peer) -> None:
    with harness.transaction() as tx:
        for word in PLANES:
            tx.insert("words", {"word": word})
    table = harness.tables["words"]
    whole = peer.snapshot.read_chunk(table, None, 100).column("_key").to_pylist()
    for skip in range(len(whole)):
        found = peer.snapshot.read_chunk(table, whole[0], 1, until=whole[-1], skip=skip)
        assert found.column("_key").to_pylist() == whole[1 + skip : 2 + skip]


def test_rows_are_found_by_key(harness: EngineHarness, peer: Peer) -> None:
    with harness.transaction() as tx:
        for ident in range(5):
            tx.insert("items", item(ident))
        tx.insert("pairs", {"num": 1, "code": "𝄞", "value": "v"})
    keys = [encode_key((i,), [Kind.INT64]) for i in (3, 99, 1)]
    found = peer.snapshot.read_keys(harness.tables["items"], keys)
    by_key = dict(zip(found.column("_key").to_pylist(), data(peer, "items", found), strict=True))
    assert by_key == {keys[0]: item(3), keys[2]: item(1)}
    pair = encode_key((1, "𝄞"), key_kinds(harness.tables["pairs"]))
    found = peer.snapshot.read_keys(harness.tables["pairs"], [pair])
    assert data(peer, "pairs", found) == [{"num": 1, "code": "𝄞", "value": "v"}]
    assert peer.snapshot.read_keys(harness.tables["items"], []).num_rows == 0


def test_a_row_count_can_be_estimated(harness: EngineHarness, peer: Peer) -> None:
    assert peer.snapshot.estimate_rows(harness.tables["items"]) >= 0


def test_watermarks_keep_their_place_among_the_changes(harness: EngineHarness, peer: Peer) -> None:
    with closing(peer.source()) as source:
        harness.insert("items", item(1))
        peer.snapshot.write_watermark("low-1")
        harness.insert("items", item(2))
        peer.apply(Write("items", (3,), item(3)))
        peer.snapshot.write_watermark("high-1")
        peer.snapshot.write_watermark("low-2")
        harness.insert("items", item(4))
        events = peer.drain(source)
    story: list[object] = []
    for event in events:
        if isinstance(event, Watermark):
            story.append(event.ident)
        elif isinstance(event, Changes):
            story += [row.key for row in rows_of(event.tables, harness)]
    assert story == [(1,), "low-1", (2,), "high-1", "low-2", (4,)]
    marks = [e for e in events if isinstance(e, Watermark)]
    again = [e.ident for e in peer.read(marks[0].end) if isinstance(e, Watermark)]
    assert again == ["high-1", "low-2"]


def test_several_readers_write_watermarks_at_once(harness: EngineHarness, peer: Peer) -> None:
    """Also where none was ever written, and each comes through the log."""

    def write(reader: int) -> list[str]:
        idents = [f"reader {reader} mark {n}" for n in range(5)]
        with closing(peer.engine.snapshot()) as snapshot:
            for ident in idents:
                eventually(lambda ident=ident: snapshot.write_watermark(ident))
        return idents

    with closing(peer.source()) as source, ThreadPoolExecutor(4) as pool:
        written = list(pool.map(write, range(4)))
        seen = [e.ident for e in peer.drain(source) if isinstance(e, Watermark)]
    for idents in written:
        assert [i for i in seen if i in idents] == idents


def test_a_snapshot_sees_what_was_committed_before_it_began(harness: EngineHarness, peer: Peer) -> None:
    for at, ident in enumerate((1, 2, 0)):
        harness.insert("items", item(ident))
        assert keys_in(peer, "items", chunks(peer, "items", 2)) == sorted([(1,), (2,), (0,)][: at + 1])
    harness.delete("items", (1,))
    harness.insert("items", item(1, qty=77))
    (chunk,) = chunks(peer, "items", 100)
    assert data(peer, "items", chunk) == [item(0), item(1, qty=77), item(2)]
