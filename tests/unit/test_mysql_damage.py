"""A binlog that is damaged, cut off or not understood: refused in so many words."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.constants import BINLOG

from replication.engines.mysql.decode import Malformed, read_event
from replication.engines.mysql.jsonb import to_text
from replication.errors import LogLost, Terminal
from tests.unit.binlog import Log
from tests.unit.binlog_reader import (
    COLUMNS,
    ITEMS,
    MARKER,
    MARKS,
    OWN,
    STRANGER,
    WATERMARK,
    assembler,
    described,
    item,
    marker,
)


def whole_log() -> Log:
    log = Log(checksum=False)
    log.begin(1)
    described(log)
    log.update(MARKER, OWN, marker(1), marker(2))
    log.xid()
    log.begin(2)
    log.insert(ITEMS, COLUMNS, item(1, "abc", "def", "1.5"), item(2))
    log.update(ITEMS, COLUMNS, item(1), item(1, "x"))
    log.insert(WATERMARK, MARKS, ("g", "w", 1))
    log.xid()
    log.gtid(3)
    log.query("DROP TABLE items")
    return log


@given(st.data())
def test_damaged_events_are_refused_and_never_hang(data: st.DataObject) -> None:
    """Without checksums, so that the damage reaches the decoder; it may also make other rows of them."""
    log = whole_log()
    index = data.draw(st.integers(0, len(log.raw) - 1))
    event = bytearray(log.raw[index])
    for _ in range(data.draw(st.integers(1, 4))):
        event[data.draw(st.integers(19, len(event) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        event = event[: data.draw(st.integers(19, len(event)))]
        event[9:13] = len(event).to_bytes(4, "little")
    log.raw[index] = bytes(event)
    made = assembler(echoes=True)
    for each in log.events:
        made.feed(each)
    with contextlib.suppress(Terminal):
        while made.drain(partial=True):
            pass


def test_a_damaged_event_has_a_wrong_checksum() -> None:
    log = whole_log()
    data = Log().add(BINLOG.XID_EVENT, log.raw[0][19:])
    for at in (0, 25, len(data) - 1):
        broken = bytearray(data)
        broken[at] ^= 4
        with pytest.raises(Malformed, match="checksum"):
            read_event(bytes(broken), checksum=True)
    with pytest.raises(Malformed, match="came as"):
        read_event(data[:-1], checksum=True)


@pytest.mark.parametrize("cut", range(1, 12))
def test_row_images_that_are_cut_off(cut: int) -> None:
    log = Log(checksum=False)
    log.begin(1)
    described(log)
    log.insert(ITEMS, COLUMNS, item(1, "abc", "def"))
    data = log.raw[-1][:-cut]
    log.raw[-1] = data[:9] + len(data).to_bytes(4, "little") + data[13:]
    made = assembler()
    for event in log.events:
        made.feed(event)
    with pytest.raises(Terminal, match="the log cannot be read: a row image does not end"):
        made.drain(partial=True)


def test_what_is_not_known_stops_unless_it_says_that_it_may_be_ignored() -> None:
    for flags, stops in ((0, True), (0x80, False)):
        log = whole_log()
        log.add(77, b"new", flags=flags)
        made = assembler()
        for event in log.events:
            made.feed(event)
        assert (made.failure is not None) is stops
        assert len(made.drain(partial=False)) == 4
        if stops:
            with pytest.raises(Terminal, match="type 77"):
                made.drain(partial=False)


def test_a_file_before_ours_means_that_the_log_was_begun_anew() -> None:
    log = Log()
    log.add(BINLOG.ROTATE_EVENT, (4).to_bytes(8, "little") + b"binlog.000006")
    made = assembler()
    made.feed(log.events[0])
    with pytest.raises(LogLost, match=r"binlog\.000006"):
        made.drain(partial=False)


def test_an_incident_means_that_changes_are_missing() -> None:
    log = whole_log()
    log.add(BINLOG.INCIDENT_EVENT, b"\1\0\0")
    made = assembler()
    for event in log.events:
        made.feed(event)
    assert len(made.drain(partial=False)) == 4
    with pytest.raises(LogLost, match="missing"):
        made.drain(partial=False)


def test_a_transaction_that_is_undone_in_part_is_refused_whole() -> None:
    for end in ("ROLLBACK", "ROLLBACK TO `a`"):
        log = Log()
        log.begin(1)
        described(log)
        log.insert(STRANGER, COLUMNS, item(1))
        log.query(end)
        log.xid() if "TO" in end else None
        log.begin(2)
        log.insert(ITEMS, COLUMNS, item(1))
        log.query(end)
        made = assembler()
        for event in log.events:
            made.feed(event)
        with pytest.raises(Terminal, match="undoes"):
            made.drain(partial=True)


@given(st.binary(min_size=1, max_size=200))
def test_json_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        json.loads(to_text(data))


def test_json_that_leads_back_to_itself_ends() -> None:
    member = b"\x02\x00\x00"  # an array, at the beginning of the one that it is in
    data = b"\x02" + (40).to_bytes(2, "little") + (124).to_bytes(2, "little") + member * 40
    with pytest.raises(Malformed):
        to_text(data)
