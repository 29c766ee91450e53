"""List rows that are on hold: what a node refuses to take, and what it holds but the others cannot.

Everything else goes on. A row leaves this list once it was written again: mend it where it was written, or
make the node accept it and write the row once more. Reads the audit log only; no database and no running
group is needed.

Examples:
  sync-worker dlq list
  sync-worker dlq list --table orders --json
"""

from __future__ import annotations

import argparse
from typing import Any

from cluster.commands.common import (
    OK,
    add_audit_folder,
    add_json,
    audit_folder,
    print_json,
    print_lines,
    time_text,
)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `dlq list`."""
    parser.add_argument("--table", metavar="T", help="only of this table")
    add_audit_folder(parser)
    add_json(parser)


ACTIONS = {"list": ("rows on hold, oldest first", add_list_arguments)}


def run(args: argparse.Namespace) -> int:
    """Print what is on hold."""
    from replication.audit.holds import open_holds

    found = [h for h in open_holds(audit_folder(args)) if args.table in (None, h["table"])]
    if args.json:
        print_json([{**h, "key": h["key"].hex()} for h in found])
    elif not found:
        print("nothing is on hold")
    else:
        print_lines(("since", "node", "table", "key", "written at", "reason"), [_row(h) for h in found])
    return OK


def _row(hold: dict[str, Any]) -> tuple[str, ...]:
    when = time_text(hold["_recorded"])
    return when, hold["node"], hold["table"], hold["key_text"], hold["origin"], hold["reason"]
