"""Compare all rows on all nodes, and repair what differs.

Reads every table on every node in key order and compares whole columns. Where all nodes are PostgreSQL or
MySQL, and a table's key is of integers and its types have a text that is the same in both (integers, numeric,
boolean, text, bytes, uuid, dates and times), the databases compute checksums of parts of the table, and only
parts whose checksums differ are read. Applications may go on writing. Where
the group runs, a row that differs counts only if it still does after the group has read every node's log past
the moment of reading, and the logs show no change of the row meanwhile; a row that never comes to rest is
counted as changing. Where no group runs, rows that differ are read again after a quiet time, and count if
they differ in the end. A value that a node cannot hold in full, microseconds in MongoDB for one, is the same
if it is what that node makes of it.

--repair shows what it would do, asks, sends the right rows through the running group like any change, and
compares again. Which rows are right, the table's policies say: by default the node that wrote a row last, as
far as the audit log knows, else the one with the highest priority. A row that some nodes lack is sent to
them; only with --delete a row is deleted, where the node that decides lacks it.

How far it is, is noted every 20 seconds beside the configuration (FILE.verify), until it has come to its end:
--resume goes on after an interruption, if neither the nodes nor the tables have changed.

Examples:
  sync-worker verify --table orders
  sync-worker verify --repair

Exits 0 if all nodes hold the same rows, 1 if they do not, 2 if that could not be found out, also of rows that
kept changing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.commands.common import FAILED, OK, UNABLE, add_address, add_json, engines_of, load_config
from replication.errors import ConfigError
from replication.schema import Table

if TYPE_CHECKING:
    from cluster.comparison import Manner
    from cluster.config import GroupConfig
    from cluster.verify_progress import ProgressFile
    from cluster.verify_report import TableResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", action="append", metavar="T", help="only this table; may be repeated")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="show so many differences of each table (20)"
    )
    parser.add_argument(
        "--quiet-time",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="where no group runs: wait so long before differing rows are read again (1)",
    )
    tries = "read rows in doubt again so often (10; 3 where no group runs)"
    parser.add_argument("--tries", type=int, metavar="N", help=tries)
    parser.add_argument("--resume", action="store_true", help="go on where the last one was interrupted")
    parser.add_argument("--rows", action="store_true", help="read every row, where checksums would do")
    parser.add_argument("--repair", action="store_true", help="send the right rows where others are")
    parser.add_argument("--delete", action="store_true", help="with --repair: delete rows, too")
    parser.add_argument("--yes", action="store_true", help="with --repair: do not ask")
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, print, repair if asked to, and give the exit code."""
    from cluster.comparison import Manner
    from cluster.repair import REPAIRED_AT_ONCE, repair
    from cluster.topology import load_tables

    config = load_config(args)
    tables = choose(load_tables(config), args.table)
    keep = REPAIRED_AT_ONCE if args.repair else 0
    manner = Manner(args.limit, keep, args.quiet_time, args.tries, sums=not args.rows)
    book = _book(args, config, tables)
    results = _verify(args, config, tables, manner, book)
    book.remove()
    if args.repair and any(r.differing for r in results) and repair(args, config, results):
        again = [r.table for r in results if r.counts]
        results = _verify(args, config, again, replace(manner, keep=0))
    if any(r.differing for r in results):
        return FAILED
    return UNABLE if any(r.counts for r in results) else OK


def _book(args: argparse.Namespace, config: GroupConfig, tables: Sequence[Table]) -> ProgressFile:
    """How far it is: at the start, or where the last one was."""
    from cluster import verify_progress

    path, of = Path(args.config), verify_progress.fingerprint(config.group, config.nodes, tables)
    file = path.with_name(path.name + ".verify")
    book = verify_progress.ProgressFile(file, of, verify_progress.SAVE_SECONDS)
    if args.resume:
        book.load()
    return book


def _verify(
    args: argparse.Namespace,
    config: GroupConfig,
    tables: Sequence[Table],
    manner: Manner,
    book: ProgressFile | None = None,
) -> list[TableResult]:
    from cluster.comparison import compare
    from cluster.running import observed
    from cluster.verify_report import as_json, report

    started = time.monotonic()
    with observed(args, config) as parts:
        results = compare(list(engines_of(config).values()), tables, replace(manner, group=parts), book)
    if args.json:
        settled_by = {"settled_by": "group" if parts else "quiet time"}
        print(json.dumps(as_json(results) | settled_by, ensure_ascii=False))
    else:
        report(results, time.monotonic() - started, Console(soft_wrap=True, highlight=False))
    return results


def choose(tables: Sequence[Table], names: Sequence[str] | None) -> list[Table]:
    """The tables called `names`; all if there are none.

    Raises:
        ConfigError: one of them is not mapped.
    """
    known = {t.name: t for t in tables}
    for name in names or ():
        if name not in known:
            message = f"no table called {name!r}"
            raise ConfigError(message, hint=f"the configuration maps {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]
