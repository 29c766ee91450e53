"""Case 27 by checksums: they find every planted difference, and say what reading every row says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.node_reader import NodeReader
from replication.difference import Difference
from replication.engines import load_engine
from replication.engines.mysql.config import parse
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig, Table, TableMapping
from replication.verify import Chunks, QuietTime, Verifier

ROWS = 60
CHUNK = 7
Row = dict[str, str]
"""Column to literal."""
PG = """CREATE TABLE t (a int, b bigint, flag boolean, small smallint, big bigint, amount numeric(30,4),
    free numeric, name text, code varchar(40), blob bytea, day date, clock time, at timestamp,
    instant timestamptz, id uuid, PRIMARY KEY (a, b))"""
MY = """CREATE TABLE t (a int, b bigint, flag tinyint(1), small smallint, big bigint, amount decimal(30,4),
    free decimal(65,20), name longtext CHARACTER SET utf8mb4, code varchar(40) CHARACTER SET latin1,
    `blob` longblob, day date, clock time(6), at datetime(6), instant timestamp(6) NULL, id char(36),
    PRIMARY KEY (a, b))"""
EDGES: dict[str, list[str]] = {
    "flag": ["0", "1"],
    "small": ["0", "-32768", "32767"],
    "big": ["0", "-9223372036854775808", "9223372036854775807"],
    "amount": ["0", "-0.0001", "12345678901234567890123456.7890", "100"],
    "free": ["0", "-0", "1.5", "1.50", "1e10",
             "123456789012345678901234567890123456789012345.12345678901234567890"],
    "name": ["''", "' '", "'a'", "'A'", "'a '", "'~'", "'|'", "'1:a'", "'2:a|'",
             "'é'", "'e\u0301'", "'\U0001f600'", "'|~|'"],
    "code": ["''", "'é'", "'e'", "'ÿ'"],
    "blob": ["x''", "x'00'", "x'0000'", "x'01'", "x'ff'", "x'7e'"],
    "day": ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'", "'0987-12-01'"],
    "clock": ["'00:00:00'", "'24:00:00'", "'23:59:59.999999'", "'12:30:00.5'", "'12:30:00.050000'"],
    "at": ["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'2024-03-31 02:30:00.1'",
           "'2024-03-31 02:30:00.000001'"],
    "instant": ["'1970-01-01 00:00:01+00:00'", "'2024-10-27 01:30:00.25+00:00'",
                "'2038-01-19 03:14:07+00:00'"],
    "id": ["'00000000-0000-0000-0000-000000000000'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
}  # fmt: skip
"""Literals of both databases."""
ONLY_PG = {
    "free": ["'NaN'", "'Infinity'", "1.000000000000000000000000000001"],
    "day": ["'infinity'", "'-infinity'", "'0001-01-01 BC'", "'15000-01-01'"],
    "at": ["'infinity'", "'0044-03-15 12:00:00 BC'", "'0045-03-15 12:00:00 BC'"],
    "instant": ["'infinity'", "'0044-03-15 12:00:00+00 BC'"],
}
ONLY_MY = {
    "flag": ["2", "-1"],
    "day": ["'0000-00-00'", "'2024-00-00'", "'0044-03-15'"],
    "clock": ["'-01:00:00'", "'838:59:59'", "'24:00:00.000001'"],
    "at": ["'0000-00-00 00:00:00'", "'0044-03-15 12:00:00'"],
    "instant": ["'0000-00-00 00:00:00'"],
    "id": ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"],
}


class Twins:
    """The same table in PostgreSQL and MySQL."""

    def __init__(self, postgres: str, mysql: str, stack: ExitStack) -> None:
        nodes = [NodeConfig("pg", "postgres", postgres), NodeConfig("my", "mysql", mysql)]
        self.pg = stack.enter_context(psycopg.connect(postgres, autocommit=True))
        self.my = stack.enter_context(closing(connect(parse(nodes[1]))))
        for statement in ("SET TIME ZONE 'UTC'", PG):
            self.pg.execute(statement)
        for statement in ("SET time_zone = '+00:00'", "SET sql_mode = ''", MY):
            self.my.query(statement)
        self.engines = [load_engine(node, "shop") for node in nodes]
        mapping = TableMapping("t", ("a", "b"), {"pg": "public.t", "my": "t"})
        with closing(self.engines[0].catalog()) as catalog:
            schema = catalog.read_schema(mapping)
        assert schema is not None
        self.table = Table(mapping, schema)
        self.readers = [NodeReader(engine) for engine in self.engines]
        for reader in self.readers:
            stack.callback(reader.close)

    def fill(self, rows: Sequence[tuple[int, Row, Row]]) -> None:
        """By number, what PostgreSQL and MySQL hold of a row; a column that is not there is null."""
        self.pg.execute("TRUNCATE t")
        self.my.query("TRUNCATE t")
        ours = ",".join(_row(number, {c: _pg(c, v) for c, v in row.items()}) for number, row, _ in rows)
        self.pg.execute(f"INSERT INTO t VALUES {ours}".encode())
        self.my.query("INSERT INTO t VALUES " + ",".join(_row(number, row) for number, _, row in rows))

    def change(self, node: str, row: int, column: str, literal: str) -> None:
        where = f"WHERE a = {row % 3 - 1} AND b = {row * 1_000_000_007}"
        if node == "pg":
            self.pg.execute(f"UPDATE t SET {column} = {_pg(column, literal)} {where}".encode())
        else:
            self.my.query(f"UPDATE t SET `{column}` = {literal} {where}")

    def run(self, node: str, statement: str) -> None:
        self.pg.execute(statement.encode()) if node == "pg" else self.my.query(statement)

    def compare(self, *, sums: bool, chunk: int = CHUNK) -> tuple[list[Difference], Chunks]:
        settling = QuietTime(lambda attempt: None, 1)
        verifier = Verifier(self.readers, settling, sums=sums, chunk_rows=chunk)
        found = list(verifier.compare(self.table))
        self.rows = verifier.rows
        return found, verifier.chunks


def _row(number: int, row: Row) -> str:
    values = [str(number % 3 - 1), str(number * 1_000_000_007), *(row.get(c, "NULL") for c in EDGES)]
    return f"({','.join(values)})"


def _pg(column: str, literal: str) -> str:
    if literal == "NULL":
        return literal
    if column == "blob":
        return f"'\\x{literal[2:-1]}'"
    return f"{literal}::boolean" if column == "flag" else literal


@pytest.fixture
def twins(postgres_db: str, mysql_db: str) -> Iterator[Twins]:
    with ExitStack() as stack:
        yield Twins(postgres_db, mysql_db, stack)


@pytest.fixture
def same(twins: Twins) -> Twins:
    """With the same rows, of every edge."""
    twins.fill([(i, row, row) for i, row in ((i, ordinary(i)) for i in range(ROWS))])
    return twins


def ordinary(number: int) -> Row:
    return {c: values[number % len(values)] for c, values in EDGES.items() if number % 11}


def test_equal_rows_are_compared_by_checksum_alone(same: Twins) -> None:
    found, chunks = same.compare(sums=True)
    assert found == []
    assert chunks == Chunks(ROWS // CHUNK + 1), "no value looks different that is not"
    assert same.rows == {"pg": ROWS, "my": ROWS}


@pytest.mark.parametrize("column", EDGES)
def test_no_two_values_have_one_checksum(twins: Twins, column: str) -> None:
    """Every value of PostgreSQL beside every one of MySQL, each row a checksum of its own."""
    ours = [*EDGES[column], *ONLY_PG.get(column, []), "NULL"]
    theirs = [*EDGES[column], *ONLY_MY.get(column, []), "NULL"]
    pairs = [({column: a}, {column: b}) for a in ours for b in theirs]
    twins.fill([(i, a, b) for i, (a, b) in enumerate(pairs)])
    expected, _ = twins.compare(sums=False)
    found, chunks = twins.compare(sums=True, chunk=1)
    assert [(d.key, d.kind, d.columns) for d in found] == [(d.key, d.kind, d.columns) for d in expected]
    assert chunks.read >= len(expected) > 0
    assert chunks.summed > 0


ends, numbers = st.sampled_from(["pg", "my"]), st.integers(0, ROWS - 1)
changes = st.tuples(ends, numbers, st.sampled_from(list(EDGES)), st.integers(0, 9))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk=st.integers(1, ROWS + 1),
    gone=st.sets(st.tuples(ends, numbers), max_size=3),
    more=st.sets(st.tuples(ends, st.integers(-5, ROWS + 5)), max_size=2),
    changed=st.lists(changes, max_size=4),
)
def test_checksums_find_what_reading_every_row_finds(
    same: Twins,
    chunk: int,
    gone: set[tuple[str, int]],
    more: set[tuple[str, int]],
    changed: list[tuple[str, int, str, int]],
) -> None:
    rows = [(i, ordinary(i)) for i in range(ROWS)]
    same.fill([(i, row, row) for i, row in rows])
    for node, row, column, n in changed:
        values = [*EDGES[column], *(ONLY_PG if node == "pg" else ONLY_MY).get(column, []), "NULL"]
        same.change(node, row, column, values[n % len(values)])
    for node, row in gone:
        same.run(node, f"DELETE FROM t WHERE b = {row * 1_000_000_007}")
    for node, row in more:
        same.run(node, f"INSERT INTO t (a, b) VALUES (5, {row})")
    expected, everything = same.compare(sums=False)
    found, chunks = same.compare(sums=True, chunk=chunk)
    assert found == expected
    assert (everything.summed, everything.read) == (0, 0)
    assert chunks.summed + chunks.read >= 1


def test_types_without_such_a_text_are_read(same: Twins) -> None:
    for statement in ("ALTER TABLE t ADD COLUMN ratio float8", "UPDATE t SET ratio = a / 3.0"):
        same.pg.execute(statement)
    for statement in ("ALTER TABLE t ADD COLUMN ratio double", "UPDATE t SET ratio = a / 3.0"):
        same.my.query(statement)
    with closing(same.engines[0].catalog()) as catalog:
        schema = catalog.read_schema(same.table.mapping)
    assert schema is not None
    same.table = Table(same.table.mapping, schema)
    same.readers = [NodeReader(engine) for engine in same.engines]
    try:
        _, chunks = same.compare(sums=True)
        assert (chunks.summed, chunks.read, chunks.rows) == (0, 0, ROWS)
    finally:
        for reader in same.readers:
            reader.close()
