"""Go on although a node's log was lost: accept the gap, mark it in the audit log, and copy anew.

A log is lost when the replication slot was dropped, the binlog purged, the oplog rolled over, or the database
restored or replaced. `up` then stops and says so: what was written to that node since is unknown, and going
on would leave it out in silence. After a reset the next `up` reads the log from now on and copies every
table, from the node itself unless --from names another one.

From the node itself: what was written there in the gap goes to the others and replaces what they hold. From
another node: its rows replace what the node holds, as after a restore of an old backup. Either way rows that
only one side holds stay where they are, and deletes in the gap are not known: see 'sync-worker verify'.

Examples:
  sync-worker reset pg
  sync-worker reset pg --from mongo --yes
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from cluster.commands.common import FAILED, OK, add_json, engines_of, load_config, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which node, and whose rows."""
    parser.add_argument("node", metavar="NODE", help="the node whose log was lost")
    parser.add_argument(
        "--from", dest="source", metavar="NODE", help="whose rows are copied (default: that node's)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Reset; 1 when nobody agreed."""
    from cluster.lease import at_rest
    from cluster.reset import other_source, reset
    from cluster.topology import load_tables

    config = load_config(args)
    source = other_source(config, args.node, args.source)
    tables = load_tables(config)
    if not (args.yes or _agreed(args.node, source)):
        print("nothing was changed", file=sys.stderr)
        return FAILED
    hint = "stop it first; a log is lost for good when 'sync-worker up' says so"
    with at_rest(config.group, engines_of(config), hint):
        gap = reset(config, tables, args.node, source)
    if args.json:
        print_json(asdict(gap))
    else:
        print(f"{args.node}: the log is read from now on; the gap is marked in the audit log")
        print(f"'sync-worker up' copies {len(tables)} tables from {source} when it starts next")
    return OK


def _agreed(node: str, source: str) -> bool:
    becomes = "copied with its rows" if source == node else f"replaced by the rows of {source}"
    what = f"what was written to {node} and has not reached the others is {becomes}"
    print(f"The log of {node} is given up where it was left and read from now on;\n{what}.", file=sys.stderr)
    if not sys.stdin.isatty():
        print("--yes resets without asking", file=sys.stderr)
        return False
    return input("reset? [y/N] ").strip().lower() in ("y", "yes")
