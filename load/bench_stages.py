"""The stages one by one: capture against a bare receive, apply against a bare COPY and upsert."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import closing

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import pq

from load.bench_bed import DDL, GROUP, Bed, Line, Sampler, Sizes, fill, read_table
from replication.batch import ApplyBatch, Outcome, TableRows, apply_schema
from replication.change import Changes, Op
from replication.engine import Engine
from replication.engines import load_engine
from replication.engines.postgres.config import object_name
from replication.engines.postgres.position import format_lsn, start_lsn
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig, Table, TableMapping

MAPPING = TableMapping("bench", ("id",), {"a": "bench"})
_HEADER = 25
GULP_SECONDS = 0.02
_INSERT = ord("I")
_TAKE_OVER = """SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
 WHERE slot_name = %s AND active"""
_UPSERT = """INSERT INTO bare SELECT * FROM incoming ON CONFLICT (id) DO UPDATE SET name = excluded.name,
 qty = excluded.qty, price = excluded.price, at = excluded.at, flag = excluded.flag, note = excluded.note"""


def capture(bed: Bed, sizes: Sizes) -> Line:
    """Read the same log bare and through the engine, twice each; the better of two counts."""
    with bed.database(0) as dsn:
        engine = load_engine(NodeConfig("a", "postgres", dsn), GROUP)
        table = read_table(engine, MAPPING)
        with closing(engine.control()) as control:
            start = control.prepare([table])
        fill(dsn, 1, sizes.rows)
        bare, ours = [], []
        _receive(dsn, start, sizes.rows)  # the server's first pass over its log is slower than the next ones
        for _ in range(2):
            bare.append(_receive(dsn, start, sizes.rows))
            with Sampler() as sampler:
                ours.append(poll(engine, table, start, sizes.rows))
    limit, rate = sizes.rows / min(bare), sizes.rows / min(ours)
    figure = f"{rate:,.0f} rows/s (bare {limit:,.0f})"
    ratio = rate / limit
    return Line("capture", figure, f"{ratio:.2f}", ">= 0.50", ratio >= 0.5, sampler.verdict())


def poll(engine: Engine, table: Table, start: Position, rows: int) -> float:
    """Seconds until so many rows are Arrow columns."""
    with closing(engine.source([table], start)) as source:
        began, seen = time.perf_counter(), 0
        while seen < rows:
            seen += sum(e.rows for e in source.poll(20_000, 10.0) if isinstance(e, Changes))
        return time.perf_counter() - began


def _receive(dsn: str, start: Position, rows: int) -> float:
    """Seconds to receive the messages of so many rows, without a look into them."""
    name = object_name(GROUP)
    command = (
        f'START_REPLICATION SLOT "{name}" LOGICAL {format_lsn(start_lsn(start))} '
        f"(proto_version '1', publication_names '{name}')"
    )
    with psycopg.connect(dsn) as c:  # the reader before us may still be held as connected
        c.execute(_TAKE_OVER, [name])
    with closing(psycopg.connect(dsn, replication="database", autocommit=True)) as c:
        pg = c.pgconn
        began = time.perf_counter()
        pg.send_query(command.encode())
        while pg.is_busy():
            select.select([pg.socket], [], [])
            pg.consume_input()
        result = pg.get_result()
        assert result is not None
        assert result.status == pq.ExecStatus.COPY_BOTH, result.error_message
        seen = 0
        while seen < rows:
            length, data = pg.get_copy_data(1)
            if length > _HEADER:
                seen += data[_HEADER] == _INSERT
            elif length == 0:
                if not select.select([pg.socket], [], [], 0)[0]:
                    time.sleep(GULP_SECONDS)  # for more to come: a reader woken for every message slows both
                pg.consume_input()
            assert length >= 0, "the server ended the stream"
        return time.perf_counter() - began


def apply(bed: Bed, sizes: Sizes) -> tuple[Line, float]:
    """Write the same batches bare and through the applier, alternating: first inserts, then updates.

    Returns:
        the line, and the bare rate in rows per second, which bounds every target.
    """
    with bed.database(0) as source_dsn, bed.database(1) as dsn:
        fill(source_dsn, 1, sizes.rows)
        source = load_engine(NodeConfig("a", "postgres", source_dsn), GROUP)
        table = read_table(source, MAPPING)
        batches = arrow_batches(source, table, sizes.batch)
        texts = _texts(source_dsn, sizes)
        engine = load_engine(NodeConfig("a", "postgres", dsn), GROUP)
        with closing(engine.control()) as control:
            control.prepare([table])
            (marker,) = control.raise_epoch(1, 1, Marker(GROUP, 0, 1, 0, 0))
        with Sampler() as sampler:
            bare, ours = _alternate(dsn, engine, table, marker, batches, texts)
    rows = 2 * sizes.rows
    limit, rate = rows / bare, rows / ours
    figure = f"{rate:,.0f} rows/s (bare {limit:,.0f})"
    ratio = rate / limit
    line = Line("apply", figure, f"{ratio:.2f}", ">= 0.70", ratio >= 0.7, sampler.verdict())
    return line, limit


def _alternate(
    dsn: str,
    engine: Engine,
    table: Table,
    marker: Marker,
    batches: Sequence[pa.RecordBatch],
    texts: Sequence[bytes],
) -> tuple[float, float]:
    bare = ours = 0.0
    seq = marker.seq
    with closing(engine.applier([table], ["postgres"])) as applier, psycopg.connect(dsn) as c:
        c.execute(DDL.format("bare").encode())
        c.execute("CREATE TEMP TABLE incoming (LIKE bare) ON COMMIT DELETE ROWS")
        c.commit()
        for rows, text in zip(batches, texts, strict=True):
            began = time.perf_counter()
            with c.transaction(), c.cursor() as cursor:
                with cursor.copy("COPY incoming FROM STDIN") as copy:
                    copy.write(text)
                cursor.execute(_UPSERT)
            between = time.perf_counter()
            batch_marker = Marker(GROUP, 0, 1, marker.epoch, seq + 1, seq)
            applied = applier.apply(ApplyBatch("a", batch_marker, [TableRows("bench", rows)]))
            ours += time.perf_counter() - between
            bare += between - began
            assert applied.outcome is Outcome.COMMITTED
            seq += 1
        _compare(c)
    return bare, ours


def _compare(c: psycopg.Connection) -> None:
    query = "SELECT count(*) FROM (TABLE bench EXCEPT TABLE bare) d"
    row = c.execute(query).fetchone()
    assert row == (0,), "both ways must have written the same rows"


def arrow_batches(engine: Engine, table: Table, size: int) -> list[pa.RecordBatch]:
    """The source's rows as apply batches, then the same with `qty` one higher."""
    schema = apply_schema(table.schema.arrow)
    inserts: list[pa.RecordBatch] = []
    with closing(engine.snapshot()) as snapshot:
        after: bytes | None = None
        while (chunk := snapshot.read_chunk(table, after, size)).num_rows:
            after = chunk.column("_key")[-1].as_py()
            n = chunk.num_rows
            system = {"_op": Op.UPDATE, "_origin": 0, "_hi": 1, "_lo": 1, "_hlc": 1}
            arrays = [
                chunk.column(f.name)
                if f.name in chunk.schema.names
                else pa.array([system.get(f.name)] * n, f.type)
                for f in schema
            ]
            inserts.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    place = schema.get_field_index("qty")
    one = pa.scalar(1, pa.int32())
    updates = [b.set_column(place, schema.field(place), pc.add(b.column(place), one)) for b in inserts]
    return inserts + updates


def _texts(dsn: str, sizes: Sizes) -> list[bytes]:
    """The same batches as COPY text."""
    texts = []
    with psycopg.connect(dsn) as c, c.cursor() as cursor:
        for qty in ("qty", "qty + 1"):
            for first in range(1, sizes.rows + 1, sizes.batch):
                query = (
                    f"COPY (SELECT id, name, {qty}, price, at, flag, note FROM bench "
                    f"WHERE id BETWEEN {first} AND {first + sizes.batch - 1} ORDER BY id) TO STDOUT"
                )
                with cursor.copy(query.encode()) as copy:
                    texts.append(b"".join(map(bytes, copy)))
    return texts
