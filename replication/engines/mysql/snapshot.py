"""The reader of whole rows, in key order.

Rows come in the text protocol, whole columns at a time, and go the same way as those of the log from there:
what the initial copy reads and what the log shows of the same row is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from replication.applying import beyond
from replication.engines.mysql.columns import Bound, bind
from replication.engines.mysql.config import WATERMARK, parse, table_name
from replication.engines.mysql.connection import Session
from replication.engines.mysql.limits import checks
from replication.engines.mysql.literals import rows_of_literals
from replication.engines.mysql.results import select
from replication.engines.mysql.statements import exact_literals, key_literals
from replication.engines.mysql.sums import row_text, sums
from replication.engines.mysql.values import Errors, from_text
from replication.errors import RowsUnreadable
from replication.key import encode_key, encode_keys, key_columns
from replication.schema import NodeConfig, Table
from replication.summing import RangeSum

_SETTINGS = {"SESSION information_schema_stats_expiry": "0"}
_COUNT_BELOW = 10_000
"""Tables that the server thinks smaller than this are counted."""
_COUNT_LIMIT = 1_000_000
_KEYS_AT_ONCE = 1_000


class MysqlSnapshot:
    """Implements `replication.engine.Snapshot`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        self._session = Session(parse(node), _SETTINGS)
        self._bound: dict[str, Bound] = {}

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        """See `Snapshot.read_chunk`.

        Raises:
            RowsUnreadable: rows cannot be read as rows of this table.
        """
        bound = self._bind(table)
        where = f"{_bounded(bound, after, '>')} AND {_bounded(bound, until, '<=')}"
        order = ", ".join(bound.bytewise(i) for i in bound.key)
        return self._read(bound, f"WHERE {where} ORDER BY {order} LIMIT {limit} OFFSET {skip}")

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """See `Snapshot.read_keys`; in key order.

        Raises:
            RowsUnreadable: rows cannot be read as rows of this table.
        """
        bound = self._bind(table)
        wanted = list(dict.fromkeys(keys))
        bad: list[tuple[bytes, str]] = []
        message, parts = "", []
        for at in range(0, max(len(wanted), 1), _KEYS_AT_ONCE):
            try:
                parts.append(self._read(bound, f"WHERE {_among(bound, wanted[at : at + _KEYS_AT_ONCE])}"))
            except RowsUnreadable as error:
                parts.append(error.rows)
                bad += error.unreadable
                message = error.message
        rows = pa.concat_batches(parts).sort_by("_key")
        # A collation may find more than the very keys.
        known = set(wanted)
        rows = rows.filter(pa.array([key in known for key in rows.column("_key").to_pylist()], pa.bool_()))
        if bad := [(key, why) for key, why in bad if key in known or not key]:
            raise RowsUnreadable.of(message, self.node.name, rows, bad, rows.num_rows + len(bad))
        return rows

    def sums(self, table: Table) -> bool:
        """See `Summing.sums`."""
        return sums(self._bind(table))

    def boundary(self, table: Table, after: bytes | None, rows: int) -> bytes | None:
        """See `Summing.boundary`."""
        bound = self._bind(table)
        names = ", ".join(bound.names(bound.key))
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(
                f"SELECT {names} FROM {bound.sql} WHERE {_bounded(bound, after, '>')} "
                f"ORDER BY {names} LIMIT 1 OFFSET {rows - 1}"
            )
            found = cursor.fetchone()
        return encode_key(found, [bound.kind(i) for i in bound.key]) if found else None

    def sum_range(self, table: Table, after: bytes | None, upto: bytes | None) -> RangeSum:
        """See `Summing.sum_range`. A row longer than max_allowed_packet has no text."""
        bound = self._bind(table)
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(
                f"SELECT COUNT(*), COUNT(h), HEX(BIT_XOR(UNHEX(LEFT(h, 32)))) FROM "
                f"(SELECT SHA2({row_text(bound)}, 256) AS h FROM {bound.sql} "
                f"WHERE {_bounded(bound, after, '>')} AND {_bounded(bound, upto, '<=')}) AS s"
            )
            rows, summed, digest = cursor.fetchone() or (0, 0, None)
        return RangeSum(rows, int(digest or "0", 16) if rows == summed else None)

    def write_watermark(self, ident: str) -> None:
        """See `Snapshot.write_watermark`.

        What the log has before it can be seen when this returns: the server makes commits visible in the
        order of its log (`binlog_order_commits`).
        """
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {WATERMARK} (grp, ident, n) VALUES (%s, %s, 1) AS given "
                f"ON DUPLICATE KEY UPDATE ident = given.ident, n = {WATERMARK}.n + 1",
                [self.group, ident],
            )

    def estimate_rows(self, table: Table) -> int:
        """See `Snapshot.estimate_rows`."""
        bound = self._bind(table)
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(
                "SELECT table_rows FROM information_schema.tables "
                "WHERE table_schema = DATABASE() AND table_name = %s",
                [table_name(self.node, table.mapping)],
            )
            row = cursor.fetchone()
            if row and (row[0] or 0) >= _COUNT_BELOW:
                return int(row[0])
            cursor.execute(f"SELECT COUNT(*) FROM (SELECT 1 FROM {bound.sql} LIMIT {_COUNT_LIMIT}) AS part")
            count = cursor.fetchone()
        return int(count[0]) if count else 0

    def close(self) -> None:
        """See `Snapshot.close`."""
        self._session.close()

    def _bind(self, table: Table) -> Bound:
        if table.name not in self._bound:
            with self._session.use() as c:
                self._bound[table.name] = bind(c, table, self.node.name)
        return self._bound[table.name]

    def _read(self, bound: Bound, rest: str) -> pa.RecordBatch:
        wanted = ", ".join(_selected(bound, i) for i in range(len(bound.columns)))
        with self._session.use() as c:
            texts = select(c, f"SELECT {wanted} FROM {bound.sql} {rest}")
        return self._batch(bound, texts)

    def _batch(self, bound: Bound, texts: Sequence[pa.Array]) -> pa.RecordBatch:
        schema = bound.table.schema
        columns, errors = [], Errors()
        for text, column, local in zip(texts, schema.columns, bound.columns, strict=True):
            values, unread = from_text(text, column.type, local.type)
            columns.append(values)
            errors |= {row: f"{column.name}: {why}" for row, why in unread.items()}
        kinds = [bound.kind(i) for i in bound.key]
        key = encode_keys([columns[i] for i in bound.key], kinds)
        fields = [pa.field("_key", pa.binary()), *schema.arrow]
        rows = pa.RecordBatch.from_arrays([key, *columns], schema=pa.schema(fields))
        if not errors:
            return rows
        row, why = next(iter(errors.items()))
        named = ", ".join(texts[i][row].as_py().decode("utf-8", "replace") for i in bound.key)
        message = f"the row {named:.60} of {bound.sql} cannot be read: {why}"
        unreadable = [(key[at].as_py() or b"", reason) for at, reason in errors.items()]
        good = rows.filter(pa.array([i not in errors for i in range(rows.num_rows)], pa.bool_()))
        raise RowsUnreadable.of(message, self.node.name, good, unreadable, rows.num_rows)


def _selected(bound: Bound, index: int) -> str:
    """A column as `values.from_text` reads it."""
    name, local = bound.name(index), bound.columns[index].type
    if local.name == "float":
        return f"CAST({name} AS DOUBLE)"  # by itself it is printed with six digits
    if local.name == "bit":
        return f"LPAD(BIN({name}), {local.size}, '0')"
    return name


def _literal(bound: Bound, index: int, column: pa.Array) -> str:
    """A key value, to compare with `Bound.bytewise`."""
    value = exact_literals(column) if index in bound.inexact else key_literals(bound, index, column)
    return str(value[0].as_py().decode("utf-8", "surrogateescape"))


def _bounded(bound: Bound, key: bytes | None, compares: str) -> str:
    """The condition for greater keys (`>`), or for those up to this one (`<=`); None is no bound.

    Spelled out, since the server finds no range in `(a, b) > (1, 2)`.
    """
    if key is None:
        return "TRUE"
    columns = key_columns([key], [bound.kind(i) for i in bound.key])
    condition = ""
    for i, column in reversed(list(zip(bound.key, columns, strict=True))):
        name, value = bound.bytewise(i), _literal(bound, i, column)
        if condition:
            condition = f"{name} {compares[0]} {value} OR ({name} = {value} AND ({condition}))"
        else:
            condition = f"{name} {compares} {value}"
    return f"({condition})"


def _among(bound: Bound, keys: Sequence[bytes]) -> str:
    """The condition for some keys; those that a column cannot hold are in no row."""
    columns = key_columns(keys, [bound.kind(i) for i in bound.key])
    bad: set[int] = set()
    for i, column in zip(bound.key, columns, strict=True):
        type, local = bound.table.schema.columns[i].type, bound.columns[i].type
        bad |= beyond(column, checks(column, type, local, key=True)).keys()
    good = pa.array([n for n in range(len(keys)) if n not in bad], pa.int64())
    if not len(good):
        return "FALSE"
    values = [key_literals(bound, i, c.take(good)) for i, c in zip(bound.key, columns, strict=True)]
    listed = b",".join(rows_of_literals(values).to_pylist()).decode("utf-8", "surrogateescape")
    return f"({', '.join(bound.names(bound.key))}) IN ({listed})"
