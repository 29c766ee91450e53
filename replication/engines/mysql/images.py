"""Row images: where each row begins, and where each of its values is. Bytes in, arrays of positions out.

A row image is a bitmap of nulls, a bit per column, and then the values that are not null, one after the other
with nothing between them. So only the widths of a row's values tell where the next row begins: `row_starts`
goes through an event row by row with a plan made once per table and pattern of nulls. After that `locate`
reads the same column of all rows in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from replication.engines.mysql.decode import Malformed, Reader
from replication.engines.mysql.tablemap import ColumnMap

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_PADDING = bytes(80)
_INLINE = 12
"""Arrow's views hold values of up to twelve bytes themselves."""
_MASKS = np.array([(1 << (8 * k)) - 1 for k in range(9)], np.uint64)


class Plan(dict[bytes, tuple[tuple[tuple[int, int], ...], int]]):
    """How to get from one row image of a table to the next, by the bitmap of nulls.

    A value is pairs of (bytes to skip, bytes of the length that follows there), and bytes to skip at the end.
    """

    def __init__(self, columns: Sequence[ColumnMap]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.bitmap = (len(columns) + 7) // 8
        """Bytes of the bitmap of nulls."""

    def __missing__(self, bitmap: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
        nulls = int.from_bytes(bitmap, "little")
        steps, skip = [], self.bitmap
        for i, column in enumerate(self.columns):
            if nulls >> i & 1:
                continue
            skip += column.width
            if column.prefix:
                steps.append((skip, column.prefix))
                skip = 0
        self[bitmap] = found = (tuple(steps), skip)
        return found


def row_starts(data: bytes, at: int, plan: Plan) -> list[int]:
    """Where the row images begin that fill `data` from `at` to its end.

    Raises:
        Malformed: the last one does not end where the data does.
    """
    found: list[int] = []
    append, size, stop = found.append, plan.bitmap, len(data)
    try:
        while at < stop:
            append(at)
            steps, tail = plan[data[at : at + size]]
            for skip, prefix in steps:
                at += skip
                if prefix == 1:
                    at += 1 + data[at]
                elif prefix == 2:
                    at += 2 + data[at] + (data[at + 1] << 8)
                else:
                    at += prefix + int.from_bytes(data[at : at + prefix], "little")
            at += tail
    except IndexError:
        at = stop + 1
    if at != stop:
        message = "a row image does not end where its event does"
        raise Malformed(message)
    return found


def split_row(data: bytes, at: int, plan: Plan) -> list[bytes | None]:
    """The values of the one row image at `at`, for the few rows that are read one by one.

    Raises:
        Malformed: it was cut off.
    """
    reader = Reader(data, at)
    nulls = int.from_bytes(reader.take(plan.bitmap), "little")
    found: list[bytes | None] = []
    for i, column in enumerate(plan.columns):
        if nulls >> i & 1:
            found.append(None)
        elif column.prefix:
            found.append(reader.take(int.from_bytes(reader.take(column.prefix), "little")))
        else:
            found.append(reader.take(column.width))
    return found


class Buffer:
    """The bytes of many events, one after the other, and gathers at vectors of positions."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        # The padding keeps reads beyond a short value inside the buffer.
        self.data = b"".join([*parts, _PADDING])
        self.bytes = np.frombuffer(self.data, np.uint8)
        n = len(self.data)
        self._big: dict[int, npt.NDArray[np.unsignedinteger]] = {
            size: np.ndarray(n - size + 1, f">u{size}", self.data, strides=(1,)) for size in (1, 2, 4, 8)
        }
        self._little: dict[int, npt.NDArray[np.unsignedinteger]] = {
            size: np.ndarray(n - size + 1, f"<u{size}", self.data, strides=(1,)) for size in (1, 2, 4, 8)
        }

    def little(self, at: Ints, size: int) -> Words:
        """Little-endian unsigned integers of up to eight bytes."""
        return _read(self._little, at, size, shift=False)

    def big(self, at: Ints, size: int) -> Words:
        """Big-endian unsigned integers of up to eight bytes."""
        return _read(self._big, at, size, shift=True)

    def short(self, at: Ints, length: Ints) -> Words:
        """The first up to eight bytes of values, as numbers that are equal where these bytes are."""
        return self.little(at, 8) & _MASKS[np.minimum(length, 8)]

    def binary(self, start: Ints, length: Ints, valid: Bools | None) -> pa.Array:
        """Copy values out of the buffer into one Arrow binary array.

        Makes an array of views first (Arrow's "variable-size binary view layout"), which points into the
        buffer without a loop over values; Arrow's own cast then copies the bytes.

        Args:
            start: position of each value's first byte.
            length: bytes; 0 where there is no value.
            valid: where there is one; None means everywhere.
        """
        n = len(start)
        views = np.zeros((n, 4), np.uint32)
        wide = views.view(np.uint64)
        views[:, 0] = length
        first = self.short(start, length)
        views[:, 1] = first.astype(np.uint32)
        views[:, 2] = first >> np.uint64(32)
        rest = np.minimum(np.maximum(length - 8, 0), 4)
        views[:, 3] = self.little(start + 8, 4) & _MASKS[rest]
        long = length > _INLINE
        if long.any():
            # Buffer number 0, and the place in it.
            wide[long, 1] = start[long].astype(np.uint64) << np.uint64(32)
        buffers = [validity(valid), pa.py_buffer(views), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.binary_view(), n, buffers).cast(pa.binary())


def _read(views: dict[int, npt.NDArray[np.unsignedinteger]], at: Ints, size: int, *, shift: bool) -> Words:
    """Read the next wider number, and take the bytes that are too many away."""
    wider = next(s for s in (1, 2, 4, 8) if s >= size)
    found = views[wider][at].astype(np.uint64)
    if wider == size:
        return found
    return found >> np.uint64(8 * (wider - size)) if shift else found & _MASKS[size]


def validity(valid: Bools | None) -> pa.Buffer | None:
    """Arrow's bitmap of what is not null; None where nothing is."""
    if valid is None or valid.all():
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


@dataclass(frozen=True, slots=True)
class Values:
    """One column of many row images.

    Attributes:
        start: position of the value's first byte.
        length: bytes, 0 where it is null; one number if all are the same.
        valid: whether it is a value; None if all are.
    """

    start: Ints
    length: Ints | int
    valid: Bools | None

    @property
    def lengths(self) -> Ints:
        """The length of each value."""
        if isinstance(self.length, int):
            length = np.full(len(self.start), self.length, np.int64)
            return length if self.valid is None else length * self.valid
        return self.length

    def take(self, rows: Ints | Bools) -> Values:
        """Some of the values."""
        length = self.length if isinstance(self.length, int) else self.length[rows]
        return Values(self.start[rows], length, None if self.valid is None else self.valid[rows])

    def where(self, chosen: Bools, other: Values) -> Values:
        """Ours where `chosen`, else the other's."""
        valid = None
        if self.valid is not None or other.valid is not None:
            valid = np.where(chosen, self.present, other.present)
        same = isinstance(self.length, int) and self.length == other.length
        length = self.length if same else np.where(chosen, self.lengths, other.lengths)
        return Values(np.where(chosen, self.start, other.start), length, valid)

    @property
    def present(self) -> Bools:
        """Whether each is a value."""
        return np.ones(len(self.start), np.bool_) if self.valid is None else self.valid


def locate(buffer: Buffer, at: Ints, plan: Plan) -> list[Values]:
    """Find the values of row images, column by column, all rows in step.

    Args:
        buffer: where the images are.
        at: where each begins, as `row_starts` found it.
        plan: of their table.
    """
    bitmap = [buffer.bytes[at + i] for i in range(plan.bitmap)]
    some = [int(np.bitwise_or.reduce(b)) if len(at) else 0 for b in bitmap]
    found = []
    position, skip = at, plan.bitmap
    for i, column in enumerate(plan.columns):
        byte, bit = divmod(i, 8)
        nulls = bool(some[byte] >> bit & 1)
        valid = (bitmap[byte] >> np.uint8(bit) & 1) == 0 if nulls else None
        if column.prefix:
            position, skip = position + skip, 0
            length = buffer.little(position, column.prefix).astype(np.int64)
            step = length + column.prefix
            if valid is not None:
                length, step = length * valid, step * valid
            found.append(Values(position + column.prefix, length, valid))
            position = position + step
        else:
            found.append(Values(position + skip, column.width, valid))
            if valid is None:
                skip += column.width
            else:
                position, skip = position + skip + column.width * valid, 0
    return found
