"""Go on with nodes that were paused: what waits for them is applied, and what was written there is read.

The others do not wait while a node catches up; 'sync-worker status' marks it with (lags) until it has. It is
on record in the audit log. Works whether the group runs or not.

Examples:
  sync-worker resume mongo
  sync-worker resume --all
"""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, add_address, add_json, load_config, print_json
from replication.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes."""
    parser.add_argument("node", nargs="*", metavar="NODE", help="a node of the configuration")
    parser.add_argument("--all", action="store_true", help="every node that is paused")
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Resume."""
    from cluster.running import way_of
    from cluster.steering import steer

    config = load_config(args)
    if not (args.node or args.all):
        message = "name what to resume: one or more nodes, or --all"
        raise ConfigError(message, hint="'sync-worker status' shows which are paused")
    nodes = [n.name for n in config.nodes] if args.all else args.node
    steered = steer(way_of(args, config), resume=nodes)
    if args.json:
        print_json({"group": config.group, "resumed": steered.changed, "paused": dict(steered.since)})
        return OK
    for node in nodes if not args.all else steered.changed:
        print(f"{node}: resumed" if node in steered.changed else f"{node}: was not paused")
    if args.all and not steered.changed:
        print("no node is paused")
    return OK
