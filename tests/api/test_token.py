"""`sync-worker token`: keys made once, and tokens that the interface takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.access import Role, role_of
from api.tokens import Verifier
from cluster.cli import main
from cluster.config import load
from tests.fixtures.api_bed import Keys, write_config


def issued(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["token", "-c", str(config), *words])
    found = capsys.readouterr()
    return code, found.out or found.err


def test_a_token_is_taken_and_its_key_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    code, token = issued(config, capsys, "--role", "operator", "--subject", "alice")
    assert code == 0
    api = load(config).api
    assert api is not None
    assert api.auth is not None
    verifier = Verifier(api.auth)
    claims = verifier.claims(token.strip())
    assert (claims["sub"], role_of(verifier.roles(claims))) == ("alice", Role.OPERATOR)
    private = tmp_path / "keys.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert '"d"' not in (tmp_path / "keys.json").read_text()
    before = private.read_bytes()
    code, text = issued(config, capsys, "--json", "--hours", "1")
    assert (code, private.read_bytes()) == (0, before)
    again = json.loads(text)
    assert again["claims"]["exp"] - again["claims"]["iat"] == 3600
    assert verifier.claims(again["token"])["roles"] == ["viewer"]


def test_keys_of_somebody_else_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    theirs = Keys(tmp_path).jwks.read_text()
    code, text = issued(config, capsys)
    assert (code, "belong together" in text) == (2, True)
    assert (tmp_path / "keys.json").read_text() == theirs


def test_without_auth_no_token_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = issued(write_config(tmp_path, auth=False), capsys)
    assert (code, "write, for instance: api: {auth: {jwks: keys.json" in text) == (2, True)
