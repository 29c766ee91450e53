"""The audit log's keys in a token, through PKCS#11, tried with SoftHSM.

`SYNC_TEST_PKCS11` names SoftHSM's library where it is installed and in none of the usual places.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import cli
from cluster.audit_log import findings, open_keys, open_writer
from cluster.audit_token import TokenConfig, TokenMasterKey, TokenSigner
from cluster.config import load
from cluster.config_audit import AuditConfig
from cluster.servers.debian import NotFetched, Packages, fetched
from replication.audit import reader, store
from replication.audit.stored import AuditKeyMissing
from replication.audit.verify import faults_of, verify
from replication.errors import ConfigError
from tests.fixtures.commands import nobody_there
from tests.fixtures.servers import lacking
from tests.unit.audit_records import changes

PIN = "tr0ub4dor"
PACKAGES = Packages("softhsm", "softhsm2", "", lambda package: "softhsm" in package)
CONFIG = nobody_there("g")


def softhsm() -> tuple[str, str]:
    """Its library and its program: those that are installed, else Debian's, fetched if need be."""
    tool, given = shutil.which("softhsm2-util"), os.environ.get("SYNC_TEST_PKCS11")
    root = Path("/")
    if not tool:
        try:
            root = fetched(PACKAGES)
        except NotFetched as error:
            reason = f"no SoftHSM: {error}; install softhsm2, or name its library in SYNC_TEST_PKCS11"
            lacking(error, reason)
        tool = str(root / "usr/bin/softhsm2-util")
    places = [Path(given)] if given else sorted(root.glob("usr/lib/**/softhsm/libsofthsm2.so"))
    return str(places[0]), tool


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenConfig]:
    """A token of our own with a key of each kind."""
    module, tool = softhsm()
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(
        folder / "conf"
    )  # the library reads it when it is loaded, once a process
    words = ["--init-token", "--free", "--label", "audit", "--pin", PIN, "--so-pin", "5678"]
    subprocess.run([tool, "--module", module, *words], check=True, capture_output=True)
    config = TokenConfig(module, "audit", PIN, "signer", "master")
    _make_keys(config)
    yield config
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


def _make_keys(config: TokenConfig) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    with pkcs11.lib(config.module).get_token(token_label="audit").open(user_pin=PIN, rw=True) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC_EDWARDS, curve, local=True)
        parameters.generate_keypair(
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="signer"
        )
        hidden = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        for label in ("master", "other"):
            session.generate_key(pkcs11.KeyType.AES, 256, store=True, label=label, template=hidden)


def write(path: Path, audit: AuditConfig, orders: list[int]) -> None:
    writer = open_writer(path, "g", audit, shards=1)
    writer.add_changes("pg", 0, "orders", changes(orders))
    writer.close()


def notes(path: Path, audit: AuditConfig) -> list[Any]:
    batches = reader.read(path, "changes/orders", open_keys(path, audit))
    return [note for batch in batches for note in batch.column("note").to_pylist()]


def test_heads_are_signed_and_records_encrypted_with_keys_in_the_token(
    token: TokenConfig, tmp_path: Path
) -> None:
    audit = AuditConfig(token=token)
    write(tmp_path, audit, [1, 2])
    write(tmp_path, audit, [3])
    assert notes(tmp_path, audit) == ["note 1", "note 2", "note 3"]
    found = verify(tmp_path, trusted=[TokenSigner(token).public_key])
    assert not found.faults, list(faults_of(found))
    assert found.sealed["changes/orders"] == 3
    assert not (tmp_path / "signing.key").exists()
    assert {key["master"] for key in store.read_keys(tmp_path)} == {"pkcs11:audit/master"}
    assert findings(tmp_path, audit) == []


def test_a_wrapped_key_that_was_altered_is_not_unwrapped(token: TokenConfig) -> None:
    master = TokenMasterKey(token)
    wrapped = master.wrap(b"k" * 32, b"about")
    assert master.unwrap(wrapped, b"about") == b"k" * 32
    for data, about in ((wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"about"), (wrapped, b"other")):
        with pytest.raises(ValueError, match="not wrapped by this key"):
            master.unwrap(data, about)
    with pytest.raises(ValueError, match="not wrapped by this key"):
        TokenMasterKey(replace(token, key="other")).unwrap(wrapped, b"about")


def test_a_log_moves_into_the_token(
    token: TokenConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_PIN", PIN)
    (tmp_path / "audit.key").write_text("ab" * 32)
    parts = f'module: {token.module}, token: audit, pin: "${{AUDIT_PIN}}", signing_key: signer'
    file = tmp_path / "sync.yaml"
    file.write_text(CONFIG + f"audit: {{path: log, key: {{file: audit.key}}, pkcs11: {{{parts}}}}}\n")
    config = load(file)
    assert PIN not in repr(config)
    write(config.audit_path, config.audit, [1])
    assert cli.main(["audit", "rotate-key", "-c", str(file), "--new-token-key", "other"]) == 0
    assert "master key pkcs11:audit/other" in capsys.readouterr().out
    with pytest.raises(AuditKeyMissing):
        notes(config.audit_path, config.audit)
    file.write_text(CONFIG + f"audit: {{path: log, pkcs11: {{{parts}, key: other}}}}\n")
    assert cli.main(["audit", "tail", "-c", str(file), "--kind", "change"]) == 0
    assert "note=note 1" in capsys.readouterr().out
    assert cli.main(["audit", "verify", "-c", str(file)]) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"token": "none"}, "no token 'none'"),
        ({"module": "/nowhere/lib.so"}, "/nowhere/lib.so"),
        ({"key": "none"}, "no AES key 'none'"),
    ],
)
def test_what_is_wrong_with_the_token_is_named(
    token: TokenConfig, tmp_path: Path, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_keys(tmp_path, AuditConfig(token=replace(token, **wrong)))
    assert caught.value.hint
    assert PIN not in str(caught.value)


def test_a_wrong_pin_is_named_and_not_shown(token: TokenConfig, tmp_path: Path) -> None:
    """In a process of its own, since a process logs in once."""
    (tmp_path / "log").mkdir()
    file = tmp_path / "sync.yaml"
    section = f'module: {token.module}, token: audit, pin: "${{AUDIT_PIN}}", key: master'
    file.write_text(CONFIG + f"audit: {{path: log, pkcs11: {{{section}}}}}\n")
    command = [sys.executable, "-m", "cluster.cli", "audit", "tail", "-c", str(file)]
    for pin, code in ((PIN, 0), ("wrong-pin", 2)):
        env = {**os.environ, "AUDIT_PIN": pin}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
    assert "the token 'audit' does not take it" in done.stderr
    assert "wrong-pin" not in done.stderr


def test_a_missing_signing_key_is_named(token: TokenConfig) -> None:
    with pytest.raises(ConfigError, match="no public key 'none'"):
        TokenSigner(replace(token, signing_key="none"))
