"""What the benchmarks of MySQL share: their table and its rows."""

from __future__ import annotations

from pymysql.connections import Connection

TRANSACTION = 1_000
"""Rows of one transaction of an application."""
OPTIONS = ("--innodb-buffer-pool-size=512M", "--innodb-redo-log-capacity=1G", "--local-infile=ON")
DDL = """CREATE TABLE {} (id bigint PRIMARY KEY, name varchar(100) NOT NULL, qty int, price decimal(12,2),
 at timestamp(6) NULL, flag boolean, note varchar(200))"""
_FILL = """INSERT INTO bench
 WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
 SELECT i, CONCAT('name ', i), i % 1000, (i % 100000) / 100,
 TIMESTAMP '2024-01-01 00:00:00' + INTERVAL i SECOND, i % 2 = 0,
 CONCAT('a note of about thirty letters ', i % 97) FROM n"""


def fill(c: Connection, rows: int) -> None:
    """Insert rows 1 to `rows`, a large transaction at a time."""
    for first in range(1, rows + 1, TRANSACTION):
        c.query(_FILL.format(first=first, last=min(first + TRANSACTION - 1, rows)))
