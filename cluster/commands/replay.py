"""Apply again what the audit log has on record: the rows that some changes wrote go to every node once more.

Each row is sent as it is now, by the node that wrote it last, through the running group like any change; a
row whose newest write on record is a delete is deleted. A node that holds it already is left alone, so to
replay twice, or too much, does no harm. Rows on hold stay on hold.

Examples:
  sync-worker replay --table orders --key 4711
  sync-worker replay --since 2026-11-25T12:00 --until 2026-11-25T12:30
  sync-worker replay --node mongo --since 2026-11-25 --yes
"""

from __future__ import annotations

import argparse

from cluster.commands.audit_query import add_selection, query_of
from cluster.commands.common import OK, add_address, add_json, load_config, print_json
from replication.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which changes."""
    add_selection(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_address(parser)
    add_json(parser)
    parser.set_defaults(kind="change", actor=None, outcome=None)


def run(args: argparse.Namespace) -> int:
    """Show the plan, ask, send, and say what became of it."""
    from cluster.repair import carry_out
    from cluster.replay import make_plan
    from cluster.topology import load_tables

    if not any((args.since, args.until, args.key, args.trace)):
        message = "replay what?"
        raise ConfigError(
            message, hint="say --since, --until, --key or --trace; 'sync-worker audit query' shows changes"
        )
    config = load_config(args)
    plan = make_plan(config, load_tables(config), query_of(args))
    done = carry_out(args, config, plan, "replay")
    if args.json:
        print_json({"left_alone": plan.left, "done": done})
    return OK
