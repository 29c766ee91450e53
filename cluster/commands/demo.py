"""Start databases here, synchronise them in every direction, and verify.

Starts PostgreSQL, MySQL and a server that speaks MongoDB's protocol on free ports of this machine, loads
flights that left New York in 2013 into PostgreSQL, and starts `sync-worker up`, which copies them to the
others. Then writers change flights at every end, some rows at several at once, and at the end every row is
compared. Needs no configuration, and leaves nothing behind.

MySQL is the one that is installed, or on Debian the packages of its unstable release, fetched once into a
cache folder and not installed. Where neither is to be had, the demo says so and shows two nodes.

Exits 0 if all nodes hold the same rows, 1 if they do not.

Examples:
  sync-worker demo
  sync-worker demo --seconds 60 --rate 1000
  sync-worker demo --rows 20000 --keep
  sync-worker demo --without-mysql
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from itertools import permutations
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
NEW_FLIGHTS = 10_000_000
"""Ids from here on are those of flights that the writers add."""
LINE_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=15.0, metavar="N", help="write so long (15)")
    parser.add_argument("--rate", type=float, default=500.0, metavar="N", help="changes per second (500)")
    parser.add_argument("--rows", type=int, metavar="N", help="only so many flights (336776)")
    parser.add_argument("--without-mysql", action="store_true", help="PostgreSQL and MongoDB only")
    parser.add_argument("--keep", action="store_true", help="afterwards, go on until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Run the demo and give the exit code."""
    from cluster.demo.stack import start_servers
    from cluster.servers.process import ServerFailed

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False)
    started = time.monotonic()
    try:
        with start_servers(mysql=not args.without_mysql) as stack:
            console.print(f"started   {_listed([n.title for n in stack.nodes])} in {_since(started)}")
            if stack.without and not args.without_mysql:
                console.print(f"without   MySQL: {stack.without}", markup=False)
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
    load_tables(stack.nodes[0].dsn, tables)
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
    """Wait until the other nodes hold every row."""
    from cluster.demo.copying import CopyProgress

    started = shown = time.monotonic()
    total = sum(t.num_rows for t in tables.values())
    pause = threading.Event()
    spinner = console.status("copying") if console.is_terminal else nullcontext()
    with ExitStack() as opened, spinner as status:
        targets = [
            (n, opened.enter_context(closing(CopyProgress(n.connect(), tables)))) for n in stack.nodes[1:]
        ]
        while not all(p.finished() for _, p in targets):
            stack.check_up()
            if status is not None or time.monotonic() - shown > LINE_SECONDS:
                shown = time.monotonic()
                copied = ", ".join(f"{n.name} {p.copied():,}" for n, p in targets)
                line = f"copying   {copied} of {total:,} rows"
                console.print(line) if status is None else status.update(line)
            pause.wait(0.5)
    seconds = time.monotonic() - started
    names = _listed([n.name for n, _ in targets])
    console.print(f"copied    {total:,} rows to {names} in {seconds:.1f} s, {total / seconds:,.0f} rows/s")


def _write(
    stack: Stack, args: argparse.Namespace, flights: int, console: Console
) -> tuple[Sequence[Writer], Sequence[Probe], AuditCounts]:
    """Write at every end, then wait until it is quiet."""
    from cluster.demo.probes import Probe
    from cluster.demo.view import AuditCounts, View
    from cluster.demo.writers import Writer

    count = len(stack.nodes)
    writers = [
        Writer(n.name, n.connect, args.rate / count, flights, NEW_FLIGHTS + i, count)
        for i, n in enumerate(stack.nodes)
    ]
    probes = [
        Probe(f"{here.name} → {there.name}", number, here.connect, there.connect)
        for number, (here, there) in enumerate(permutations(stack.nodes, 2), 1)
    ]
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
    """Wait until probes sent after the last change have arrived, and all ends hold as many flights."""
    started = time.monotonic()
    sent = [len(p.seconds) for p in probes]
    pause = threading.Event()
    with ExitStack() as opened:
        ends = [opened.enter_context(closing(n.connect())) for n in stack.nodes]
        while time.monotonic() - started < QUIET_SECONDS:
            stack.check_up()
            # The one under way may be older than the last change; the one after it is not.
            arrived = all(len(p.seconds) >= n + 2 for p, n in zip(probes, sent, strict=True))
            if arrived:
                for probe in probes:
                    probe.stop()  # counting keeps a server busy for seconds, which is no lag of ours
                if len({end.flights() for end in ends}) == 1:
                    console.print(f"quiet     after {_since(started)}")
                    return
            pause.wait(0.1)
    console.print(f"not quiet after {QUIET_SECONDS:.0f} s")


def _verdict(
    stack: Stack, writers: Sequence[Writer], probes: Sequence[Probe], audit: AuditCounts, console: Console
) -> int:
    """Compare every row, and print what was found."""
    from cluster.comparison import Manner, compare
    from cluster.config import load
    from cluster.demo.view import conflict_text, lag_text
    from cluster.topology import load_tables
    from cluster.verify_report import report
    from replication.engines import load_engine

    for writer in writers:
        console.print(f"wrote     {writer.done:,} changes at {writer.node}")
    for probe in probes:
        console.print(f"lag       {lag_text(probe)}")
    console.print(f"conflicts {audit.conflicts.total():,}  {conflict_text(audit.conflicts)}")
    config = load(stack.config)
    engines = [load_engine(node, config.group) for node in config.by_priority()]
    started = time.monotonic()
    results = compare(engines, load_tables(config), Manner(limit=10))
    report(results, time.monotonic() - started, console)
    if any(r.counts for r in results):
        console.print("the nodes are NOT equal")
        return FAILED
    console.print("all nodes are equal")
    return OK


def _keep(stack: Stack, console: Console) -> None:
    for node in stack.nodes:
        console.print(f"{node.name:<14} {node.dsn}")
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


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
