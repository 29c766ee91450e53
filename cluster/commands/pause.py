"""Let nodes be: nothing is applied to them, and what applications write there is not read on.

The other nodes go on with each other. A paused node is like one that is away: what waits for it is kept in
memory, `limits.max_away_rows` rows at most, and then the others wait too. All logs are kept from then on and
take room. The pause outlasts a restart of the group. It ends with 'sync-worker resume', and then the node
catches up; writes to one row on both sides of the pause are conflicts, and settled as ever.

Returns once the node has answered what was on its way to it. It is on record in the audit log, and
'sync-worker status' shows it. Works whether the group runs or not.

Examples:
  sync-worker pause mongo
  sync-worker pause mongo my --json
"""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, add_address, add_json, load_config, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes."""
    parser.add_argument("node", nargs="+", metavar="NODE", help="a node of the configuration")
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Pause."""
    from cluster.running import way_of
    from cluster.steering import steer

    config = load_config(args)
    steered = steer(way_of(args, config), pause=args.node)
    if args.json:
        print_json({"group": config.group, "paused": dict(steered.since), "on_their_way": steered.left})
        return OK
    for node in args.node:
        print(f"{node}: paused since {steered.since[node]}; go on with: sync-worker resume {node}")
    if steered.left:
        print(f"sent before and not answered: {steered.left} transactions; they may still be applied")
    return OK
