"""The reader of whole rows, in key order.

Rows come as text and are read by Arrow's own parser, then as columns of text go the same way as those of the
log: what the initial copy reads and what the log shows of the same row is the same.

Many narrow rows come as one text that the server has joined, others as CSV by COPY. That is a message for
each row, and receiving those takes seven times as long as parsing them.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv

from replication.engines.postgres.columns import Bound, bind
from replication.engines.postgres.config import WATERMARK, Connection, Session, split_name
from replication.engines.postgres.statements import literal
from replication.engines.postgres.sums import row_digest, sums
from replication.engines.postgres.values import from_text, to_text
from replication.errors import Contention, RowRefused
from replication.key import encode_key, encode_keys, key_columns
from replication.schema import NodeConfig, Table
from replication.summing import RangeSum
from replication.types import Kind

_COUNT_BELOW = 10_000
"""Tables that the planner thinks smaller than this are counted."""
_COUNT_LIMIT = 1_000_000
_JOINED_ROWS = 500
"""Fewer rows are not worth a statement of another kind."""
_JOINED_BYTES = 16 << 20
"""What the server is to join in its memory at most, judged by the rows that were read before."""
_RECORD = "sync_worker_record"
_COLLATED = frozenset({25, 1043})
"""text and varchar, which an index of the collation "C" can give in canonical order."""


_VISIBLE_SECONDS = 0.002
"""Between two looks whether a commit can be seen."""
_PATIENCE_SECONDS = 10.0
_HINT = "look at synchronous_standby_names; where track_commit_timestamp is off, also at long transactions"
_HIDDEN = """SELECT coalesce(array_agg(x::text), '{}') FROM pg_snapshot_xip(pg_current_snapshot()) x
WHERE NOT current_setting('track_commit_timestamp')::bool OR pg_xact_commit_timestamp(x::xid) IS NOT NULL"""
"""Transactions whose commit is in the log and that a snapshot does not show yet: a commit's time is stored
after its log record was written and before that is flushed, so before anyone can read it there. Without
commit times, any running transaction may be one."""


class PostgresSnapshot:
    """Implements `replication.engine.Snapshot`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        self._session = Session(node)
        self._bound: dict[str, Bound] = {}
        self._width: dict[str, float] = {}  # bytes of a row, of those that were read last

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        """See `Snapshot.read_chunk`."""
        bound = self._bind(table)
        where = f"{_behind(bound, after)} AND {_behind(bound, until, '<=')}"
        query = (
            f"SELECT {_columns(bound)} FROM {bound.sql} t WHERE {where} "
            f"ORDER BY {_order(bound)} LIMIT {limit} OFFSET {skip}"
        )
        width = self._width.get(table.name)
        if width is not None and limit >= _JOINED_ROWS and limit * width <= _JOINED_BYTES:
            with contextlib.suppress(RowRefused):  # so much wider than those before that no text holds them
                return self._read_joined(bound, query)
        return self._read(bound, query)

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """See `Snapshot.read_keys`."""
        bound = self._bind(table)
        arrays, same = [], []
        for n, (i, texts) in enumerate(_key_texts(bound, list(dict.fromkeys(keys)))):
            kind = table.schema.columns[i].type.kind
            arrays.append(sql.Literal(literal(pa.array(texts, pa.utf8()), kind)).as_string() + "::text[]")
            same.append(f"t.{bound.names([i])[0]} = u.c{n}::{bound.columns[i].cast}")
        names = ", ".join(f"c{n}" for n in range(len(arrays)))
        query = (
            f"SELECT {_columns(bound)} FROM unnest({', '.join(arrays)}) u({names}) "
            f"JOIN {bound.sql} t ON {' AND '.join(same)} ORDER BY {_order(bound)}"
        )
        return self._read(bound, query)

    def sums(self, table: Table) -> bool:
        """See `Summing.sums`; the server's text must be UTF-8, as that of others."""
        with self._session.use() as c:
            return c.info.parameter_status("server_encoding") == "UTF8" and sums(self._bind(table))

    def boundary(self, table: Table, after: bytes | None, rows: int) -> bytes | None:
        """See `Summing.boundary`."""
        bound = self._bind(table)
        query = (
            f"SELECT {', '.join(bound.names(bound.key))} FROM {bound.sql} t WHERE {_behind(bound, after)} "
            f"ORDER BY {_order(bound)} OFFSET {rows - 1} LIMIT 1"
        )
        with self._session.use() as c:
            found = c.execute(query.encode()).fetchone()
        return encode_key(found, [table.schema.columns[i].type.kind for i in bound.key]) if found else None

    def sum_range(self, table: Table, after: bytes | None, upto: bytes | None) -> RangeSum:
        """See `Summing.sum_range`."""
        bound = self._bind(table)
        query = (
            f"SELECT count(*), count(h), bit_xor(h)::text FROM (SELECT {row_digest(bound)} AS h "
            f"FROM {bound.sql} t WHERE {_behind(bound, after)} AND {_behind(bound, upto, '<=')}) s"
        )
        with self._session.use() as c:
            rows, summed, bits = c.execute(query.encode()).fetchone() or (0, 0, None)
        return RangeSum(rows, int(bits or "0", 2) if rows == summed else None)

    def write_watermark(self, ident: str) -> None:
        """See `Snapshot.write_watermark`. Returns once every commit before it in the log can be seen.

        A commit is logged first and shown to others later, much later where it waits for a standby.
        """
        with self._session.use() as c:
            c.execute(
                f"INSERT INTO {WATERMARK} (grp, ident) VALUES (%s, %s) "
                "ON CONFLICT (grp) DO UPDATE SET ident = EXCLUDED.ident",
                [self.group, ident],
            )
            hidden, began = _hidden(c), time.monotonic()
            while hidden:
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    message = f"transactions {', '.join(sorted(hidden))} are logged, and nobody sees them yet"
                    raise Contention(message, node=self.node.name, hint=_HINT)
                time.sleep(_VISIBLE_SECONDS)
                hidden &= _hidden(c)

    def estimate_rows(self, table: Table) -> int:
        """See `Snapshot.estimate_rows`."""
        bound = self._bind(table)
        with self._session.use() as c:
            row = c.execute(
                "SELECT r.reltuples::int8 FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
                "WHERE n.nspname = %s AND r.relname = %s",
                split_name(table.mapping.names[self.node.name]),
            ).fetchone()
            if row and row[0] >= _COUNT_BELOW:
                return int(row[0])
            count = c.execute(
                f"SELECT count(*) FROM (SELECT FROM {bound.sql} LIMIT {_COUNT_LIMIT}) AS part"
            ).fetchone()
        return int(count[0]) if count else 0

    def close(self) -> None:
        """See `Snapshot.close`."""
        self._session.close()

    def _bind(self, table: Table) -> Bound:
        if table.name not in self._bound:
            with self._session.use() as c:
                self._bound[table.name] = bind(c, table, self.node.name)
        return self._bound[table.name]

    def _read(self, bound: Bound, query: str) -> pa.RecordBatch:
        with self._session.use() as c, c.cursor() as cursor:
            copy = f"COPY ({query}) TO STDOUT (FORMAT csv)"
            with cursor.copy(copy.encode()) as rows:
                data = b"".join(rows)
        return self._measured(bound, parse_csv(bound, data))

    def _read_joined(self, bound: Bound, query: str) -> pa.RecordBatch:
        """The same rows; their order is the query's, since nothing can be done to a LIMIT but read it."""
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(_joined(query).encode())
            data = cursor.pgresult.get_value(0, 0) if cursor.pgresult else None
        return self._measured(bound, parse_records(bound, data or b""))

    def _measured(self, bound: Bound, rows: pa.RecordBatch) -> pa.RecordBatch:
        if rows.num_rows:
            self._width[bound.table.name] = rows.nbytes / rows.num_rows
        return rows


def _hidden(c: Connection) -> set[str]:
    (found,) = c.execute(_HIDDEN).fetchone() or ([],)
    return set(found)


def _joined(query: str) -> str:
    """The rows of a query as one text: a record's text in each line.

    Between two columns of null: the brackets of a record are fields of their own then.
    """
    rows = f"SELECT NULL, q.*, NULL FROM ({query}) q"
    return f"SELECT string_agg({_RECORD}::text, E'\\n') FROM ({rows}) {_RECORD}"


def parse_csv(bound: Bound, data: bytes) -> pa.RecordBatch:
    """Rows that COPY wrote as CSV, with `_key` before the data columns."""
    return _of_texts(bound, _texts(data, len(bound.columns)))


def parse_records(bound: Bound, data: bytes) -> pa.RecordBatch:
    """Rows of a joined query: their texts are CSV in which backslashes are doubled, too."""
    texts = _texts(data, len(bound.columns), frame=1)
    if b"\\" in data:
        texts = [pc.replace_substring(text, "\\\\", "\\") for text in texts]
    return _of_texts(bound, texts)


def _of_texts(bound: Bound, texts: Sequence[pa.Array]) -> pa.RecordBatch:
    schema = bound.table.schema
    columns = [
        from_text(text, column.type, local.type)
        for text, column, local in zip(texts, schema.columns, bound.columns, strict=True)
    ]
    kinds = [schema.columns[i].type.kind for i in bound.key]
    key = encode_keys([columns[i] for i in bound.key], kinds)
    fields = [pa.field("_key", pa.binary()), *schema.arrow]
    return pa.RecordBatch.from_arrays([key, *columns], schema=pa.schema(fields))


def _texts(data: bytes, count: int, *, frame: int = 0) -> list[pa.Array]:
    """So many columns of CSV, between `frame` others on each side."""
    names = [str(i) for i in range(count + 2 * frame)]
    wanted = names[frame : frame + count]
    if not data:
        return [pa.array([], pa.utf8()) for _ in wanted]
    table = csv.read_csv(
        io.BytesIO(data),
        csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(data), 1 << 20) + 1),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            include_columns=wanted,
            column_types={name: pa.utf8() for name in wanted},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return [table.column(name).combine_chunks() for name in wanted]


def _columns(bound: Bound) -> str:
    return ", ".join(f"t.{name}" for name in bound.names(range(len(bound.columns))))


def _ordered(bound: Bound, index: int) -> str:
    """A key column in an order that is the canonical key's."""
    column = bound.columns[index]
    name = f"t.{bound.names([index])[0]}"
    if bound.table.schema.columns[index].type.kind is not Kind.TEXT:
        return name
    if column.type_oid in _COLLATED:
        return f'{name} COLLATE "C"'
    return f'{name}::text COLLATE "C"'


def _order(bound: Bound) -> str:
    return ", ".join(_ordered(bound, i) for i in bound.key)


def _behind(bound: Bound, key: bytes | None, compares: str = ">") -> str:
    """The condition for keys greater than this one, or up to it; None is no bound."""
    if key is None:
        return "true"
    values = [_literal(bound, i, texts[0]) for i, texts in _key_texts(bound, [key])]
    return f"({_order(bound)}) {compares} ({', '.join(values)})"


def _literal(bound: Bound, index: int, text: str) -> str:
    """A key value, to compare with what `_ordered` gives."""
    kind = bound.table.schema.columns[index].type.kind
    cast = "text" if kind is Kind.TEXT else bound.columns[index].cast
    return f"{sql.Literal(text).as_string()}::{cast}"


def _key_texts(bound: Bound, keys: Sequence[bytes]) -> list[tuple[int, list[str]]]:
    types = [bound.table.schema.columns[i].type for i in bound.key]
    columns = key_columns(keys, [t.kind for t in types])
    return [
        (i, to_text(column, type, bound.columns[i].type).to_pylist())
        for i, type, column in zip(bound.key, types, columns, strict=True)
    ]
