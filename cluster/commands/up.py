"""Synchronise until stopped.

Reads the configuration, creates missing tables when `create_tables` says so, checks every node, copies what
`initial` names, and keeps the group in sync. Runs on Ray: started here by default, or a running cluster with
--address. SIGTERM or Ctrl-C drains and ends it. When a part fails, it starts again from the markers in the
databases: nothing is lost, nothing is applied twice. A group begins once all of its nodes are there: while
one is away, `up` waits for it and says so, here and in `status`.

One `up` runs a group. A second one, on this or on another machine, stands by and takes over when the first
has gone.

Where the file names another number of shards than the group has, that is changed before it starts, while
applications go on writing.

A mapped table whose columns change, or that is truncated, is dealt with as its `schema` and `truncate` say.
Where that is `halt`, the group ends, and --accept TABLE goes on with the table as it is now.

For instance:
  sync-worker up -c sync.yaml
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.commands.common import (
    FAILED,
    OK,
    engines_of,
    load_config,
    noted_address,
    present_ray_token,
    worker_count,
)
from replication.errors import (
    Fenced,
    LogLost,
    NodeUnavailable,
    SchemaChanged,
    ShardsDiffer,
    SyncError,
    Transient,
)

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from cluster.interface import Interface
    from cluster.launch import Group
    from cluster.lease import GroupLease
    from cluster.plan import GroupPlan
    from cluster.ready import Ready
    from cluster.retrying import Retrier
    from cluster.waiting import Waiting
    from replication.schema import Table

log = logging.getLogger(__name__)
CHECK_SECONDS = 0.5
COPYING_SECONDS = 0.2
LOOK_SECONDS = 1.0
START_SECONDS = 0.05
TELL_SECONDS = 5.0
"""So often the log says how far the copies are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to run."""
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="a running Ray cluster, or `auto`; by default Ray is started here",
    )
    parser.add_argument(
        "--no-dashboard",
        dest="dashboard",
        action="store_false",
        help="start Ray without its dashboard, autoscaler and log monitor: about 450 MiB less",
    )
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="TABLE",
        help="go on with this table as it is now, after its change has halted the group; may be repeated",
    )

    parser.add_argument(
        "--workers",
        type=worker_count,
        default=1,
        metavar="N",
        help="how many processes read for an initial copy at once, of each node but MongoDB (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    present_ray_token(args.address)
    from cluster.waiting import GaveUp, Waiting

    config = load_config(args)
    stopping = threading.Event()
    stop_on_signals(stopping)
    waiting = Waiting(config.audit_path, config.group, stopping, config.limits.retry_max_seconds)
    code = OK
    with closing(waiting), suppress(GaveUp):
        code = _run_until(config, args, waiting)
    log.info("stopped", extra={"group": config.group})
    return code


def _run_until(config: GroupConfig, args: argparse.Namespace, waiting: Waiting) -> int:
    """Run the group, or stand by, as often as another process takes it over."""
    from cluster.lease import GroupLease
    from cluster.ready import can_start
    from cluster.waiting import GaveUp

    code = OK if waiting.until("start", lambda: can_start(config)) else FAILED
    while not waiting.stopping.is_set() and code == OK:
        with closing(GroupLease(config.group, engines_of(config))) as lease, suppress(GaveUp):
            if lease.acquire(waiting):
                with _halts_noted(config):
                    code = _run_leased(config, args, lease, waiting)
        waiting.replaced = lambda: None
    return code


@contextmanager
def _halts_noted(config: GroupConfig) -> Iterator[None]:
    """Put it on record when a lost log ends the block, so that `status` can say so."""
    from cluster.running import note_at_rest

    try:
        yield
    except LogLost as lost:
        with suppress(SyncError, OSError):
            detail = {"node": lost.node, "error": lost.message, "hint": lost.hint}
            note_at_rest(config, [("halted", detail)])
        raise


def stop_on_signals(stopping: threading.Event) -> None:
    """SIGTERM and SIGINT set `stopping`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def _run_leased(config: GroupConfig, args: argparse.Namespace, lease: GroupLease, waiting: Waiting) -> int:
    """Run the group until it is stopped, or until another process has taken it over."""
    from cluster.interface import interface_of
    from cluster.launch import connect, disconnect, gcs_address
    from cluster.local_ray import RayWatch
    from cluster.ready import make_ready
    from cluster.reset import requested_copies

    waiting.replaced = lambda: lease.lost
    # While this process stood by, much may have changed.
    ready = waiting.until("start", lambda: make_ready(config, args.accept))
    args.accept = []  # of what happens from now on, nothing
    if ready is None:
        return FAILED
    sources = waiting.until("start", lambda: requested_copies(config))
    connect(args.address, config.group, dashboard=args.dashboard)
    stop_on_signals(waiting.stopping)  # again: Ray has set handlers of its own
    watch = RayWatch(args.address, before=lease.close)
    interface = interface_of(config, args.log_level, own_ray=not args.address)
    try:
        with noted_address(config.audit_path, gcs_address()):
            _run_group(config, ready, sources, args, lease, waiting, interface)
    finally:
        watch.stop()
        interface.stop()
        disconnect()
    return OK


def _plan(config: GroupConfig, tables: tuple[Table, ...], args: argparse.Namespace) -> GroupPlan:
    from actors.limits import Limits
    from cluster.copying import bounds_of
    from cluster.plan import GroupPlan

    whole = config.ordering == "transaction"
    limits = Limits(
        # What one poll brings is sent together, so it must hold any transaction that is to stay whole.
        poll_rows=config.limits.max_unacked_rows if whole else max(1, config.limits.batch_rows // 2),
        batch_rows=config.limits.batch_rows,
        max_backlog=config.limits.max_unacked_rows,
        max_away=max(config.limits.max_away_rows, config.limits.max_unacked_rows),
        whole=whole,
        heartbeat=config.limits.heartbeat_seconds,
        retry_max=config.limits.retry_max_seconds,
        copy_workers=args.workers,
        copy_bounds=bounds_of(config.limits),
    )
    path = config.audit_path.absolute()
    return GroupPlan(
        *(config.group, config.nodes, tables, config.shards, path, limits, args.log_level, config.audit),
        *(config.kafka, config.tracing),
        one_machine=not args.address,
    )


def _run_group(
    config: GroupConfig,
    ready: Ready,
    sources: Mapping[str, str],
    args: argparse.Namespace,
    lease: GroupLease,
    waiting: Waiting,
    interface: Interface,
) -> None:
    """Run incarnation after incarnation, until stopped or replaced by another process.

    Raises:
        Terminal: trying again will not help.
    """
    from cluster.reset import with_copies
    from replication.errors import Terminal

    while not waiting.stopping.is_set():
        plan = _plan(config, with_copies(ready.tables, sources), args)
        error = _run_incarnation(config, plan, ready, lease, waiting, interface)
        if error is None:
            return
        if other := lease.lost:
            log.error("replaced", extra={"group": plan.group, "by": other})
            return
        if isinstance(error, SchemaChanged):
            ready = _changed(config, ready, error, waiting.stopping)
            continue
        if isinstance(error, Terminal) and not isinstance(error, Fenced):
            raise error
        log.error("group_restarts", extra={"group": plan.group, "error": str(error)})
        waiting.stopping.wait(1.0)


def _changed(config: GroupConfig, ready: Ready, error: SchemaChanged, stopping: threading.Event) -> Ready:
    """What the group goes on with after a table was changed.

    Raises:
        SchemaChanged: somebody must settle it.
    """
    from cluster.ready import go_on

    detail = {"group": config.group, "table": error.table, "node": error.node, "change": error.message}
    log.warning("schema_changed", extra=detail)
    while not stopping.is_set():
        try:
            return go_on(config, ready.tables, error)
        except Transient as away:  # a database, or an application that holds the table
            log.warning("schema_change_waits", extra={"group": config.group, "error": str(away)})
            stopping.wait(1.0)
    return ready


def _run_incarnation(
    config: GroupConfig,
    plan: GroupPlan,
    ready: Ready,
    lease: GroupLease,
    waiting: Waiting,
    interface: Interface,
) -> BaseException | None:
    """Run one incarnation; the error that ended it, or None when it was stopped."""
    try:
        group = waiting.until("start", lambda: _made(plan, waiting))  # without a database no part is made
    except (SchemaChanged, Fenced) as ended:
        return ended
    with closing(_retrier(config, group)) as retrier:
        error = _watch(group, retrier, ready, lease, waiting, interface)
    if error is None or isinstance(error, SchemaChanged):
        group.stop()
    else:
        group.kill()
    return error


def _made(plan: GroupPlan, waiting: Waiting) -> Group:
    """The parts of a group, with as many shards as the plan names, or if that cannot be, as there are."""
    from cluster.launch import Group
    from cluster.reshard import with_shards

    try:
        return Group(plan)
    except ShardsDiffer:
        return Group(with_shards(plan, waiting))


def _retrier(config: GroupConfig, group: Group) -> Retrier:
    """What sends rows again that a node refuses; it has not begun."""
    from cluster.retries.stores import open_store
    from cluster.retrying import Retrier, RetryWork

    parts = {part.name: part for part in group.parts}
    clear = not config.audit.is_encrypted
    plan = group.plan
    work = RetryWork(plan.tables, plan.engines(), parts, config.retries, config.audit_path, clear)
    return Retrier(work, lambda: open_store(config))


def _watch(
    group: Group,
    retrier: Retrier,
    ready: Ready,
    lease: GroupLease,
    waiting: Waiting,
    interface: Interface,
) -> BaseException | None:
    """Look after a running incarnation; the error that ended it, or None when it was stopped."""
    from cluster.node_states import NodeWatch

    plan, stopping = group.plan, waiting.stopping
    try:
        group.begin()
        group.note("schema_change", [asdict(note) for note in ready.notes])
        ready.notes.clear()
        while not group.streaming():  # what it waits for may be lost before it ever streams
            if (error := _tend(group, lease, waiting)) is not None:
                return error
            if stopping.wait(START_SECONDS):
                return None
        log.info("group_ready", extra={"group": plan.group, "nodes": sorted(plan.engines())})
        interface.begin()
        retrier.start()
        beat, looked, copying, nodes, told = 0.0, 0.0, True, NodeWatch(), time.monotonic()
        while not stopping.wait(COPYING_SECONDS if copying else CHECK_SECONDS):
            if (error := _tend(group, lease, waiting)) is not None:
                return error
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                nodes.look(group.guards())
            copied = group.copied()
            if not copied and time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                _tell_copies(group)
            if copying and copied and group.copies:
                log.info("copy_finished", extra={"group": plan.group})
            copying = not copied
            if copying or time.monotonic() - beat > plan.limits.heartbeat:
                beat = time.monotonic()
                group.heartbeat()
    except SyncError as error:
        return error
    except TimeoutError:  # a process that hangs, or a machine with too much to do: make all of them again
        return NodeUnavailable("a part of the group does not answer")
    return None


def _tell_copies(group: Group) -> None:
    from cluster.commands.status import time_left

    for node, copy in group.copies.items():
        for c in copy.call("status").result():
            if not c.finished:
                done = {"rows": c.rows, "of_about": c.estimate}
                pace = {"rows_per_second": round(c.rows_per_second), "left": time_left(c)}
                held = {"held_to": round(c.held_to), "because": c.because} if c.held_to else {}
                log.info("copy_progress", extra={"table": c.table, "from": node, **done, **pace, **held})


def _tend(group: Group, lease: GroupLease, waiting: Waiting) -> BaseException | None:
    """Replace lost resolvers; the error that ended a part, if any."""
    if other := lease.lost:
        message = f"the group is run by {other} now"
        return Fenced(message)
    try:
        if group.lost():
            if not waiting.due:
                return None
            log.warning("resolver_lost", extra={"group": group.plan.group})
            group.renew()
            log.info("resolvers_resume", extra={"group": group.plan.group})
            waiting.over()
    except (Transient, TimeoutError) as away:
        if isinstance(away, NodeUnavailable) and away.node:
            waiting.away("resolvers", away)
        else:  # a process that is not there yet
            log.warning("resolvers_wait", extra={"group": group.plan.group, "error": str(away)})
        return None
    return group.check()
