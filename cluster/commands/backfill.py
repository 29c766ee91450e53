"""Copy a table again from one node to the others, while the group runs and applications write.

Where another node holds a different row, it gets this node's, unless an application writes it meanwhile; rows
that only others hold stay. A copy that was interrupted goes on where it was. With --workers several processes
read at once; where the table is being copied, initially or by another command, that copy goes on by so many.

For instance:
  sync-worker backfill orders --from pg --workers 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.commands.common import OK, add_address, add_json, load_config, print_json, worker_count
from cluster.commands.status import held_text
from cluster.locks import somebody_acts
from replication.errors import ConfigError

if TYPE_CHECKING:
    from actors.backfill import CopyStatus
    from cluster.config import GroupConfig
    from cluster.running import Way
    from replication.schema import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to copy, and from where."""
    parser.add_argument("table", metavar="TABLE", help="the table, as the configuration calls it")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NODE",
        help="whose rows (default: the node of the initial copy, else the one with the highest priority)",
    )
    parser.add_argument(
        "--workers",
        type=worker_count,
        metavar="N",
        help="so many processes read at once (default: 1); also for a copy that is at work",
    )
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Copy, with a progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from cluster.commands.verify import choose
    from cluster.running import way_of
    from cluster.topology import load_tables

    config = load_config(args)
    (table,) = choose(load_tables(config), [args.table])
    node, way = source_of(config, table, args.source), way_of(args, config)
    if args.workers and resized(way, table, node, args.workers):
        if args.json:
            print_json({"table": table.name, "from": node, "workers": args.workers})
        else:
            print(f"{table.name} is being copied from {node}, from now on by {args.workers} readers")
        return OK
    began = time.monotonic()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(table.name, total=None)

        def report(status: CopyStatus) -> None:
            held = f" ({held_text(status)})" if status.held_to else ""
            shown = f"{table.name}{held}"
            bar.update(task, completed=status.rows, total=status.estimate or None, description=shown)

        rows = copy_again(way, table, node, report, args.workers or 1)
    seconds = round(time.monotonic() - began, 1)
    if args.json:
        print_json({"table": table.name, "from": node, "rows": rows, "seconds": seconds})
    else:
        print(f"copied {rows:,} rows of {table.name} from {node} in {seconds} s")
    return OK


def resized(way: Way, table: Table, node: str, workers: int) -> bool:
    """Let so many readers read for the copy of a table that is at work; False where none is."""
    with way.enter() as group:
        at_work = somebody_acts(way.config.audit_path) or group.copies_first(table, node)
        if not at_work or not group.resize_copy(table, node, workers):
            return False
        group.note("backfill_resized", {"table": table.name, "from": node, "workers": workers})
    return True


def copy_again(
    way: Way, table: Table, node: str, report: Callable[[CopyStatus], object], workers: int = 1
) -> int:
    """Copy a table from one node to the others, and put it on record; gives the rows."""
    with way.open() as group:
        group.note("backfill_started", {"table": table.name, "from": node})
        rows = group.copy_table(table, node, report, workers)
        group.note("backfill_finished", {"table": table.name, "from": node, "rows": rows})
    return rows


def source_of(config: GroupConfig, table: Table, named: str | None) -> str:
    """The node to copy from.

    Raises:
        ConfigError: there is no node of that name.
    """
    names = [node.name for node in config.by_priority()]
    if named and named not in names:
        message = f"no node called {named!r}"
        raise ConfigError(message, hint=f"the configuration has {', '.join(names)}")
    initial = table.mapping.initial
    return named or (initial if initial in names else names[0])
