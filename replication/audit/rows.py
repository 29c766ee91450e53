"""Rows as bytes: what leaves of the tree hash and what is encrypted. Pure, and whole columns at a time.

A row is its cells in the columns' order. A cell is a zero byte for null, or a one byte and the value: numbers
and times little-endian in the width of their type, booleans as one byte, text and binary with their length
in front, four bytes, little-endian. Equal bytes mean equal rows of the same columns, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import replication.arrow  # noqa: F401  first of all that is Arrow
from replication.buffers import contents
from replication.errors import Terminal

_NULL = pa.scalar(b"\0", pa.binary())
_NOTHING = pa.scalar(b"", pa.binary())


def encode_rows(columns: Sequence[pa.Array], before: bytes = b"", first: int | None = None) -> list[bytes]:
    """Each row of some columns of the same length, at least one, as bytes.

    Args:
        columns: the columns.
        before: what each row's bytes begin with.
        first: the number of the first row, where each row's is to follow that, eight bytes, little-endian.
    """
    count = len(columns[0])
    block, cells = _Block(count), list[pa.Array]()
    if before:
        block.add_bytes(before)
    if first is not None:
        block.add(np.arange(first, first + count, dtype="<u8"))
    for column in columns:
        width = _width(column.type)
        if column.null_count == count:
            block.add_bytes(b"\0")
        elif column.null_count:
            cells += [*block.taken(), _cells(column, width)]
        elif width is not None:
            block.add_bytes(b"\1")
            block.add(_numbers(column, width))
        else:
            texts = column.cast(pa.binary())
            lengths, data = contents(texts)
            if count and (lengths == lengths[0]).all():
                block.add_bytes(b"\1" + int(lengths[0]).to_bytes(4, "little"))
                block.add_texts(data, int(lengths[0]))
            else:
                block.add_bytes(b"\1")
                block.add(lengths.astype("<u4"))
                cells += [*block.taken(), texts]
    if not cells:
        return block.rows()
    return list(pc.binary_join_element_wise(*cells, *block.taken(), _NOTHING).to_pylist())


class _Block:
    """Neighbours that take as many bytes in every row: one block of bytes, filled column by column."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[np.ndarray | bytes] = []

    def add(self, values: np.ndarray) -> None:
        """A value of each row."""
        self._parts.append(values)

    def add_bytes(self, data: bytes) -> None:
        """The same bytes in every row."""
        if self._parts and isinstance(before := self._parts[-1], bytes):
            self._parts[-1] = before + data
        elif data:
            self._parts.append(data)

    def add_texts(self, data: bytes, width: int) -> None:
        """Texts of one length, one row's after the other's."""
        if data == data[:width] * self._count:
            self.add_bytes(data[:width])
        else:
            self._parts.append(np.frombuffer(data, f"V{width}"))

    def rows(self) -> list[bytes]:
        """Each row."""
        data = self._filled()
        found: list[bytes] = data.view(f"V{data.dtype.itemsize}").tolist()
        return found

    def taken(self) -> list[pa.Array]:
        """All of it as a binary array, if there is anything; it is empty after that."""
        if not self._parts:
            return []
        data = self._filled()
        self._parts = []
        offsets = np.arange(self._count + 1, dtype=np.int32) * data.dtype.itemsize
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return [pa.Array.from_buffers(pa.binary(), self._count, buffers)]

    def _filled(self) -> np.ndarray:
        kinds = [f"V{len(p)}" if isinstance(p, bytes) else p.dtype.newbyteorder("<") for p in self._parts]
        data = np.empty(self._count, np.dtype([(f"f{i}", kind) for i, kind in enumerate(kinds)]))
        for i, part in enumerate(self._parts):
            data[f"f{i}"] = np.void(part) if isinstance(part, bytes) else part
        return data


def decode_rows(rows: Sequence[bytes], schema: pa.Schema) -> list[pa.Array]:
    """The columns whose rows these are."""
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    place = np.cumsum(sizes) - sizes
    data = np.frombuffer(b"".join(rows), np.uint8)
    return [_read(data, place, field.type) for field in schema]


def _width(kind: pa.DataType) -> int | None:
    """Bytes of a value, or None where they vary."""
    if pa.types.is_boolean(kind):
        return 1
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return None
    if pa.types.is_primitive(kind):
        return int(kind.bit_width) // 8
    message = f"the audit log has no bytes for the type {kind}"
    raise Terminal(message, hint="report this as a defect of Sync Worker, with the column's type")


def _cells(column: pa.Array, width: int | None) -> pa.Array:
    """A binary array with the bytes of each cell."""
    if column.null_count == len(column):
        return pa.repeat(_NULL, len(column))
    if width is None:
        texts = column.cast(pa.binary())
        lengths = pc.binary_length(texts).fill_null(0).to_numpy().astype("<u4")
        cells = pc.binary_join_element_wise(_fixed([lengths]), texts, _NOTHING)
    else:
        cells = _fixed([_numbers(column, width)])
    return pc.if_else(column.is_valid(), cells, _NULL) if column.null_count else cells


def _numbers(column: pa.Array, width: int) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        return np.asarray(column.cast(pa.uint8()).fill_null(0).to_numpy())
    whole = {1: pa.int8(), 2: pa.int16(), 4: pa.int32(), 8: pa.int64()}[width]
    return np.asarray(column.view(whole).fill_null(0).to_numpy())


def _fixed(columns: Sequence[np.ndarray]) -> pa.Array:
    """For each row a one byte and the number, of each column."""
    count = len(columns[0])
    kinds = [numbers.dtype.newbyteorder("<") for numbers in columns]
    fields = [
        f for i, kind in enumerate(kinds) for f in ((f"is{i}", np.dtype(np.uint8)), (f"value{i}", kind))
    ]
    data = np.empty(count, np.dtype(fields))
    for i, numbers in enumerate(columns):
        data[f"is{i}"] = 1
        data[f"value{i}"] = numbers
    width = data.dtype.itemsize
    offsets = np.arange(count + 1, dtype=np.int32) * width
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _read(data: np.ndarray, place: np.ndarray, kind: pa.DataType) -> pa.Array:
    """One column, whose cells begin at `place`, which moves on behind them."""
    count, width = len(place), _width(kind)
    valid = data[place] == 1 if count else np.zeros(0, bool)
    place += 1
    mask = pa.py_buffer(np.packbits(valid, bitorder="little"))
    if width is None:
        lengths = np.zeros(count, np.int64)
        lengths[valid] = _gather(data, place[valid], 4).view("<u4")[:, 0]
        place[valid] += 4
        ends = np.cumsum(lengths)
        source = np.repeat(place - (ends - lengths), lengths) + np.arange(ends[-1] if count else 0)
        place += lengths
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        return pa.Array.from_buffers(
            kind, count, [mask, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data[source]))]
        )
    values = np.zeros((count, width), np.uint8)
    values[valid] = _gather(data, place[valid], width)
    place[valid] += width
    if pa.types.is_boolean(kind):
        bits = pa.py_buffer(np.packbits(values[:, 0] == 1, bitorder="little"))
        return pa.Array.from_buffers(kind, count, [mask, bits])
    return pa.Array.from_buffers(kind, count, [mask, pa.py_buffer(values)])


def _gather(data: np.ndarray, place: np.ndarray, width: int) -> np.ndarray:
    return np.ascontiguousarray(data[place[:, None] + np.arange(width)])
