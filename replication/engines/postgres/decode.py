"""pgoutput messages as numpy columns. Bytes in, arrays out; no connection anywhere near.

Wire formats: "Logical Replication Message Formats" and "Streaming Replication Protocol" in the PostgreSQL
manual, protocol version 1, text values. All integers are big-endian. A WAL message is

    'w'  int64 start  int64 end  int64 time  payload

and the payload's first byte says what it is. A tuple is an int16 count of columns and for each of them one
byte: `n` null, `u` unchanged TOAST, `t` followed by an int32 length and that many bytes.

Many messages are handled at once: positions are vectors, and one step reads the same field of every message.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HEADER = 25
EPOCH_MICROS = 946_684_800_000_000
"""2000-01-01, from which the server counts, in microseconds since 1970."""
BEGIN, COMMIT, RELATION, TRUNCATE = b"B"[0], b"C"[0], b"R"[0], b"T"[0]
INSERT, UPDATE, DELETE = b"I"[0], b"U"[0], b"D"[0]
NULL, UNCHANGED, TEXT = b"n"[0], b"u"[0], b"t"[0]
OLD_KEY, OLD_ROW = b"K"[0], b"O"[0]
FEW = 64
"""So many values are read one by one: faster than a step over vectors, whose price is that of its calls."""
_PADDING = bytes(32)
_INLINE = 12
"""Arrow's views hold values of up to twelve bytes themselves."""


class Buffer:
    """The bytes of many messages, one after the other, and gathers at vectors of positions."""

    def __init__(self, messages: Sequence[bytes | memoryview]) -> None:
        # The padding keeps reads beyond a short value inside the buffer.
        self.data = b"".join([*messages, _PADDING])
        self.bytes = np.frombuffer(self.data, np.uint8)
        n = len(self.data)
        self._u32 = np.ndarray(n - 3, ">u4", self.data, strides=(1,))
        self._u64 = np.ndarray(n - 7, ">u8", self.data, strides=(1,))
        self._raw64 = np.ndarray(n - 7, "<u8", self.data, strides=(1,))
        self._raw32 = np.ndarray(n - 3, "<u4", self.data, strides=(1,))
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        self.payloads: Ints = np.cumsum(lengths) - lengths + HEADER
        """Where each message's payload starts."""

    def u32(self, at: Ints) -> Ints:
        """Unsigned 32-bit integers."""
        return self._u32[at].astype(np.int64)

    def u64(self, at: Ints) -> npt.NDArray[np.uint64]:
        """Unsigned 64-bit integers."""
        return self._u64[at].astype(np.uint64)

    def i64(self, at: Ints) -> Ints:
        """Signed 64-bit integers."""
        return self._u64[at].astype(np.uint64).view(np.int64)

    def binary(self, values: Values) -> pa.Array:
        """Copy values out of the buffer into one Arrow binary array, column after column.

        Makes an array of views first (Arrow's "variable-size binary view layout"), which points into the
        buffer without a loop over values; Arrow's own cast then copies the bytes.
        """
        start, valid = values.start.ravel(), values.valid.ravel()
        n = len(start)
        if n <= FEW:
            found = zip(start.tolist(), values.length.ravel().tolist(), valid.tolist(), strict=True)
            return pa.array(
                [self.data[at : at + size] if real else None for at, size, real in found], pa.binary()
            )
        lengths = np.where(valid, values.length.ravel(), 0)
        views = np.zeros((n, 4), np.uint32)
        wide = views.view(np.uint64)
        views[:, 0] = lengths
        short = lengths <= _INLINE
        first = self._raw64[start] & _low_bytes(lengths)
        views[:, 1] = first.astype(np.uint32)
        views[:, 2] = first >> np.uint64(32)
        views[:, 3] = self._raw32[start + 8] & _low_bytes(lengths - 8).astype(np.uint32)
        if not short.all():
            # Buffer number 0, and the place in it.
            wide[~short, 1] = start[~short].astype(np.uint64) << np.uint64(32)
        validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        view = pa.Array.from_buffers(
            pa.binary_view(), n, [validity, pa.py_buffer(views), pa.py_buffer(self.data)]
        )
        return view.cast(pa.binary())


_MASKS = np.array([(1 << (8 * k)) - 1 for k in range(9)], np.uint64)


def _low_bytes(count: Ints) -> npt.NDArray[np.uint64]:
    """A mask that keeps the first `count` bytes, as many as there are of them."""
    return _MASKS[np.minimum(np.maximum(count, 0), 8)]  # np.clip costs small arrays three times as much


@dataclass(frozen=True, slots=True)
class Values:
    """The values of many tuples, each field a matrix of [column, tuple]: one step handles all of them.

    Attributes:
        start: position of the value's first byte.
        length: bytes.
        valid: it is a value, neither null nor unchanged.
        unchanged: it was not sent, since it is an unchanged TOAST value.
    """

    start: Ints
    length: Ints
    valid: Bools
    unchanged: Bools

    def __getitem__(self, index: Any) -> Values:
        """Some of the values, chosen as numpy chooses elements of a matrix."""
        return Values(self.start[index], self.length[index], self.valid[index], self.unchanged[index])

    def where(self, chosen: Bools, other: Values) -> Values:
        """Ours where `chosen`, else the other's."""
        return Values(
            np.where(chosen, self.start, other.start),
            np.where(chosen, self.length, other.length),
            np.where(chosen, self.valid, other.valid),
            np.where(chosen, self.unchanged, other.unchanged),
        )

    def spread(self, rows: Ints, n: int) -> Values:
        """Values that only the tuples `rows` have, as values of `n` tuples."""
        spread = Values.nothing(len(self.start), n)
        spread.start[:, rows], spread.length[:, rows] = self.start, self.length
        spread.valid[:, rows], spread.unchanged[:, rows] = self.valid, self.unchanged
        return spread

    def stretched(self, n: int) -> Values:
        """The values of one tuple as those of `n` equal ones, to be read only; takes no memory."""
        shape = len(self.start), n
        return Values(
            np.broadcast_to(self.start, shape),
            np.broadcast_to(self.length, shape),
            np.broadcast_to(self.valid, shape),
            np.broadcast_to(self.unchanged, shape),
        )

    @classmethod
    def nothing(cls, columns: int, n: int) -> Values:
        """Only nulls."""
        shape = columns, n
        return cls(
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.bool_),
            np.zeros(shape, np.bool_),
        )


def walk(buffer: Buffer, at: Ints, columns: int) -> tuple[Values, Ints]:
    """Walk tuples column by column, all of them in step.

    Args:
        buffer: where the tuples are.
        at: positions of the tuples' int16 count.
        columns: how many columns each tuple has.

    Returns:
        the columns and after them one of nulls, which so has place -1; and the positions after the tuples.
    """
    if len(at) * columns <= FEW:
        return _walk_few(buffer, at, columns)
    at = at + 2
    found = Values.nothing(columns + 1, len(at))
    for i in range(columns):
        kind = buffer.bytes[at]
        valid = np.equal(kind, TEXT, out=found.valid[i])
        np.equal(kind, UNCHANGED, out=found.unchanged[i])
        # Where no value follows this reads what comes next, and drops it.
        length = np.multiply(buffer.u32(at + 1), valid, out=found.length[i])
        found.start[i] = at + 5
        at = at + length + np.where(valid, 5, 1)
    return found, at


def _walk_few(buffer: Buffer, at: Ints, columns: int) -> tuple[Values, Ints]:
    found, after = [], []
    for place in at.tolist():
        row, end = _walk_one(buffer.data, place)
        found.append([*row[:columns], (NULL, 0, 0)])
        after.append(end)
    matrix = np.array(found, np.int64).reshape(len(at), columns + 1, 3).transpose(2, 1, 0)
    kind, start, length = matrix
    return Values(start, length, kind == TEXT, kind == UNCHANGED), np.array(after, np.int64)


def _walk_one(data: bytes, at: int) -> tuple[list[tuple[int, int, int]], int]:
    """Kind, start and length of each value of the tuple at `at`, and the position after it."""
    (count,) = struct.unpack_from(">H", data, at)
    at += 2
    found = []
    for _ in range(count):
        kind, length = data[at], 0
        at += 1
        if kind == TEXT:
            length = int.from_bytes(data[at : at + 4], "big")
            at += 4
        found.append((kind, at, length))
        at += length
    return found, at


@dataclass(frozen=True, slots=True)
class Relation:
    """A Relation message: what a table looks like from here on.

    Attributes:
        oid: the table's object id, by which rows name it.
        schema: its schema.
        table: its name.
        identity: replica identity: `d` default, `n` nothing, `f` full, `i` index.
        names: column names.
        types: object ids of the columns' types.
        modifiers: lengths and precisions of the columns, as the catalog numbers them.
    """

    oid: int
    schema: str
    table: str
    identity: str
    names: tuple[str, ...]
    types: tuple[int, ...]
    modifiers: tuple[int, ...] = ()


def parse_relation(data: bytes, at: int) -> Relation:
    """Read the Relation message whose payload starts at `at`."""
    (oid,) = struct.unpack_from(">I", data, at + 1)
    schema, at = _string(data, at + 5)
    table, at = _string(data, at)
    identity, count = chr(data[at]), struct.unpack_from(">H", data, at + 1)[0]
    at += 3
    names, types, modifiers = [], [], []
    for _ in range(count):
        name, at = _string(data, at + 1)
        type, modifier = struct.unpack_from(">Ii", data, at)
        names.append(name)
        types.append(type)
        modifiers.append(modifier)
        at += 8
    # The catalog's own schema is sent as an empty name.
    return Relation(
        oid, schema or "pg_catalog", table, identity, tuple(names), tuple(types), tuple(modifiers)
    )


def parse_truncate(data: bytes, at: int) -> list[int]:
    """The object ids of the tables that a Truncate message names."""
    (count,) = struct.unpack_from(">I", data, at + 1)
    return list(struct.unpack_from(f">{count}I", data, at + 6))


def parse_row(data: bytes, at: int, relation: Relation) -> dict[str, bytes | None]:
    """The new row of one Insert or Update message, for the few rows that are read one by one."""
    at += 5
    if data[at] in (OLD_KEY, OLD_ROW):
        _, at = _walk_one(data, at + 1)
    values, _ = _walk_one(data, at + 1)
    return {
        name: data[start : start + length] if kind == TEXT else None
        for name, (kind, start, length) in zip(relation.names, values, strict=True)
    }


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
