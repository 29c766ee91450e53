"""Records as JSON can hold them. Pure."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from replication.audit.records import ERASED


def printable(stream: str, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as dictionaries that JSON can hold; `_erased` is there where it holds."""
    names = batch.schema.names
    columns = [printable_column(column) for column in batch.columns]
    found = [
        {"stream": stream, **dict(zip(names, values, strict=True))} for values in zip(*columns, strict=True)
    ]
    for entry in found if ERASED in names else ():
        if not entry[ERASED]:
            del entry[ERASED]
    return found


def printable_column(column: pa.Array) -> list[Any]:
    """A column's values as JSON can hold them."""
    if pa.types.is_binary(column.type):
        return [None if v is None else v.hex() for v in column.to_pylist()]
    if pa.types.is_temporal(column.type):
        try:
            return list(column.cast(pa.utf8()).to_pylist())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            width = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
            return list(column.cast(width).to_pylist())
    return list(column.to_pylist())
