"""`sync-worker audit verify`, `head` and `proof`, as somebody at a terminal has them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from cluster import cli
from cluster.audit_log import open_writer
from cluster.config import InvalidConfig, load
from cluster.config_audit import AuditConfig
from replication.audit import evidence, store
from replication.audit.heads import new_signing_key
from replication.errors import ConfigError
from tests.fixtures.commands import nobody_there
from tests.unit.audit_records import changes

CONFIG = nobody_there() + "audit: {path: log, signing_key: keys/signer.pem, head_seconds: 1}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration, its signing key, and a log of three records."""
    (tmp_path / "keys").mkdir()
    pem = new_signing_key()
    (tmp_path / "keys/signer.pem").write_bytes(pem)
    public = load_pem_private_key(pem, None).public_key()
    public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "keys/public.pem").write_bytes(public_pem)
    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG)
    write(file, [1, 2, 3])
    return file


def write(file: Path, orders: list[int]) -> None:
    found = load(file)
    with closing(open_writer(found.audit_path, found.group, found.audit, shards=1)) as audit:
        audit.add_changes("pg", 0, "orders", changes(orders))


def call(capsys: pytest.CaptureFixture[str], config: Path, *words: str) -> tuple[int, str, str]:
    code = cli.main(["audit", words[0], "-c", str(config), *words[1:]])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_good_log_exits_0_and_says_who_signed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, config, "verify")
    assert code == 0
    assert "changes/orders: 3 records\n" in out
    assert "(--public-key says whether that is your key)" in out
    assert out.endswith("the log holds\n")
    public = str(config.parent / "keys/public.pem")
    code, out, _ = call(capsys, config, "verify", "--public-key", public)
    assert code == 0
    assert "--public-key" not in out
    assert not (config.parent / "log/signing.key").exists(), "the key is elsewhere"


def test_another_key_exits_1(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = evidence.folder_signer(config.parent).public_key.hex()
    code, out, _ = call(capsys, config, "verify", "--json", "--public-key", other)
    assert code == 1
    assert "is signed by another key" in json.loads(out)["faults"][0]["what"]


def test_a_bad_record_exits_1_and_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [file] = store.segments(store.stream_folder(config.parent / "log", "changes/orders"))
    store.seal(file.path, "changes/orders")
    path = file.path.with_suffix(".parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    code, out, _ = call(capsys, config, "verify")
    assert code == 1
    assert "fault: changes/orders record " in out
    assert out.endswith("the log does not hold: 1 fault\n")
    code, out, _ = call(capsys, config, "verify", "--json")
    assert json.loads(out)["faults"][0]["file"] == "changes/orders/00000001.parquet"


def test_a_head_is_kept_elsewhere_and_compared(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, config, "head")
    assert code == 0
    kept = config.parent / "head.json"
    kept.write_text(out)
    write(config, [4])
    assert call(capsys, config, "verify", "--head", str(kept))[0] == 0
    code, out, _ = call(capsys, config, "proof", "--since", str(kept))
    assert code == 0
    growth = config.parent / "growth.json"
    growth.write_text(out)
    code, out, _ = call(capsys, config, "verify", "--proof", str(growth))
    assert code == 0
    assert "has grown from head 1" in out
    store.segments(store.stream_folder(config.parent / "log", "changes/orders"))[0].path.unlink()
    (config.parent / "log/heads.jsonl").unlink()
    assert call(capsys, config, "verify")[0] == 0, "nothing left to compare with"
    code, out, _ = call(capsys, config, "verify", "--head", str(kept))
    assert code == 1
    assert "head 1, which was given, is missing" in out
    assert "records 0 to 2 are missing, which head 1 names" in out


def test_a_record_is_proven(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, config, "proof", "--stream", "changes/orders", "--record", "1")
    assert code == 0
    file = config.parent / "proof.json"
    file.write_text(out)
    (config.parent / "log").rename(config.parent / "gone")
    code, out, _ = call(capsys, config, "verify", "--proof", str(file), "--json")
    assert code == 0
    assert json.loads(out)["record"]["note"] == "note 2"
    file.write_text(file.read_text().replace('"record":1', '"record":2'))
    code, out, _ = call(capsys, config, "verify", "--proof", str(file))
    assert code == 1
    assert out.startswith("the proof does not hold: head 1 has another record in this place")


def test_a_range_is_checked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "--stream", "changes/orders", "--from", "1", "--to", "1"]
    assert call(capsys, config, *words)[0] == 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["verify", "--from", "1"], "name it with --stream"),
        (["verify", "--stream", "changes/nothing"], "there are: changes/orders"),
        (["verify", "--public-key", "nonsense"], "give 64 hexadecimal digits"),
        (["verify", "--head", "missing.json"], "missing.json"),
        (["proof"], "give --stream and --record"),
        (["proof", "--stream", "changes/orders", "--record", "3"], "records are counted from 0"),
    ],
)
def test_what_cannot_be_done_exits_2_with_a_hint(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    code, out, err = call(capsys, config, *words)
    assert (code, out) == (2, "")
    assert hint in err


def test_a_missing_signing_key_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_writer(tmp_path, "g", AuditConfig(signing_key=tmp_path / "no.pem"), shards=1)
    assert caught.value.hint == f"make one: openssl genpkey -algorithm ed25519 -out {tmp_path}/no.pem"
    (tmp_path / "no.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_writer(tmp_path, "g", AuditConfig(signing_key=tmp_path / "no.pem"), shards=1)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("pkcs11: {module: m, token: t, pin: p}", "no key is named"),
        ("pkcs11: {token: t, pin: p, key: k}", "'module' is missing"),
        ("signing_key: a.pem, pkcs11: {module: m, token: t, pin: p, signing_key: k}", "given, too"),
        ("archive: 's3://b/log'", "audit.archive: s3://b/log does not say in which region"),
        ("archive: copies", "audit.archive: copies is no address of a store"),
        ("archive: 'file:///c', archive_seconds: 0", "archive_seconds: 0 is out of range"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, section: str, problem: str) -> None:
    text = CONFIG.splitlines(keepends=True)[:-1]
    (tmp_path / "sync.yaml").write_text("".join(text) + f"audit: {{{section}}}\n")
    with pytest.raises(InvalidConfig, match=problem):
        load(tmp_path / "sync.yaml")
