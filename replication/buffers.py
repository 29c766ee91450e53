"""Whole columns by the buffers that Arrow keeps them in, where a call per value would cost too much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import replication.arrow  # noqa: F401  first of all that is Arrow

Bools = npt.NDArray[np.bool_]


def bits(matrix: Bools, valid: Bools) -> pa.Array:
    """Pack each row's flags into bytes, little-endian; null where not `valid`."""
    n, width = len(matrix), (matrix.shape[1] + 7) // 8
    if not valid.any():
        return pa.nulls(n, pa.binary())
    packed = np.packbits(matrix[valid], axis=1, bitorder="little")
    offsets = np.zeros(n + 1, np.int32)
    np.cumsum(np.where(valid, width, 0), out=offsets[1:])
    buffers = [pa.py_buffer(np.packbits(valid, bitorder="little")), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(pa.binary(), n, [*buffers, pa.py_buffer(packed.tobytes())])


def contents(column: pa.Array) -> tuple[npt.NDArray[np.int32], bytes]:
    """The lengths of all values, nulls as 0, and their bytes one after the other."""
    full = pc.fill_null(column.cast(pa.binary()), b"")
    start = full.offset
    offsets = np.frombuffer(full.buffers()[1], np.int32)[start : start + len(full) + 1]
    data = full.buffers()[2]
    if data is None or not len(full):
        return np.zeros(len(full), np.int32), b""
    return np.diff(offsets), memoryview(data)[offsets[0] : offsets[-1]].tobytes()


def rebuilt(column: pa.Array, data: bytes, lengths: npt.NDArray[np.int32], type: pa.DataType) -> pa.Array:
    """An array of `type` with other contents, null where `column` is."""
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    validity = None
    if column.null_count:
        valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
        validity = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(type, len(column), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])
