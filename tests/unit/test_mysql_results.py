"""Rows of the text protocol, taken apart as columns."""

from __future__ import annotations

import io
from typing import Any

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.engines.mysql import results
from replication.engines.mysql.results import columns_of


def field(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    n = len(value)
    if n < 0xFB:
        return bytes([n]) + value
    size, code = (2, 0xFC) if n < 1 << 16 else (3, 0xFD) if n < 1 << 24 else (8, 0xFE)
    return bytes([code]) + n.to_bytes(size, "little") + value


def packet(payload: bytes) -> bytes:
    """With its header, split where it is too large."""
    parts = [payload[i : i + 0xFFFFFF] for i in range(0, len(payload) + 1, 0xFFFFFF)]
    return b"".join(len(p).to_bytes(3, "little") + bytes([i % 256]) + p for i, p in enumerate(parts))


class Connection:
    """Gives its bytes a few at a time, as a socket does."""

    def __init__(self, data: bytes, step: int) -> None:
        self._rfile: Any = self
        self._file = io.BytesIO(data)
        self._step = step
        self.closed = False

    def read1(self, size: int) -> bytes:
        return self._file.read(min(size, self._step))

    def _force_close(self) -> None:
        self.closed = True


END = packet(b"\xfe\0\0\2\0")
values = st.one_of(st.none(), st.binary(max_size=300), st.sampled_from([250, 251, 65_535, 65_536]).map(bytes))


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[values] * n), max_size=8)), st.integers(1, 9999)
)
def test_columns_are_what_was_sent(rows: list[tuple[bytes | None, ...]], step: int) -> None:
    sent = b"".join(packet(b"".join(map(field, row))) for row in rows) + END
    data, starts = results._read_rows(Connection(sent, step))
    found = columns_of(data, starts, len(rows[0]) if rows else 2)
    assert [c.to_pylist() for c in found] == [list(c) for c in zip(*rows, strict=True)] or not rows


@pytest.mark.parametrize("size", [0xFFFFFF - 6, 0xFFFFFF - 5, 0xFFFFFF - 4, 0xFFFFFF, 2 * 0xFFFFFF])
def test_rows_over_several_packets(size: int) -> None:
    rows = [(b"a", b"x" * size), (b"b", None), (b"c", b"y" * size)]
    sent = b"".join(packet(b"".join(map(field, row))) for row in rows) + END
    data, starts = results._read_rows(Connection(sent, 1 << 18))
    assert [c.to_pylist() for c in columns_of(data, starts, 2)] == [list(c) for c in zip(*rows, strict=True)]


def test_an_error_in_the_middle_is_raised() -> None:
    sent = packet(field(b"1")) + packet(b"\xff\x10\x04#HY000gone")
    with pytest.raises(pymysql.MySQLError, match="gone"):
        results._read_rows(Connection(sent, 100))


def test_an_end_in_the_middle_closes_the_connection() -> None:
    connection = Connection(packet(field(b"1")), 3)
    with pytest.raises(pymysql.OperationalError, match="2013"):
        results._read_rows(connection)
    assert connection.closed


def test_a_broken_connection_is_the_drivers_error() -> None:
    class Broken(Connection):
        def read1(self, size: int) -> bytes:
            raise ConnectionResetError

    connection = Broken(b"", 1)
    with pytest.raises(pymysql.OperationalError, match="2013"):
        results._read_rows(connection)
    assert connection.closed
