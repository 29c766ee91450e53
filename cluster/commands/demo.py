"""Start databases here, synchronise them both ways, and verify.

Starts PostgreSQL and a server that speaks MongoDB's protocol on free ports of this machine, loads flights
that left New York in 2013 into PostgreSQL, and starts `sync-worker up`, which copies them to MongoDB. Then
writers change flights at both ends, some rows at both at once, and at the end every row of both is
compared. Needs no configuration, and leaves nothing behind.

Exits 0 if all nodes hold the same rows, 1 if they do not.

Examples:
  sync-worker demo
  sync-worker demo --seconds 60 --rate 1000
  sync-worker demo --rows 20000 --keep
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from cluster.commands.common import FAILED, OK, UNABLE

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.demo.probes import Probe
    from cluster.demo.stack import Stack
    from cluster.demo.view import AuditCounts
    from cluster.demo.writers import Writer

QUIET_SECONDS = 60.0
LINE_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N", help="write so long (20)")
    parser.add_argument("--rate", type=float, default=500.0, metavar="N", help="changes per second (500)")
    parser.add_argument("--rows", type=int, metavar="N", help="only so many flights (336776)")
    parser.add_argument("--keep", action="store_true", help="afterwards, go on until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Run the demo and give the exit code."""
    from cluster.demo.stack import start_servers
    from cluster.servers.process import ServerFailed

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False)
    started = time.monotonic()
    try:
        with start_servers() as stack:
            console.print(f"started   PostgreSQL and a MongoDB-protocol server in {_since(started)}")
            code = _demo(stack, args, console)
            console.print(f"took      {_since(started)}")
            if args.keep:
                _keep(stack, console)
    except ServerFailed as error:
        console.print(f"error: {error}", markup=False)
        return UNABLE
    return code


def _demo(stack: Stack, args: argparse.Namespace, console: Console) -> int:
    from cluster.demo.data import FLIGHTS, load_tables, read_tables

    started = time.monotonic()
    tables = read_tables(args.rows)
    load_tables(stack.postgres, tables)
    rows = sum(t.num_rows for t in tables.values())
    console.print(f"loaded    {rows:,} rows of {len(tables)} tables into PostgreSQL in {_since(started)}")
    stack.write_config()
    started = time.monotonic()
    stack.start_up()
    console.print(f"ready     sync-worker up in {_since(started)}")
    _copy(stack, tables, console)
    writers, probes, audit = _write(stack, args, tables[FLIGHTS].num_rows, console)
    return _verdict(stack, writers, probes, audit, console)


def _copy(stack: Stack, tables: Mapping[str, pa.Table], console: Console) -> None:
    """Wait until MongoDB holds every row."""
    from cluster.demo.copying import CopyProgress

    started = shown = time.monotonic()
    total = sum(t.num_rows for t in tables.values())
    pause = threading.Event()
    spinner = console.status("copying") if console.is_terminal else nullcontext()
    with closing(CopyProgress(stack.mongodb, tables)) as progress, spinner as status:
        while not progress.finished():
            stack.check_up()
            line = f"copying   {progress.copied():,} of {total:,} rows"
            if status is not None:
                status.update(line)
            elif time.monotonic() - shown > LINE_SECONDS:
                shown = time.monotonic()
                console.print(line)
            pause.wait(0.5)
    seconds = time.monotonic() - started
    console.print(f"copied    {total:,} rows to MongoDB in {seconds:.1f} s, {total / seconds:,.0f} rows/s")


def _write(
    stack: Stack, args: argparse.Namespace, flights: int, console: Console
) -> tuple[Sequence[Writer], Sequence[Probe], AuditCounts]:
    """Write at both ends, then wait until it is quiet."""
    from cluster.demo.probes import MongoEnd, PostgresEnd, Probe
    from cluster.demo.view import AuditCounts, View
    from cluster.demo.writers import MongoWriter, PostgresWriter

    new = 10_000_000
    writers: list[Writer] = [
        PostgresWriter(stack.postgres, args.rate / 2, flights, new),
        MongoWriter(stack.mongodb, args.rate / 2, flights, new + 1),
    ]
    ends: tuple[Any, Any] = (lambda: PostgresEnd(stack.postgres), lambda: MongoEnd(stack.mongodb))
    probes = [Probe("pg → mongo", 1, *ends), Probe("mongo → pg", 2, *reversed(ends))]
    audit = AuditCounts(stack.audit)
    view = View(writers, probes, audit, args.seconds)
    threads: list[Writer | Probe] = [*writers, *probes]
    for thread in threads:
        thread.start()
    try:
        _watch(stack, view, threads, args.seconds, console)
        for writer in writers:
            writer.stop()
        _await_quiet(stack, probes, console)
    finally:
        for thread in threads:
            thread.stop()
    view.update()
    return writers, probes, audit


def _watch(
    stack: Stack, view: Any, threads: Sequence[Writer | Probe], seconds: float, console: Console
) -> None:
    end = time.monotonic() + seconds
    pause = threading.Event()
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while (left := end - time.monotonic()) > 0:
            pause.wait(min(left, 1.0))
            stack.check_up()
            for thread in threads:
                if thread.error is not None:
                    raise thread.error
            view.update()
            if live is None:
                console.print(view.line())
            else:
                live.update(view.grid(), refresh=True)


def _await_quiet(stack: Stack, probes: Sequence[Probe], console: Console) -> None:
    """Wait until probes sent after the last change have arrived, and both ends hold as many flights."""
    from cluster.demo.copying import count_flights

    started = time.monotonic()
    sent = [len(p.seconds) for p in probes]
    pause = threading.Event()
    while time.monotonic() - started < QUIET_SECONDS:
        stack.check_up()
        # The one under way may be older than the last change; the one after it is not.
        if all(len(p.seconds) >= n + 2 for p, n in zip(probes, sent, strict=True)):
            counts = count_flights(stack.postgres, stack.mongodb)
            if counts[0] == counts[1]:
                console.print(f"quiet     after {_since(started)}")
                return
        pause.wait(0.1)
    console.print(f"not quiet after {QUIET_SECONDS:.0f} s")


def _verdict(
    stack: Stack, writers: Sequence[Writer], probes: Sequence[Probe], audit: AuditCounts, console: Console
) -> int:
    """Compare every row, and print what was found."""
    from cluster.commands.verify import compare, report
    from cluster.config import load
    from cluster.demo.view import conflict_text, lag_text
    from cluster.topology import load_tables
    from replication.engines import load_engine

    for writer in writers:
        console.print(f"wrote     {writer.done:,} changes at {writer.node}")
    for probe in probes:
        console.print(f"lag       {lag_text(probe)}")
    console.print(f"conflicts {audit.conflicts.total():,}  {conflict_text(audit.conflicts)}")
    config = load(stack.config)
    engines = [load_engine(node, config.group) for node in config.by_priority()]
    started = time.monotonic()
    results = compare(engines, load_tables(config), limit=10, tries=3, quiet_time=1.0)
    report(results, time.monotonic() - started, console)
    if any(r.counts for r in results):
        console.print("the nodes are NOT equal")
        return FAILED
    console.print("all nodes are equal")
    return OK


def _keep(stack: Stack, console: Console) -> None:
    console.print(f"PostgreSQL     {stack.postgres}")
    console.print(f"MongoDB        {stack.mongodb}")
    console.print(f"configuration  {stack.config}")
    console.print("running until Ctrl-C")
    pause = threading.Event()
    try:
        while not pause.wait(1.0):
            stack.check_up()
    except KeyboardInterrupt:
        console.print("stopping")


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
