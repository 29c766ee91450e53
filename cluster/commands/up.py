"""Synchronise until stopped.

Reads the configuration, creates missing tables when `create_tables` says so, checks every node, copies what
`initial` names, and keeps the group in sync. Runs in this one process; SIGTERM or Ctrl-C ends it. When a part
fails, the group starts again from the markers in the databases: nothing is lost, nothing is applied twice.

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

from cluster.commands.common import FAILED, OK, load_config

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from replication.schema import Table

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    config = load_config(args)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    tables = _ready_tables(config)
    if tables is None:
        return FAILED
    while not stopping.is_set():
        _incarnation(config, tables, stopping)
    log.info("stopped", extra={"group": config.group})
    return OK


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


def _incarnation(config: GroupConfig, tables: tuple[Table, ...], stopping: threading.Event) -> None:
    """Run the group once, until it is stopped or a part of it fails.

    Raises:
        Terminal: trying again will not help.
    """
    from actors.pipeline import Limits, Pipeline
    from replication.audit.writer import AuditWriter
    from replication.engines import load_engine
    from replication.errors import Terminal

    engines = {n.name: load_engine(n, config.group) for n in config.nodes}
    writer = AuditWriter(
        config.audit_path, config.group, lambda: time.time_ns() // 1000, shards=config.shards
    )
    limits = Limits(
        max_backlog=config.limits.max_unacked_rows,
        heartbeat=config.limits.heartbeat_seconds,
        retry_max=config.limits.retry_max_seconds,
    )
    pipeline = Pipeline(config.group, engines, tables, writer, config.shards, limits)
    log.info("group_ready", extra={"group": config.group, "nodes": sorted(engines), "tables": len(tables)})
    try:
        while not stopping.is_set() and not pipeline.stopping.wait(0.2):
            pass
    finally:
        pipeline.stop()
    if isinstance(pipeline.error, Terminal):
        raise pipeline.error
    if pipeline.error is not None:
        log.error("group_restarts", extra={"group": config.group, "error": str(pipeline.error)})
        stopping.wait(1.0)
