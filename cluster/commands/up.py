"""Synchronise until stopped.

Reads the configuration, creates missing tables when `create_tables` says so, checks every node, copies what
`initial` names, and keeps the group in sync. Runs on Ray: started here by default, or a running cluster with
--address. SIGTERM or Ctrl-C drains and ends it. When a part fails, it starts again from the markers in the
databases: nothing is lost, nothing is applied twice.

For instance:
  sync-worker up -c sync.yaml
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING

from cluster.commands.common import FAILED, OK, load_config, noted_address, present_ray_token
from replication.errors import Fenced, NodeUnavailable, SyncError, Transient

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from cluster.launch import Group
    from cluster.processes import GroupPlan
    from replication.schema import Table

log = logging.getLogger(__name__)
CHECK_SECONDS = 0.5
COPYING_SECONDS = 0.2
START_SECONDS = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to run."""
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="a running Ray cluster, or `auto`; by default Ray is started here",
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    present_ray_token(args.address)
    from cluster.launch import connect, disconnect, gcs_address

    config = load_config(args)
    tables = _ready_tables(config)
    if tables is None:
        return FAILED
    connect(args.address, config.group)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which sets handlers of its own
        signal.signal(number, lambda *_: stopping.set())
    try:
        with noted_address(config.audit_path, gcs_address()):
            _run_group(_plan(config, tables, args.log_level), stopping)
    finally:
        disconnect()
    log.info("stopped", extra={"group": config.group})
    return OK


def _plan(config: GroupConfig, tables: tuple[Table, ...], log_level: str) -> GroupPlan:
    from actors.limits import Limits
    from cluster.processes import GroupPlan

    limits = Limits(
        poll_rows=max(1, config.limits.batch_rows // 2),
        batch_rows=config.limits.batch_rows,
        max_backlog=config.limits.max_unacked_rows,
        heartbeat=config.limits.heartbeat_seconds,
        retry_max=config.limits.retry_max_seconds,
    )
    path = config.audit_path.absolute()
    return GroupPlan(config.group, config.nodes, tables, config.shards, path, limits, log_level)


def _ready_tables(config: GroupConfig) -> tuple[Table, ...] | None:
    """Create what is missing and run preflight; None when a node cannot take part."""
    from cluster.topology import create_missing_tables, open_catalogs, read_topology

    with open_catalogs(config) as catalogs:
        topology = read_topology(config, catalogs)
        if config.create_tables:
            create_missing_tables(config, catalogs, topology)
        errors = 0
        for node, catalog in catalogs.items():
            for f in catalog.preflight(topology.tables):
                errors += f.level == "error"
                detail = {"node": node, "subject": f.subject, "finding": f.message, "remedy": f.remedy}
                log.log(logging.ERROR if f.level == "error" else logging.WARNING, "preflight", extra=detail)
        return None if errors else topology.tables


def _run_group(plan: GroupPlan, stopping: threading.Event) -> None:
    """Run incarnation after incarnation, until stopped.

    Raises:
        Terminal: trying again will not help.
    """
    from replication.errors import Terminal

    while not stopping.is_set():
        error = _run_incarnation(plan, stopping)
        if error is None:
            return
        if isinstance(error, Terminal) and not isinstance(error, Fenced):
            raise error
        log.error("group_restarts", extra={"group": plan.group, "error": str(error)})
        stopping.wait(1.0)


def _run_incarnation(plan: GroupPlan, stopping: threading.Event) -> BaseException | None:
    """Run one incarnation; the error that ended it, or None when it was stopped."""
    from cluster.launch import Group

    try:
        group = Group(plan)
    except Transient as away:  # a database; no part has been made
        return away
    error = _watch(group, plan, stopping)
    if error is None:
        group.stop()
    else:
        group.kill()
    return error


def _watch(group: Group, plan: GroupPlan, stopping: threading.Event) -> BaseException | None:
    """Look after a running incarnation; the error that ended it, or None when it was stopped."""
    try:
        group.begin()
        while not group.streaming():  # what it waits for may be lost before it ever streams
            if (error := _tend(group)) is not None:
                return error
            if stopping.wait(START_SECONDS):
                return None
        log.info("group_ready", extra={"group": plan.group, "nodes": sorted(plan.engines())})
        beat, copying = 0.0, True
        while not stopping.wait(COPYING_SECONDS if copying else CHECK_SECONDS):
            if (error := _tend(group)) is not None:
                return error
            copied = group.copied()
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


def _tend(group: Group) -> BaseException | None:
    """Replace lost resolvers; the error that ended a part, if any."""
    try:
        if group.lost():
            log.warning("resolver_lost", extra={"group": group.plan.group})
            group.renew()
            log.info("resolvers_resume", extra={"group": group.plan.group})
    except (Transient, TimeoutError) as away:  # a database, or a process that is not there yet
        log.warning("resolvers_wait", extra={"group": group.plan.group, "error": str(away)})
        return None
    return group.check()
