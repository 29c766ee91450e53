"""Go on with nodes and tables that were paused: what waits is applied, and what was written there is read.

The others do not wait while a node catches up; 'sync-worker status' marks it with (lags) until it has. It is
on record in the audit log. Works whether the group runs or not.

Examples:
  sync-worker resume mongo
  sync-worker resume --table orders
  sync-worker resume --all
"""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, add_address, add_json, add_steered, load_config, print_json
from replication.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes and tables."""
    add_steered(parser)
    parser.add_argument("--all", action="store_true", help="every node and table that is paused")
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Resume."""
    from cluster.running import way_of
    from cluster.steering import Wanted, steer

    config = load_config(args)
    if not (args.node or args.table or args.all):
        message = "name what to resume: one or more nodes, --table T, or --all"
        raise ConfigError(message, hint="'sync-worker status' shows what is paused")
    nodes = [n.name for n in config.nodes] if args.all else args.node
    tables = [m.name for m in config.tables] if args.all else args.table
    steered = steer(way_of(args, config), resume=Wanted(nodes, tables))
    if args.json:
        resumed = {"resumed": steered.changed, "resumed_tables": steered.changed_tables}
        paused = {"paused": dict(steered.since), "paused_tables": dict(steered.tables)}
        print_json({"group": config.group, **resumed, **paused})
        return OK
    for node in nodes if not args.all else steered.changed:
        print(f"{node}: resumed" if node in steered.changed else f"{node}: was not paused")
    for table in tables if not args.all else steered.changed_tables:
        what = "resumed" if table in steered.changed_tables else "was not paused"
        print(f"table {table}: {what}")
    if args.all and not (steered.changed or steered.changed_tables):
        print("nothing is paused")
    return OK
