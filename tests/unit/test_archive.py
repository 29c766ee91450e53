"""The audit log's copy elsewhere: whole at any time, and a log again wherever it is fetched."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.archiving import Archiving
from cluster import archive as module
from cluster import cli
from cluster.archive import Archive, ArchiveAway, OtherArchive, Place, fetch
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.query import Query, records
from replication.audit.subjects import Subject
from replication.audit.verify import faults_of, verify
from replication.errors import ConfigError
from tests.fixtures.until import until
from tests.unit.audit_records import SMALL, changes, opened

KEY = "ab" * 32
SUBJECTS = {"orders": Subject("id")}


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "copy").mkdir()
    return (tmp_path / "copy").as_uri()


def write(path: Path, numbers: range, **options: Any) -> None:
    """A flush for each number; a segment takes few of them."""
    keys = Keyring(path, SoftwareMasterKey(KEY)) if options else None
    with opened(path, rolling=SMALL, keys=keys, **options) as audit:
        for n in numbers:
            audit.add_changes("pg", 0, "orders", changes([10 * n, 10 * n + 1]))
            audit.add_operator("tick", n)
            audit.flush()


def log_of(uri: str, folder: Path, keys: Any = None) -> list[dict[str, Any]]:
    """What a copy holds, once it is proven."""
    shutil.rmtree(folder, ignore_errors=True)
    fetch(uri, folder)
    assert list(faults_of(verify(folder))) == []
    return list(records(folder, Query(), keys=keys))


def test_what_is_fetched_is_the_log_and_no_key_that_must_stay(tmp_path: Path, place: str) -> None:
    log, copy = tmp_path / "log", Archive(tmp_path / "log", place)
    for start in (1, 15, 30):
        write(log, range(start, start + 15), subjects=SUBJECTS)
        assert copy.push() > 0
        assert copy.push() == 0, "nothing is written twice"
        keys = Keyring(log, SoftwareMasterKey(KEY))
        assert log_of(place, tmp_path / "again", keys) == list(records(log, Query(), keys=keys))
    names = set(Place(place).sizes())
    assert {"signing.key", "subjects.jsonl"} <= {p.name for p in log.iterdir()}
    assert {n.partition("/")[0] for n in names} == {
        "manifest.json",
        "keys.json",
        "heads",
        "changes",
        "operator",
    }
    assert sum(n.endswith(".parquet") for n in names) > 3


def test_a_finished_segment_is_copied_once_and_an_open_one_as_far_as_it_is_whole(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    copy, written = Archive(log, place), []
    original = Place.write
    monkeypatch.setattr(Place, "write", lambda p, n, d: (written.append(n), original(p, n, d)))
    for n in range(1, 40):
        write(log, range(n, n + 1))
        for path in log.glob("*/00*.arrow"):
            with path.open("ab") as torn:
                torn.write(b"half a flush")
        copy.push()
        assert len(log_of(place, tmp_path / "again")) == sum(1 for _ in records(log, Query()))
    finished = [n for n in written if n.endswith(".parquet")]
    assert len(finished) == len(set(finished)) > 3


def test_an_open_segment_that_has_not_grown_is_not_read_again(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, read = tmp_path / "log", Path.read_bytes
    copy, seen = Archive(log, place), []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (seen.append(path.suffix), read(path))[1])
    write(log, range(1, 3))
    for grown in (True, False):
        seen.clear()
        copy.push()
        assert (".arrow" in seen) == grown


class Cut(Exception):
    """The process ends here."""


def test_a_copy_that_is_interrupted_anywhere_is_a_whole_log(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, original, left = tmp_path / "log", Place.write, [0]

    def cut(self: Place, name: str, data: bytes) -> None:
        if left[0] == 0:
            raise Cut
        left[0] -= 1
        original(self, name, data)

    monkeypatch.setattr(Place, "write", cut)
    cuts = 0
    for n in range(1, 30):
        write(log, range(n, n + 1))
        left[0] = n % 7
        try:
            Archive(log, place).push()  # whoever comes next looks at what is there
        except Cut:
            cuts += 1
        if "manifest.json" in Place(place).sizes():
            log_of(place, tmp_path / "again")
    assert cuts > 10
    left[0] = -1
    Archive(log, place).push()
    assert log_of(place, tmp_path / "again") == list(records(log, Query()))


def test_what_is_removed_here_stays_there(tmp_path: Path, place: str) -> None:
    log, copy = tmp_path / "log", Archive(tmp_path / "log", place)
    write(log, range(1, 40))
    copy.push()
    everything = list(records(log, Query()))
    with opened(log, rolling=SMALL) as audit:
        removed = audit.prune(everything[-1]["_recorded"])
    assert sum(removed.values()) > 10
    copy.push()
    assert [r for r in log_of(place, tmp_path / "again") if r["stream"] != "operator"] == [
        r for r in everything if r["stream"] != "operator"
    ]


def test_the_copy_of_another_log_is_left_alone(tmp_path: Path, place: str) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, range(1, 5))
    Archive(tmp_path / "one", place).push()
    before = Place(place).sizes()
    for name in ("two", "none"):
        with pytest.raises(OtherArchive, match="copy of another log"):
            Archive(tmp_path / name, place).push()
    shutil.rmtree(tmp_path / "copy" / "heads")
    (tmp_path / "copy" / "manifest.json").write_text('{"group": "other"}')
    with pytest.raises(OtherArchive, match="something else"):
        Archive(tmp_path / "two", place).push()
    assert set(Place(place).sizes()) == {n for n in before if not n.startswith("heads/")}


def test_a_place_that_is_away_is_said_once_and_caught_up_with(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    log, folder = tmp_path / "log", tmp_path / "copy"
    folder.rename(tmp_path / "unmounted")
    write(log, range(1, 5))
    archiving = Archiving(Archive(log, place).push, 0.05)
    try:
        until(lambda: archiving.status().since)
        assert "no such folder" in archiving.status().error
        assert not archiving.status().copied
        assert archiving.gauges()["audit_archive_up",] == 0
        since = archiving.status().since
        with pytest.raises(ArchiveAway):
            archiving.push()
        assert archiving.status().since == since
        assert not folder.exists(), "a disk that is not mounted is not written to"
        (tmp_path / "unmounted").rename(folder)
        until(lambda: archiving.status().copied)
        assert archiving.status().since == archiving.status().error == ""
        write(log, range(5, 9))
    finally:
        archiving.close()
    assert log_of(place, tmp_path / "again") == list(records(log, Query()))
    assert [r.message for r in caplog.records] == ["archive_away", "archive_back"]


def test_a_segment_that_is_finished_while_it_is_copied_is_there(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, listed = tmp_path / "log", module._segments

    def then_finished(root: Path) -> Iterator[tuple[str, Path]]:
        found = list(listed(root))
        write(log, range(20, 40))
        return iter(found)

    write(log, range(1, 3))
    monkeypatch.setattr(module, "_segments", then_finished)
    Archive(log, place).push()
    assert {10, 11, 20, 21} <= {r.get("id") for r in log_of(place, tmp_path / "again")}


def test_commands_read_an_archive_by_its_address(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log", range(1, 5))
    Archive(tmp_path / "log", place).push()
    assert cli.main(["audit", "query", "--audit", place, "--kind", "change", "--key", "7"]) == 0
    assert cli.main(["audit", "verify", "--audit", place]) == 0
    assert "orders" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert cli.main(["audit", "verify", "--audit", (tmp_path / "empty").as_uri()]) == 2
    assert "no copy of an audit log" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/log", "region"),
        ("s3://name:secret@bucket/log?region=eu-central-1", "password"),
        ("nowhere://bucket", "no address"),
        ("relative/folder", "no address"),
    ],
)
def test_an_address_that_is_none_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        Place(uri)
    assert "secret" not in str(refused.value)
