"""An encrypted audit log: what applications wrote is nowhere in clear; all else goes on as before."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import cli
from cluster.audit_log import findings
from cluster.config_audit import AuditConfig
from replication.audit import evidence, proofs, reader, store
from replication.audit.holds import HoldRecord, open_holds
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.merkle import root_of
from replication.audit.records import payload_columns
from replication.audit.segment import AuditDamaged
from replication.audit.stored import AuditKeyMissing
from replication.audit.stream import Rolling
from replication.audit.verify import faults_of, verify
from replication.errors import ConfigError
from tests.fixtures.commands import nobody_there
from tests.unit.audit_records import changes, conflict, opened

KEY = secrets.token_hex(32)
OTHER = secrets.token_hex(32)
ROLLING = Rolling(bytes=9_000, seconds=3600, head_seconds=0)


def ring(path: Path, key: str = KEY) -> Keyring:
    return Keyring(path, SoftwareMasterKey(key))


def written(path: Path, orders: range = range(1, 30), key: str = KEY) -> None:
    with opened(path, rolling=ROLLING, keys=ring(path, key)) as audit:
        for order in orders:
            audit.add_changes("pg", 0, "orders", changes([order]))
            audit.add_conflicts([conflict(order)])
            audit.add_holds(
                [HoldRecord("pg", "orders", b"k%d" % order, "secret key", "my", 1, 0, "secret why")]
            )
            audit.add_operator("started", {"secret": order})
            audit.flush()


def notes(path: Path, key: str = KEY) -> list[str]:
    batches = reader.read(path, "changes/orders", ring(path, key))
    return [note for batch in batches for note in batch.column("note").to_pylist()]


def read_all(path: Path) -> None:
    for stream in store.streams(path):
        list(reader.read(path, stream, ring(path)))


def faults(path: Path) -> list[str]:
    return list(faults_of(verify(path)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    written(path)
    return path


def stored(path: Path) -> list[tuple[str, pa.RecordBatch]]:
    """All that is stored, by stream, not decrypted."""
    found = []
    for stream in store.streams(path):
        for file in store.segments(store.stream_folder(path, stream)):
            segment = evidence.stored_segment(file)
            assert segment is not None
            found += [(stream, batch) for batch in segment.batches]
    return found


def test_what_was_recorded_is_read_back(original: Path) -> None:
    assert notes(original) == [f"note {n}" for n in range(1, 30)]
    keys = ring(original)
    newest = reader.tail(original, 1000, keys=keys)
    assert Counter(e["stream"] for e in newest) == dict.fromkeys(
        ["changes/orders", "conflicts", "holds", "operator"], 29
    )
    assert json.loads(newest[-1]["detail"]) == {"secret": 29}
    assert [h["key_text"] for h in open_holds(original, keys)] == ["secret key"] * 29
    assert len(store.segments(store.stream_folder(original, "changes/orders"))) > 2
    assert not faults(original), "without any key"


def test_payload_columns_are_stored_as_ciphertext_only(original: Path) -> None:
    seen = set()
    for stream, batch in stored(original):
        assert not payload_columns(stream, batch.schema.names) - {"_salt", "_nr", "_sealed", "_leaf"}
        seen.add(stream)
        text = str(batch.to_pydict())
        assert "note " not in text
        assert "secret" not in text
    assert seen == {"changes/orders", "conflicts", "holds", "operator"}
    for file in original.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


def test_no_key_meets_a_nonce_twice(original: Path) -> None:
    used = Counter(
        (stream, salt, nr)
        for stream, batch in stored(original)
        for salt, nr in zip(batch.column("_salt").to_pylist(), batch.column("_nr").to_pylist(), strict=True)
    )
    assert max(used.values()) == 1


def test_a_flush_that_was_cut_off_is_written_again_under_another_nonce(tmp_path: Path) -> None:
    written(tmp_path, range(1, 3))
    [file] = store.segments(store.stream_folder(tmp_path, "changes/orders"))
    size = file.path.stat().st_size
    before = {b.column("_salt")[0].as_py() for s, b in stored(tmp_path) if s == "changes/orders"}
    with opened(tmp_path, keys=ring(tmp_path)) as audit:
        audit.add_changes("pg", 0, "orders", changes([3]))
        audit.flush()
        torn = {b.column("_salt")[0].as_py() for s, b in stored(tmp_path) if s == "changes/orders"} - before
    (tmp_path / evidence.HEADS).unlink()
    with file.path.open("r+b") as cut:
        cut.truncate(size + 40)
    with opened(tmp_path, keys=ring(tmp_path)) as audit:
        assert audit.add_changes("pg", 0, "orders", changes([3])) == 1
    again = {b.column("_salt")[0].as_py() for s, b in stored(tmp_path) if s == "changes/orders"} - before
    assert len(torn) == len(again) == 1
    assert torn != again


def test_a_wrong_key_is_named_with_its_remedy(log: Path) -> None:
    for attempt in (
        lambda: notes(log, OTHER),
        lambda: opened(log, keys=ring(log, OTHER)).thing.close(),
    ):
        with pytest.raises(AuditKeyMissing, match="is encrypted under the key") as caught:
            attempt()
        assert "set audit.key" in caught.value.hint
        assert KEY not in str(caught.value)
        assert OTHER not in str(caught.value)


def test_no_key_is_named_with_its_remedy(log: Path) -> None:
    for attempt in (lambda: list(reader.read(log, "changes/orders")), lambda: opened(log).thing.close()):
        with pytest.raises(AuditKeyMissing) as caught:
            attempt()
        assert "audit.key" in caught.value.hint
    (log / store.KEYS).unlink()
    with pytest.raises(AuditKeyMissing, match=r"is not in .*keys\.json"):
        notes(log)
    assert not faults(log), "a lost key takes no proof away"
    assert proofs.check(proofs.prove_record(log, "changes/orders", 7))


def test_an_altered_key_is_named(log: Path) -> None:
    keys = store.read_keys(log)
    [key] = [k for k in keys if k["stream"] == "holds"]
    key["wrapped"] = key["wrapped"][:-2] + ("00" if key["wrapped"][-2:] != "00" else "01")
    store.write_keys(log, keys)
    with pytest.raises(AuditKeyMissing, match="was altered"):
        read_all(log)


def test_keys_are_no_substitute_for_each_other(log: Path) -> None:
    keys = store.read_keys(log)
    keys[0]["wrapped"], keys[1]["wrapped"] = keys[1]["wrapped"], keys[0]["wrapped"]
    store.write_keys(log, keys)
    with pytest.raises(AuditKeyMissing, match="was altered"):
        read_all(log)


def test_a_payload_on_another_row_is_not_read(log: Path) -> None:
    file = store.segments(store.stream_folder(log, "changes/orders"))[0]
    with pq.ParquetFile(file.path) as parquet:
        metadata, table = parquet.schema_arrow.metadata, parquet.read()
    moved = table.take([1, 0, *range(2, table.num_rows)])
    for name in ("_salt", "_nr", "_sealed"):
        table = table.set_column(table.schema.get_field_index(name), name, moved.column(name))
    pq.write_table(table.replace_schema_metadata(metadata), file.path)
    with pytest.raises(AuditDamaged, match="is not what was written"):
        notes(log)
    assert faults(log)[0].startswith("changes/orders record 0 ")


def test_data_keys_rotate_and_old_segments_stay_readable(log: Path) -> None:
    with opened(log, rolling=ROLLING, keys=ring(log)) as audit:
        before = len(store.streams(log))
        assert audit.rotate_keys() == before
        audit.add_changes("pg", 0, "orders", changes([30]))
    assert len(store.read_keys(log)) == 2 * before + 1, "columns are hashed with one key for ever"
    assert notes(log) == [f"note {n}" for n in range(1, 31)]
    segments = [
        evidence.stored_segment(f) for f in store.segments(store.stream_folder(log, "changes/orders"))
    ]
    keys = [s.header.key for s in segments if s]
    assert len(set(keys)) == 2
    assert keys[-1] not in keys[:-1]
    assert not faults(log)


def test_a_new_master_key_opens_everything_and_the_old_one_nothing(log: Path) -> None:
    with opened(log, keys=ring(log)) as audit:
        audit.rotate_keys(SoftwareMasterKey(OTHER))
    assert notes(log, OTHER) == [f"note {n}" for n in range(1, 30)]
    with pytest.raises(AuditKeyMissing):
        notes(log)
    written(log, range(30, 32), OTHER)
    assert notes(log, OTHER)[-1] == "note 31"
    assert not faults(log)


def test_a_log_in_clear_is_encrypted_from_now_on(tmp_path: Path) -> None:
    with opened(tmp_path, rolling=ROLLING) as audit:
        audit.add_changes("pg", 0, "orders", changes([1]))
        audit.add_conflicts([conflict(1)])
    written(tmp_path, range(2, 5))
    with opened(tmp_path, keys=ring(tmp_path)) as audit:
        assert audit.add_conflicts([conflict(1), conflict(4)]) == 0, "known from both"
    assert notes(tmp_path) == [f"note {n}" for n in range(1, 5)]
    assert not faults(tmp_path)


def test_every_leaf_is_of_what_is_stored(original: Path) -> None:
    leaves = [leaf for s, b in stored(original) if s == "holds" for leaf in evidence.written_leaves(b)]
    *_, last = evidence.head_lines(original)
    assert json.loads(last)["streams"]["holds"]["root"] == root_of(leaves).hex()


def test_a_key_that_is_none_is_refused_without_showing_it() -> None:
    for text in ("", "hunter2", KEY[:-2], "zz" * 32):
        with pytest.raises(ConfigError) as caught:
            SoftwareMasterKey(text)
        assert not text or text not in str(caught.value)
        assert caught.value.hint == "make one: openssl rand -hex 32"


def test_check_warns_of_a_log_in_clear_and_finds_a_wrong_key(log: Path, tmp_path: Path) -> None:
    [warning] = findings(tmp_path / "new", AuditConfig())
    assert warning.level == "warning"
    assert "openssl rand -hex 32" in warning.remedy
    assert findings(log, AuditConfig(key=KEY)) == []
    [error] = findings(log, AuditConfig(key=OTHER))
    assert error.level == "error"
    assert [f.level for f in findings(log, AuditConfig())] == ["warning", "error"]


# As somebody at a terminal has it.

CONFIG = nobody_there("g")


@pytest.fixture
def config(log: Path) -> Path:
    file = log.parent / "sync.yaml"
    (log.parent / "audit.key").write_text(KEY + "\n")
    file.write_text(CONFIG + "audit: {path: log, key: {file: audit.key}}\n")
    return file


def test_commands_open_an_encrypted_log(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ["audit", "tail", "-c", str(config)],
        [
            "audit",
            "tail",
            "--audit",
            str(config.parent / "log"),
            "--key-file",
            str(config.parent / "audit.key"),
        ],
    ):
        assert cli.main(words) == 0
        assert "note=note 29" in capsys.readouterr().out
    assert cli.main(["dlq", "list", "-c", str(config)]) == 0
    assert "secret why" in capsys.readouterr().out
    assert cli.main(["conflicts", "list", "-c", str(config)]) == 0
    assert "update_update" in capsys.readouterr().out
    config.write_text(CONFIG + 'audit: {path: log, key: "${AUDIT_KEY}"}\n')
    monkeypatch.setenv("AUDIT_KEY", OTHER)
    assert cli.main(["audit", "tail", "-c", str(config)]) == 2
    error = capsys.readouterr().err
    assert "hint: set audit.key" in error
    assert OTHER not in error
    monkeypatch.setenv("AUDIT_KEY", "hunter2")
    assert cli.main(["audit", "tail", "-c", str(config)]) == 2
    error = capsys.readouterr().err
    assert "audit.key: not 64 hexadecimal digits" in error
    assert "hunter2" not in error
    assert cli.main(["audit", "tail", "--audit", str(config.parent / "log")]) == 2
    assert "with --audit, --key-file" in capsys.readouterr().err


def test_rotate_key_on_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "rotate-key", "-c", str(config)]) == 0
    assert capsys.readouterr().out.startswith("4 new data keys")
    (config.parent / "new.key").write_text(OTHER)
    words = ["audit", "rotate-key", "-c", str(config), "--new-key-file", str(config.parent / "new.key")]
    assert cli.main(words) == 0
    assert "name it in the configuration now" in capsys.readouterr().out
    assert cli.main(["audit", "tail", "-c", str(config)]) == 2
    assert "is encrypted under the key" in capsys.readouterr().err
    (config.parent / "new.key").rename(config.parent / "audit.key")
    assert cli.main(["audit", "tail", "-c", str(config), "--kind", "operator", "-n", "2"]) == 0
    assert capsys.readouterr().out.count("audit_keys_rotated") == 2
