"""Reading whole rows in key order, whatever the key and the table's collation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from replication.change import Changes, Watermark
from replication.engine import Source
from replication.engines.postgres import snapshot
from replication.key import encode_keys
from replication.paging import ChunkSize, read_chunks
from tests.fixtures.postgres_node import PostgresNode, mapping, wait_for
from tests.fixtures.sql_node import pages

TEXTS = ["", "a", "B", "ä", "Z", "z", "😀", "ﬀ", "a b", "a\tb", "a\\b", 'a"b', "a,b", "a\nb", "\\N", "NULL"]


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_rows_are_the_same_however_they_come(postgres_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many narrow ones come as one text; the first ones never do, since nothing is known of them."""
    ddl = """CREATE TABLE t (id int PRIMARY KEY, v text, b bytea, j jsonb, a text[], n numeric, f float8,
        o boolean, d timestamptz, c char(4), i interval, "the %% ""col" text)"""
    with PostgresNode(postgres_db, ddl, [mapping("t")]) as node:
        node.sql("INSERT INTO t (id) VALUES (0)")
        odd = ["(", ")", ",", '""', "\\\\", "\r\n", " ", "(,)", "\v\f", "\xa0"]
        for i, text in enumerate([*TEXTS, *odd], 1):
            node.sql(
                "INSERT INTO t VALUES (%s, %s, convert_to(%s, 'UTF8'), to_jsonb(%s::text), ARRAY[%s, NULL], "
                "%s / 7.0, 'Infinity', true, '-infinity', %s, '1 mon 2 days', %s)",
                i, text, text, text, text, i, text[:4], text,
            )  # fmt: skip
        table = node.tables["t"]
        first, again = (node.snapshot.read_chunk(table, None, 1_000) for _ in range(2))
        assert first.num_rows == 27
        assert again.equals(first)
        (joined,) = node.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT string_agg(%%'")
        assert joined == (1,), "the second was read the other way"
        assert node.snapshot.read_chunk(table, again.column("_key")[26].as_py(), 1_000).num_rows == 0
        monkeypatch.setattr(snapshot, "_joined", lambda query: "SELECT repeat('too long', 1000000000)")
        assert node.snapshot.read_chunk(table, None, 1_000).equals(first)


@pytest.fixture
def collation(postgres_db: str) -> str:
    """One that sorts as people do, where the server was built with ICU."""
    with psycopg.connect(postgres_db) as c:
        found = c.execute("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'").fetchone()
    return 'COLLATE "und-x-icu"' if found else 'COLLATE "C"'


@pytest.mark.parametrize("type_", ["text", "varchar(20)", "text {}", "varchar {}", "char(9)", "name"])
def test_text_keys_come_in_code_point_order(postgres_db: str, collation: str, type_: str) -> None:
    ddl = f"CREATE TABLE t (k {type_.format(collation)} PRIMARY KEY, v text)"
    texts = [t for t in TEXTS if t or type_ != "name"]
    values = ", ".join(f"({quote(t)}, {quote(t) if t else 'NULL'})" for t in texts)
    with PostgresNode(postgres_db, ddl, [mapping("t", "k")]) as node:
        node.sql(f"INSERT INTO t VALUES {values}")
        rows = pages(node, "t", 3)
        assert [r["k"] for r in rows] == sorted(texts)
        assert all((r["v"] or "") == r["k"] for r in rows)


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("bool", ["true", "false"]),
        ("smallint", ["-3", "0", "5"]),
        ("bigint", ["-9223372036854775808", "9223372036854775807", "-1", "0"]),
        ("numeric", ["-1.5", "0", "1e10", "1.50000001", "1.5", "-100"]),
        ("date", ["'-infinity'", "'infinity'", "'0044-03-15 BC'", "'2024-01-01'", "'15000-01-01'"]),
        ("timestamp", ["'-infinity'", "'infinity'", "'1969-12-31 23:59:59.999999'", "'2024-01-01'"]),
        ("timestamptz", ["'-infinity'", "'infinity'", "'0044-03-15 BC'", "'2024-01-01 00:00+01'"]),
        ("uuid", ["'ffffffff-0000-0000-0000-000000000000'", "'00000000-0000-0000-0000-00000000000f'"]),
        ("bytea", ["''", "'\\x00'", "'\\xff'", "'\\x5c'", "'\\x0000'"]),
        ("mood", ["'sad'", "'happy'", "'Zen'"]),
    ],
)
def test_keys_of_every_kind_come_in_canonical_order(postgres_db: str, type_: str, values: list[str]) -> None:
    ddl = f"CREATE TYPE mood AS ENUM ('sad', 'happy', 'Zen'); CREATE TABLE t (k {type_} PRIMARY KEY)"
    with PostgresNode(postgres_db, ddl, [mapping("t", "k")]) as node:
        node.sql(f"INSERT INTO t VALUES {', '.join(f'({v})' for v in values)}")
        chunks = list(read_chunks(node.snapshot, node.tables["t"], ChunkSize(1, 1)))
        keys = [k for c in chunks for k in c.column("_key").to_pylist()]
        assert keys == sorted(set(keys))
        assert len(keys) == len(values)
        again = node.snapshot.read_keys(
            node.tables["t"], [*reversed(keys), keys[0] + b"\0"[: type_ == "bytea"]]
        )
        assert again.column("_key").to_pylist()[: len(keys)] == keys


def test_keys_of_several_columns(postgres_db: str, collation: str) -> None:
    ddl = f"CREATE TABLE t (a text {collation}, b int, v text, PRIMARY KEY (b, a))"
    with PostgresNode(postgres_db, ddl, [mapping("t", "a", "b")]) as node:
        for text in TEXTS:
            node.sql("INSERT INTO t VALUES (%s, -1, NULL), (%s, 1, '')", text, text)
        rows = pages(node, "t", 5)
        assert [(r["a"], r["b"]) for r in rows] == sorted((t, b) for t in TEXTS for b in (-1, 1))
        table = node.tables["t"]
        chunk = node.snapshot.read_chunk(table, None, 100)
        wanted = chunk.column("_key").take([3, 0, 9]).to_pylist()
        found = node.snapshot.read_keys(table, [*wanted, b"none\0\0\x80" + bytes(7)])
        assert found.column("_key").to_pylist() == sorted(wanted)
        kinds = [table.schema.column(c).type.kind for c in ("a", "b")]
        assert encode_keys([found.column("a"), found.column("b")], kinds) == found.column("_key")


def test_wide_values(postgres_db: str) -> None:
    with PostgresNode(postgres_db, "CREATE TABLE t (k int PRIMARY KEY, v text)", [mapping("t", "k")]) as node:
        node.sql("INSERT INTO t SELECT i, repeat('line' || chr(10), 400000) FROM generate_series(1, 3) i")
        assert [len(r["v"]) for r in pages(node, "t", 2)] == [2_000_000] * 3


def test_estimate(postgres_db: str) -> None:
    with PostgresNode(postgres_db, "CREATE TABLE t (k int PRIMARY KEY)", [mapping("t", "k")]) as node:
        table = node.tables["t"]
        assert node.snapshot.estimate_rows(table) == 0
        node.sql("INSERT INTO t SELECT generate_series(1, 20000)")
        assert node.snapshot.estimate_rows(table) == 20_000
        node.sql("ANALYZE t")
        node.sql("DELETE FROM t WHERE k > 100")
        assert node.snapshot.estimate_rows(table) == 20_000


def test_what_is_logged_before_a_watermark_is_read_after_it(postgres_db: str) -> None:
    """A commit that waits for a synchronous standby is in the log, and no other session sees it yet."""
    local = f"{postgres_db}?options=-c%20synchronous_commit%3Dlocal"
    ddl = "CREATE TABLE t (k int PRIMARY KEY); CREATE TABLE stranger (n int)"
    with PostgresNode(local, ddl, [mapping("t", "k")]) as node, closing(node.source()) as source:
        done = threading.Event()
        probe = run(lambda: commit_until(done, postgres_db))
        node.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        node.sql("SELECT pg_reload_conf()")
        try:
            wait_for(lambda: node.sql(COMMITS_WAIT) == [(1,)])
            writer = run(lambda: insert(postgres_db))
            wait_for(lambda: shows(source, Changes))
            assert node.sql("SELECT k FROM t") == []
            read: list[int] = []
            reading = run(lambda: read.extend(read_after_watermark(node)))
            wait_for(lambda: shows(source, Watermark))
            looks: set[tuple[object, ...]] = set()  # when it looked, so that it did so twice at least
            wait_for(lambda: not reading.is_alive() or (looks.update(node.sql(LOOKS)) or len(looks)) > 1)
        finally:
            done.set()
            node.sql("ALTER SYSTEM RESET synchronous_standby_names")
            node.sql("SELECT pg_reload_conf()")
        probe.join(20)
        writer.join(20)
        reading.join(20)
        assert read == [1]


COMMITS_WAIT = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


LOOKS = """SELECT query_start FROM pg_stat_activity
WHERE query LIKE '%pg_snapshot_xip%' AND pid <> pg_backend_pid()"""


def commit_until(done: threading.Event, dsn: str) -> None:
    """The server takes a new setting up some time after it was told to: the first commit that waits tells."""
    with psycopg.connect(dsn, autocommit=True) as c:
        while not done.is_set():
            c.execute("INSERT INTO stranger VALUES (1)")


def read_after_watermark(node: PostgresNode) -> list[int]:
    node.snapshot.write_watermark("low")
    return node.snapshot.read_chunk(node.tables["t"], None, 10).column("k").to_pylist()


def shows(source: Source, kind: type) -> bool:
    return any(isinstance(e, kind) for e in source.poll(100, 0.2))


def insert(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as c:
        c.execute("INSERT INTO t VALUES (1)")


def run(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
