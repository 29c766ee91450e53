"""Recorded conflicts: two writes of one row, neither of which had seen the other.

`show` prints both versions, which one won, and why. Reads the audit log only; no database and no running
group is needed.

Examples:
  sync-worker conflicts list
  sync-worker conflicts list -n 100 --table orders --json
  sync-worker conflicts show 3f2a90c1
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any

from cluster.commands.common import (
    OK,
    add_audit_folder,
    add_json,
    audit_log,
    print_json,
    print_lines,
    print_records,
    time_text,
)

Conflict = dict[str, Any]
_WHY = {
    "last_write_wins": "the later write by hybrid time; on a tie the higher priority, then the name",
    "source_priority": "the node with the higher priority",
    "merge_fields": "columns that only one side changed are taken from it",
}


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `conflicts list`."""
    parser.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="so many (default: 20)")
    parser.add_argument("--table", metavar="T", help="only of this table")
    add_audit_folder(parser)
    add_json(parser)


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `conflicts show`."""
    parser.add_argument("id", metavar="ID", help="as 'conflicts list' shows it; the beginning will do")
    add_audit_folder(parser)
    add_json(parser)


ACTIONS = {
    "list": ("the newest conflicts", add_list_arguments),
    "show": ("both versions of one conflict, the winner and why", add_show_arguments),
}


def run(args: argparse.Namespace) -> int:
    """Print the conflicts, oldest first, or one of them."""
    return _show(args) if args.action == "show" else _list(args)


def conflict_id(ident: str) -> str:
    """A short name of a conflict, for people to type."""
    return hashlib.sha256(ident.encode()).hexdigest()[:8]


def _list(args: argparse.Namespace) -> int:
    from replication.audit.reader import Filter, tail

    folder, keys = audit_log(args)
    found = tail(folder, args.count, Filter(table=args.table, kind="conflict"), keys)
    head = ("id", "recorded", "table", "key", "kind", "writes", "winner", "policy")
    print_records(args, found, _plain, _row, head, "no conflicts on record")
    return OK


def _show(args: argparse.Namespace) -> int:
    conflict = _find(args)
    if args.json:
        print_json(_plain(conflict) | {f"{s}_image": _image(conflict, s) for s in ("left", "right")})
        return OK
    print(f"conflict  {conflict_id(conflict['ident'])}, recorded {time_text(conflict['_recorded'])}")
    print(f"row       {conflict['table']} {conflict['key_text']}")
    print(f"kind      {conflict['kind']}")
    print(f"winner    {conflict['winner']}")
    policy = conflict["policy"]
    print(f"policy    {policy}: {_WHY.get(policy, 'a policy of your own')}")
    images = {side: _image(conflict, side) for side in ("left", "right")}
    columns = list(dict.fromkeys(name for image in images.values() if image for name in image))
    head = ("", *(_side(conflict, side) for side in images))
    rows = [(name, *(_value(image, name) for image in images.values())) for name in columns]
    rows.insert(0, ("written", *(time_text(conflict[f"{side}_ts"]) for side in images)))
    print()
    print_lines(head, [(_mark(row), *row[1:]) for row in rows])
    return OK


def _find(args: argparse.Namespace) -> Conflict:
    from replication.audit.reader import KINDS, entries
    from replication.errors import ConfigError

    wanted, found = args.id, []
    folder, keys = audit_log(args)
    for conflict in entries(folder, KINDS["conflict"], keys):
        if conflict["ident"] == wanted or conflict_id(conflict["ident"]).startswith(wanted):
            found.append(conflict)
    if len(found) != 1:
        message = f"{len(found) or 'no'} conflicts have an ID that begins with {wanted!r}"
        raise ConfigError(message, hint="'sync-worker conflicts list' shows the IDs")
    return found[0]


def _side(conflict: Conflict, side: str) -> str:
    node: str = conflict[f"{side}_node"]
    return f"{node} (deleted)" if conflict[f"{side}_image"] is None else node


def _image(conflict: Conflict, side: str) -> dict[str, Any] | None:
    text = conflict[f"{side}_image"]
    image: dict[str, Any] | None = None if text is None else json.loads(text)
    return image


def _value(image: dict[str, Any] | None, name: str) -> str:
    if image is None or name not in image:
        return ""
    return json.dumps(image[name], ensure_ascii=False)


def _mark(row: tuple[str, ...]) -> str:
    """The column's name, with a star where the versions differ."""
    return f"* {row[0]}" if row[1] != row[2] else f"  {row[0]}"


def _plain(conflict: Conflict) -> Conflict:
    return {"id": conflict_id(conflict["ident"])} | {k: v for k, v in conflict.items() if k != "stream"}


def _row(conflict: Conflict) -> tuple[str, ...]:
    sides = f"{conflict['left_node']} {time_text(conflict['left_ts'])}, "
    sides += f"{conflict['right_node']} {time_text(conflict['right_ts'])}"
    return (
        conflict_id(conflict["ident"]),
        time_text(conflict["_recorded"]),
        conflict["table"],
        conflict["key_text"],
        conflict["kind"],
        sides,
        conflict["winner"],
        conflict["policy"],
    )
