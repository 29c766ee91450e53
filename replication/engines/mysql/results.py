"""Result sets as whole columns: the packets of the text protocol are taken apart for all rows at once.

A row is a packet of length-encoded strings, NULL being the byte FB (MySQL's "Text Resultset Row"). The
packets' lengths are followed one by one; the columns inside them by numpy, in step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pymysql
from pymysql.connections import Connection
from pymysql.constants import COMMAND, CR
from pymysql.err import raise_mysql_exception
from pymysql.protocol import FieldDescriptorPacket

_READ = 1 << 18
_LARGEST = 0xFFFFFF
"""A packet of this length goes on in the next one."""
_EOF = 0xFE
_ERROR = 0xFF
_HEADER = 4
_PAD = 9
"""Bytes behind the last row, so that a length can be read without looking whether it is there."""

Ints = npt.NDArray[np.int64]


def select(connection: Connection, query: str) -> list[pa.Array]:
    """Run a query.

    Returns:
        one binary array per column, as the server printed the values; bytes as they are.

    Raises:
        pymysql.MySQLError: as from any query.
    """
    driver: Any = connection
    driver._execute_command(COMMAND.COM_QUERY, query.encode("utf-8", "surrogateescape"))
    first = driver._read_packet()
    width = first.read_length_encoded_integer()
    for _ in range(width):
        driver._read_packet(FieldDescriptorPacket)
    driver._read_packet()
    data, starts = _read_rows(driver)
    return columns_of(data, starts, width)


def columns_of(data: bytearray, starts: list[int], width: int) -> list[pa.Array]:
    """The columns of rows that begin at `starts` in `data`, which goes on for 9 bytes behind the last row."""
    buffer = np.frombuffer(data, np.uint8)
    at = np.array(starts, np.int64)
    columns = []
    for _ in range(width):
        length, valid, begin = _lengths(buffer, at)
        columns.append(_gather(buffer, begin, length, valid))
        at = begin + length
    return columns


def _lengths(buffer: npt.NDArray[np.uint8], at: Ints) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Length, whether there is a value, and its beginning, of the length-encoded strings at some places."""
    first = buffer[at].astype(np.int64)
    length, begin = first.copy(), at + 1
    valid = first != 0xFB
    length[~valid] = 0
    for code, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        long = np.flatnonzero(first == code)
        if len(long):
            value = np.zeros(len(long), np.int64)
            for i in range(size):
                value |= buffer[at[long] + 1 + i].astype(np.int64) << (8 * i)
            length[long] = value
            begin[long] += size
    return length, valid, begin


def _gather(
    buffer: npt.NDArray[np.uint8], begin: Ints, length: Ints, valid: npt.NDArray[np.bool_]
) -> pa.Array:
    offsets = np.zeros(len(begin) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], length)
    validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    array = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(begin), [validity, pa.py_buffer(offsets), pa.py_buffer(buffer[index])]
    )
    return array.cast(pa.binary())


def _read_rows(driver: Any) -> tuple[bytearray, list[int]]:
    """All row packets of a result: their bytes, and where each row begins."""
    data = bytearray()
    starts: list[int] = []
    whole: list[bytes] = []
    at = 0
    while True:
        while len(data) < at + _HEADER or len(data) < at + _HEADER + _length(data, at):
            more = _more(driver)
            data += more
        length = _length(data, at)
        begin = at + _HEADER
        at = begin + length
        if length == _LARGEST or whole:
            whole.append(bytes(data[begin:at]))
            if length < _LARGEST:
                # In one piece it stands where its last packet did, and everything behind is moved.
                row = b"".join(whole)
                data[begin:at] = row
                at = begin + len(row)
                starts.append(begin)
                whole = []
        elif data[begin] == _EOF and length < 9:
            data += bytes(_PAD)
            return data, starts
        elif data[begin] == _ERROR and length:
            raise_mysql_exception(bytes(data[begin:at]))
        else:
            starts.append(begin)


def _more(driver: Any) -> bytes:
    try:
        more: bytes = driver._rfile.read1(_READ)
    except OSError as error:
        driver._force_close()
        raise pymysql.OperationalError(CR.CR_SERVER_LOST, f"the connection broke: {error}") from error
    if not more:
        driver._force_close()
        raise pymysql.OperationalError(CR.CR_SERVER_LOST, "the connection ended in the middle of a result")
    return more


def _length(data: bytearray, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16
