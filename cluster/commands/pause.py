"""Let nodes or tables be, until 'sync-worker resume'.

Nothing is applied to a paused NODE, and what applications write there is not read on; the other nodes go on
with each other. It is like a node that is away.

Nothing of a paused table (--table) goes to any node; all other tables go on. What applications write to it
is taken on, and sent once it is resumed. With 'ordering: transaction' one of several tables cannot be paused.

Either way what waits is kept in memory, `limits.max_away_rows` rows for each node at most, and then everyone
waits. All logs are kept from then on, for all tables, and take room; 'sync-worker status' shows since when,
and how many rows wait. A pause outlasts a restart of the group. Writes to one row on both sides of it are
conflicts, and settled as ever.

Returns once the nodes have answered what was on its way to them. It is on record in the audit log. Works
whether the group runs or not.

Examples:
  sync-worker pause mongo
  sync-worker pause mongo my --json
  sync-worker pause --table orders --table order_lines
"""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, add_address, add_json, add_steered, load_config, print_json
from replication.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes and tables."""
    add_steered(parser)
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Pause."""
    from cluster.running import way_of
    from cluster.steering import Wanted, steer

    config = load_config(args)
    if not (args.node or args.table):
        message = "name what to pause: one or more nodes, or --table T"
        raise ConfigError(message, hint="nodes: " + ", ".join(n.name for n in config.nodes))
    steered = steer(way_of(args, config), pause=Wanted(args.node, args.table))
    if args.json:
        paused = {"paused": dict(steered.since), "paused_tables": dict(steered.tables)}
        print_json({"group": config.group, **paused, "on_their_way": steered.left})
        return OK
    for node in args.node:
        print(f"{node}: paused since {steered.since[node]}; go on with: sync-worker resume {node}")
    for table in args.table:
        on = f"sync-worker resume --table {table}"
        print(f"table {table}: paused since {steered.tables[table]}; all logs are kept; go on with: {on}")
    if steered.left:
        print(f"sent before and not answered: {steered.left} transactions; they may still be applied")
    return OK
