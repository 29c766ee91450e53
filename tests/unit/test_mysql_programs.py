"""Where a MySQL server program is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.servers.debian import CACHE_VARIABLE, cache_folder
from cluster.servers.mysql_programs import NoMysql, find_program


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without apt, and an empty cache; the folder is its search path."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("cluster.servers.mysql_programs.EXTRA_PATH", "")
    return path


def program(path: Path, version: str) -> Path:
    made = path / "mysqld"
    made.write_text(f"#!/bin/sh\necho '{version}'\n")
    made.chmod(0o755)
    return made


def test_without_any_it_says_why_and_what_to_do(bare: Path) -> None:
    with pytest.raises(NoMysql) as caught:
        find_program()
    message = str(caught.value)
    assert message.startswith("no MySQL: this machine has no apt")
    assert "SYNC_TEST_MYSQL" in message
    assert "\n" not in message


def test_an_installed_one_comes_first(bare: Path) -> None:
    made = program(bare, "mysqld  Ver 8.4.0 for Linux on x86_64")
    assert find_program().command == (str(made),)


def test_mariadb_is_none(bare: Path) -> None:
    program(bare, "mysqld  Ver 10.11.6-MariaDB")
    with pytest.raises(NoMysql):
        find_program()


def test_the_cache_is_used_before_anything_is_fetched(bare: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "mysql-9.9.9"
    loader = root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.touch()
    found = find_program()
    assert found.command[0] == str(loader)
    assert found.command[-1] == str(root / "usr/sbin/mysqld")
    assert f"--plugin-dir={root / 'usr/lib/mysql/plugin'}" in found.options


def test_an_incomplete_cache_is_told(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "mysql-9.9.9").mkdir(parents=True)
    with pytest.raises(NoMysql, match="is incomplete, remove it"):
        find_program()


def test_the_cache_is_where_users_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sync-worker"
