"""List recorded conflicts: two writes of one row, neither of which had seen the other.

Reads the audit log only; no database and no running group is needed.

Examples:
  sync-worker conflicts list
  sync-worker conflicts list -n 100 --table orders --json
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
    """Declare the options of `conflicts list`."""
    parser.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="so many (default: 20)")
    parser.add_argument("--table", metavar="T", help="only of this table")
    add_audit_folder(parser)
    add_json(parser)


ACTIONS = {"list": ("the newest conflicts", add_list_arguments)}


def run(args: argparse.Namespace) -> int:
    """Print the conflicts, oldest first."""
    from replication.audit.reader import Filter, tail

    found = tail(audit_folder(args), args.count, Filter(table=args.table, kind="conflict"))
    if args.json:
        print_json([{k: v for k, v in c.items() if k != "stream"} for c in found])
    elif not found:
        print("no conflicts on record")
    else:
        print_lines(
            ("recorded", "table", "key", "kind", "writes", "winner", "policy"), [_row(c) for c in found]
        )
    return OK


def _row(conflict: dict[str, Any]) -> tuple[str, ...]:
    sides = f"{conflict['left_node']} {time_text(conflict['left_ts'])}, "
    sides += f"{conflict['right_node']} {time_text(conflict['right_ts'])}"
    return (
        time_text(conflict["_recorded"]),
        conflict["table"],
        conflict["key_text"],
        conflict["kind"],
        sides,
        conflict["winner"],
        conflict["policy"],
    )
