"""A stream of the audit log from any place on, while it is written, rolled and pruned."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from replication.audit import store
from replication.audit.follow import StreamEnd, StreamReader
from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.published import Published, read_published, write_published
from replication.errors import Terminal
from tests.unit.audit_records import SMALL, changes, opened

STREAM = "changes/orders"
KEY = "ab" * 32


def read_all(reader: StreamReader, most: int = 3) -> list[int]:
    """The places of what is left, where the record at a place is the change of the order after it."""
    found: list[int] = []
    while (added := reader.next(most)) is not None:
        assert added.rows.num_rows <= most
        ids = [i - 1 for i in added.rows.column("id").to_pylist()]
        assert ids == list(range(added.place, added.place + len(ids))), "a place is that of its record"
        found += ids
    return found


@pytest.mark.parametrize("key", ["", KEY])
def test_it_goes_on_from_any_place_and_counts_what_is_there(tmp_path: Path, key: str) -> None:
    keys = Keyring(tmp_path, SoftwareMasterKey(key)) if key else None
    end = StreamEnd(tmp_path, STREAM)
    assert (end.place(), StreamReader(tmp_path, STREAM, 0, keys).next(9)) == (0, None)
    with opened(tmp_path, rolling=SMALL, keys=keys) as audit:
        reader, seen = StreamReader(tmp_path, STREAM, 0, keys), []
        for order in range(0, 90, 3):
            audit.add_changes("pg", 0, "orders", changes(range(order + 1, order + 4)))
            audit.flush()
            assert end.place() == order + 3
            if order % 4 == 0:
                seen += read_all(reader)
                reader.sync()
        seen += read_all(reader)
        assert seen == list(range(90))
        assert len(store.segments(store.stream_folder(tmp_path, STREAM))) > 3
        for place in (0, 1, 44, 88, 89, 90):
            assert read_all(StreamReader(tmp_path, STREAM, place, keys)) == list(range(place, 90))
    assert read_all(StreamReader(tmp_path, STREAM, 50, keys)) == list(range(50, 90))
    assert StreamEnd(tmp_path, STREAM).place() == 90


def test_nothing_is_removed_before_it_was_published_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    with opened(tmp_path, rolling=SMALL) as audit:
        for order in range(60):
            audit.add_changes("pg", 0, "orders", changes([order + 1]))
            audit.flush()
        behind = StreamReader(tmp_path, STREAM, 2)
        assert audit.prune(2**60, {}) == {}
        removed = audit.prune(2**60, {STREAM: 30})[STREAM]
        assert 0 < removed <= 30
        assert read_all(StreamReader(tmp_path, STREAM, removed)) == list(range(removed, 60))
        assert StreamEnd(tmp_path, STREAM).place() == 60
        late = StreamReader(tmp_path, STREAM, 2)
        assert (late.missed, late.place) == (removed - 2, removed)
        assert read_all(behind) == list(range(removed, 60))
        assert behind.missed == removed - 2


def test_a_log_that_is_shorter_than_what_was_read_is_read_from_its_beginning(tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", changes(range(1, 6)))
        audit.flush()
    assert read_all(StreamReader(tmp_path, STREAM, 9)) == [0, 1, 2, 3, 4]


def test_large_rows_come_one_by_one(tmp_path: Path) -> None:
    rows = changes(range(1, 4))
    texts = rows.set_column(rows.schema.get_field_index("note"), "note", pa.array(["x" * (5 << 20)] * 3))
    with opened(tmp_path) as audit:
        audit.add_changes("pg", 0, "orders", texts)
        audit.flush()
    reader = StreamReader(tmp_path, STREAM, 0)
    assert [a.rows.num_rows for a in iter(lambda: reader.next(100), None)] == [1, 1, 1]


def test_what_is_published_is_kept_under_one_name_of_the_log(tmp_path: Path) -> None:
    first = read_published(tmp_path)
    write_published(tmp_path, Published(first.log, {STREAM: 7}))
    assert read_published(tmp_path) == Published(first.log, {STREAM: 7})
    assert read_published(tmp_path / "other").log != first.log
    (tmp_path / "kafka.json").write_text("{}")
    with pytest.raises(Terminal, match="remove it"):
        read_published(tmp_path)
