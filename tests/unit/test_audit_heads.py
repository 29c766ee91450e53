"""When heads are signed, what a crash leaves, and what proves records, growth and rows without the log."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.audit import evidence, merkle, proofs, reader, store
from replication.audit.heads import SignerUnavailable, SoftwareSigner, new_signing_key
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.records import change_records
from replication.audit.rows import decode_rows, encode_rows
from replication.audit.segment import Header, Segment
from replication.audit.stream import Rolling
from replication.audit.verify import faults_of, read_heads, verify
from replication.audit.writer import AuditWriter
from tests.unit.audit_records import changes, clock, opened, recorded
from tests.unit.test_audit_killed import run_and_kill
from tests.unit.test_audit_proofs import altered, faults, files, rewrite, written


@pytest.fixture
def log(tmp_path: Path) -> Path:
    written(tmp_path / "log")
    return tmp_path / "log"


def test_a_writer_puts_on_record_that_sealed_records_are_gone(tmp_path: Path) -> None:
    written(tmp_path, range(1, 3))
    files(tmp_path, "changes/items")[0].path.unlink()
    written(tmp_path, range(3, 4))
    [row] = [r for f in files(tmp_path, "operator") for b in store.read_segment(f) for r in b.to_pylist()]
    assert row["kind"] == "audit_records_missing"
    assert json.loads(row["detail"]) == {"stream": "changes/items", "sealed": 2, "found": 0}
    assert faults(tmp_path), "and it stays found"


def test_a_head_is_signed_when_it_is_due_and_at_the_end(tmp_path: Path) -> None:
    now = [1_000_000]
    audit = AuditWriter(tmp_path, "g", lambda: now[0], rolling=Rolling(head_seconds=60))
    with closing(audit):
        for second in (0, 1, 59, 60, 61):
            now[0] = 1_000_000 + second * 1_000_000
            audit.add_operator("tick", second)
            audit.flush()
        audit.flush()
        times = [head.time for head in read_heads(tmp_path)]
        assert times == [1_000_000, 61_000_000]
    assert [h.streams["operator"].records for h in read_heads(tmp_path)] == [1, 4, 5]
    opened(tmp_path).thing.close()
    assert len(read_heads(tmp_path)) == 3, "nothing new, no head"


class Away:
    """A signer that is away for a while."""

    def __init__(self) -> None:
        self.real = SoftwareSigner(new_signing_key())
        self.is_away = False
        self.asked = 0

    @property
    def public_key(self) -> bytes:
        return self.real.public_key

    def sign(self, data: bytes) -> bytes:
        self.asked += 1
        if self.is_away:
            message = "unplugged"
            raise SignerUnavailable(message)
        return self.real.sign(data)


def test_the_log_goes_on_while_nobody_signs(tmp_path: Path) -> None:
    signer, now = Away(), [0]
    audit = AuditWriter(tmp_path, "g", lambda: now[0], rolling=Rolling(head_seconds=60), signer=signer)
    with closing(audit):
        for second in range(0, 200, 10):
            signer.is_away = 30 < second < 190
            now[0] = second * 1_000_000
            audit.add_changes("pg", 0, "orders", changes([second + 1]))
            audit.flush()
    assert signer.asked == 5, "asked again when a head is due only, and at the end"
    assert recorded(tmp_path, "operator", "kind") == ["audit_head_not_signed"]
    found = verify(tmp_path)
    assert not found.faults, list(faults_of(found))
    assert found.sealed == found.records == {"changes/orders": 20, "operator": 1}
    assert found.heads == 2


def test_nobody_signs_at_the_end(tmp_path: Path) -> None:
    signer = Away()
    signer.is_away = True
    with opened(tmp_path, signer=signer) as audit:
        audit.add_changes("pg", 0, "orders", changes([1]))
    assert recorded(tmp_path, "operator", "kind") == ["audit_head_not_signed"]
    assert recorded(tmp_path) == [1]


@pytest.mark.parametrize("key", ["", secrets.token_hex(32)], ids=["clear", "encrypted"])
def test_killed_anywhere_raises_no_false_alarm(tmp_path: Path, key: str) -> None:
    start, heads = 1, 0
    for acknowledgements in (1, 2, 4, 9):
        start = run_and_kill(tmp_path, start, acknowledgements, "heads", key)
        found = verify(tmp_path)
        assert not found.faults, list(faults_of(found))
        assert found.heads >= heads + acknowledgements - 1, "a head with every flush"
        heads = found.heads
    keys = Keyring(tmp_path, SoftwareMasterKey(key)) if key else None
    written(tmp_path, range(start, start + 2), keys=keys)
    found = verify(tmp_path)
    assert not found.faults, list(faults_of(found))
    assert found.records == found.sealed
    ids = [i for b in reader.read(tmp_path, "changes/items", keys) for i in b.column("id").to_pylist()]
    assert max(Counter(ids).values()) == 1, "a change is on record twice"
    assert set(range(1, start)) <= set(ids), "an acknowledged change is missing"


@pytest.mark.parametrize("torn", [1, 200])
def test_a_crash_while_a_head_is_written_raises_no_false_alarm(log: Path, torn: int) -> None:
    path = log / evidence.HEADS
    path.write_bytes(path.read_bytes()[:-torn])
    found = verify(log)
    assert not found.faults
    assert found.sealed["changes/orders"] in (46, 48)
    lines = list(evidence.head_lines(log))
    evidence.cut_torn_head(log)
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
    written(log, range(30, 31))
    assert not faults(log)
    assert verify(log).sealed == verify(log).records


def test_records_after_the_last_head_are_counted(tmp_path: Path) -> None:
    audit = AuditWriter(tmp_path, "g", clock(), rolling=Rolling(head_seconds=60))
    audit.add_operator("first", {})
    audit.flush()
    audit.add_operator("second", {})
    audit.flush()
    found = verify(tmp_path)
    assert (found.records, found.sealed) == ({"operator": 2}, {"operator": 1})
    audit.close()
    assert verify(tmp_path).sealed == {"operator": 2}


def test_a_log_that_was_begun_before_there_were_trees_goes_on(tmp_path: Path) -> None:
    folder = store.stream_folder(tmp_path, "changes/orders")
    folder.mkdir(parents=True)
    rows = change_records("pg", 0, changes([1, 2, 3]), 7)
    segment = Segment(Header("g", "changes/orders", 1, 0).on(rows.schema))
    (folder / "00000001.arrow").write_bytes(segment.encode([rows], {"pg/0/1/0": "3"}))
    with opened(tmp_path) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([3, 4])) == 1
    assert recorded(tmp_path) == [1, 2, 3, 4]
    found = verify(tmp_path)
    assert not found.faults, list(faults_of(found))
    assert found.sealed["changes/orders"] == 4
    assert proofs.check(proofs.prove_record(tmp_path, "changes/orders", 1))
    rewrite(files(tmp_path)[0], lambda t: altered(t, 1))
    assert faults(tmp_path)


# Proofs that stand alone.


@pytest.mark.parametrize("record", [0, 17, 47])
def test_a_record_is_proven_without_the_log(log: Path, record: int) -> None:
    proof = json.loads(json.dumps(proofs.prove_record(log, "changes/orders", record)))
    trusted = [evidence.folder_signer(log).public_key]
    found = proofs.check(proof, trusted)
    assert found["record"].column("id").to_pylist() == [record + 2]
    with pytest.raises(proofs.ProofWrong, match="another key"):
        proofs.check(proof, [SoftwareSigner(new_signing_key()).public_key])
    stored = proof["stored"]
    for wrong in (
        {"record": (record + 1) % 48},
        {"stored": stored[:-2] + ("00" if stored[-2:] != "00" else "01")},
        {"stream": "changes/items"},
        {"path": proof["path"][1:]},
        {"path": [*proof["path"], "00" * 32]},
        {"place": proof["place"].replace("orders", "users")},
        {"head": proof["head"] | {"time": 1}},
        {"head": 1},
    ):
        with pytest.raises(proofs.ProofWrong):
            proofs.check(proof | wrong)
    with pytest.raises(proofs.ProofWrong, match="not a proof"):
        proofs.check({})


def test_heads_grow_from_each_other_without_the_log(log: Path) -> None:
    old = read_heads(log)[5]
    proof = json.loads(json.dumps(proofs.prove_growth(log, old)))
    assert proofs.check(proof)["old"] == old
    other = read_heads(log)[4]
    with pytest.raises(proofs.ProofWrong, match="has not grown"):
        proofs.check(proof | {"old": asdict(other)})


@given(st.integers(1, 70), st.data())
def test_the_tree_proves_every_leaf_and_every_growth(size: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    root = merkle.root_of(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion(leaves, index)
    assert merkle.is_included(leaves[index], index, size, path, root)
    assert not merkle.is_included(leaves[index], size - 1 - index, size, path, root) or size - 1 == 2 * index
    assert not merkle.is_included(merkle.leaf_hash(b"other"), index, size, path, root)
    old = data.draw(st.integers(1, size))
    growth = merkle.consistency(leaves, old)
    before = merkle.root_of(leaves[:old])
    assert merkle.is_consistent(old, before, size, root, growth)
    assert not merkle.is_consistent(old, merkle.leaf_hash(b"x"), size, root, growth)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    tree = merkle.Frontier()
    for low, high in zip([0, *cuts], [*cuts, size], strict=True):
        tree.extend(leaves[low:high])
        tree = merkle.Frontier.of(tree.state)
    assert tree.root == root


def test_the_tree_has_the_roots_of_the_rfc() -> None:
    """The vectors of Certificate Transparency's reference implementation."""
    inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    leaves = [merkle.leaf_hash(bytes.fromhex(text)) for text in inputs]
    roots = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {size: merkle.root_of(leaves[:size]).hex() for size in roots} == roots


COLUMNS = {
    "flag": pa.bool_(), "small": pa.int16(), "big": pa.uint64(), "ratio": pa.float32(), "day": pa.date32(),
    "clock": pa.time64("us"), "at": pa.timestamp("us", "UTC"), "text": pa.utf8(), "blob": pa.binary(),
}  # fmt: skip
VALUES = st.fixed_dictionaries(
    {
        "flag": st.none() | st.booleans(),
        "small": st.none() | st.integers(-(2**15), 2**15 - 1),
        "big": st.none() | st.integers(0, 2**64 - 1),
        "ratio": st.none() | st.floats(width=32, allow_nan=False),
        "day": st.none() | st.dates(),
        "clock": st.none() | st.times(),
        "at": st.none() | st.integers(-(2**63), 2**63 - 1),
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        "blob": st.none() | st.binary(),
    }
)


@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(0, 2))
def test_rows_and_their_bytes_are_the_same(rows: list[dict], skip: int) -> None:
    schema = pa.schema(COLUMNS)
    arrays = [pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema).slice(min(skip, len(rows) - 1))
    encoded = encode_rows(batch.columns)
    decoded = pa.RecordBatch.from_arrays(decode_rows(encoded, schema), schema=schema)
    decoded.validate(full=True)
    assert decoded.equals(batch)
    assert encode_rows(decoded.columns) == encoded
    assert [encode_rows(batch.slice(i, 1).columns)[0] for i in range(batch.num_rows)] == encoded


def test_the_bytes_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    texts = pa.array(["ab", "ab", "c", None, ""])
    numbers, same = pa.array([1, 2, 3, 4, 5], pa.int16()), pa.array(["x"] * 5)
    found = encode_rows([numbers, same, texts, pa.nulls(5, pa.utf8()), numbers], b"<", 7)
    cells = [b"\1\2\0\0\0ab", b"\1\2\0\0\0ab", b"\1\1\0\0\0c", b"\0", b"\1\0\0\0\0"]
    assert found == [
        b"<%c\0\0\0\0\0\0\0\1%c\0\1\1\0\0\0x%b\0\1%c\0" % (7 + i, 1 + i, cell, 1 + i)
        for i, cell in enumerate(cells)
    ]
    for at, count in ((0, 2), (1, 2), (3, 1), (4, 1)):
        columns = [c.slice(at, count) for c in (numbers, same, texts, pa.nulls(5, pa.utf8()), numbers)]
        assert encode_rows(columns, b"<", 7 + at) == found[at : at + count]
