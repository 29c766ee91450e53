"""Recorded conflicts: two writes of one row, neither of which had seen the other.

`show` prints both versions, which one won, and why. Both read the audit log only; no database and no running
group is needed, except for `--now`.

Under the policy `manual` nobody wins: the row is on hold, and each node that wrote it keeps what it wrote,
until `resolve` sends the row of one node, as it is by then, to the others. The group must run. What was
written at other nodes meanwhile is replaced, and stays in the audit log.

Examples:
  sync-worker conflicts list --open
  sync-worker conflicts list -n 100 --table orders --json
  sync-worker conflicts show 3f2a90c1 --now
  sync-worker conflicts resolve 3f2a90c1 --take pg
  sync-worker conflicts resolve 3f2a90c1 --take pg --set status=paid --set-null note
  sync-worker conflicts resolve --all --table orders --take pg
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Container
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import (
    OK,
    Listing,
    add_address,
    add_audit_folder,
    add_choice,
    add_json,
    add_role,
    audit_log,
    audit_view,
    choose,
    engines_of,
    load_config,
    print_json,
    print_lines,
    print_records,
    time_text,
)

if TYPE_CHECKING:
    from replication.audit.access import View
    from replication.audit.keys import Keyring

Conflict = dict[str, Any]
OPEN = Listing("open conflicts", "conflicts list --open")
_WHY = {
    "last_write_wins": "the later write by hybrid time; on a tie the higher priority, then the name",
    "source_priority": "the node with the higher priority",
    "merge_fields": "columns that only one side changed are taken from it",
    "manual": "a person decides",
}


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `conflicts list`."""
    parser.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="so many (default: 20)")
    parser.add_argument("--table", metavar="T", help="only of this table")
    parser.add_argument("--open", action="store_true", help="only what awaits 'resolve', and all of that")
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `conflicts show`."""
    parser.add_argument("id", metavar="ID", help="as 'conflicts list' shows it; the beginning will do")
    parser.add_argument("--now", action="store_true", help="ask the nodes what they hold now, too")
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


def add_resolve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `conflicts resolve`."""
    add_choice(parser, OPEN)
    parser.add_argument("--take", metavar="NODE", required=True, help="whose row goes to every node")
    for option, place, what in (("--set", "COLUMN=VALUE", "this value"), ("--set-null", "COLUMN", "a null")):
        parser.add_argument(option, action="append", default=[], metavar=place, help=f"but with {what}")
    add_address(parser)
    add_json(parser)


ACTIONS = {
    "list": ("the newest conflicts", add_list_arguments),
    "show": ("both versions of one conflict, the winner and why", add_show_arguments),
    "resolve": ("decide what awaits a person", add_resolve_arguments),
}


def run(args: argparse.Namespace) -> int:
    """Print the conflicts, oldest first, or one of them; or resolve some."""
    return {"list": _list, "show": _show, "resolve": _resolve}[args.action](args)


def conflict_id(ident: str) -> str:
    """A short name of a conflict, for people to type."""
    return hashlib.sha256(ident.encode()).hexdigest()[:8]


def seen(conflict: Conflict, view: View) -> Conflict:
    """A conflict as `plain` has it, as a view shows it."""
    return view.entry("conflicts", plain(conflict))


def _list(args: argparse.Namespace) -> int:
    from replication.audit.reader import Filter, tail
    from replication.audit.undecided import undecided

    folder, keys = audit_log(args)
    awaiting, view = undecided(folder, keys), audit_view(args)
    if args.open:
        found = [c for c in awaiting.values() if args.table in (None, c["table"])]
    else:
        found = tail(folder, args.count, Filter(table=args.table, kind="conflict"), keys)
    for conflict in found:
        conflict["state"] = state_of(conflict, awaiting)
    found = [seen(conflict, view) for conflict in found if not conflict.get("_erased")]
    head = ("id", "recorded", "table", "key", "kind", "writes", "winner", "policy")
    none = "nothing awaits a decision" if args.open else "no conflicts on record"
    print_records(args, found, dict, _row, head, none)
    return OK


def state_of(conflict: Conflict, awaiting: Container[str]) -> str:
    """`decided`, or of one that nobody has won `open` or `resolved`."""
    if conflict["winner"]:
        return "decided"
    return "open" if conflict["ident"] in awaiting else "resolved"


def _resolve(args: argparse.Namespace) -> int:
    from cluster.audit_log import open_keys
    from cluster.resolve import plan
    from cluster.running import way_of
    from cluster.topology import load_tables
    from replication.audit.undecided import undecided

    config = load_config(args)
    keys = open_keys(config.audit_path, config.audit)
    awaiting = list(undecided(config.audit_path, keys).values())
    chosen = choose([c | {"id": conflict_id(c["ident"])} for c in awaiting], args, OPEN)
    given = dict[str, str | None](_assignment(text) for text in args.set) | dict.fromkeys(args.set_null)
    steps = plan({t.name: t for t in load_tables(config)}, chosen, awaiting, args.take, given)
    with way_of(args, config).open() as group:
        for step in steps:
            step.carry_out(group)
            for conflict in step.conflicts if not args.json else ():
                where = f"{conflict['table']} {conflict['key_text']}"
                print(f"{conflict_id(conflict['ident'])}  {where}: every node has the row of {args.take}")
    if args.json:
        print_json([plain(c) | {"node": args.take} for step in steps for c in step.conflicts])
    return OK


def _assignment(text: str) -> tuple[str, str]:
    from replication.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        message = f"--set {text}: write COLUMN=VALUE"
        raise ConfigError(message, hint="a null is given with --set-null COLUMN")
    return name, value


def _show(args: argparse.Namespace) -> int:
    from replication.audit.undecided import undecided
    from replication.errors import ConfigError

    view = audit_view(args)
    conflict = find(*audit_log(args), args.id, view)
    state = conflict["state"] = state_of(conflict, undecided(*audit_log(args)))
    if args.now and not view.is_clear(conflict["table"]):
        message = f"what the nodes hold now is not for the role {view.role}"
        raise ConfigError(message, hint="leave out --now, or --as")
    now = _held_now(args, conflict) if args.now else {}
    conflict = seen(conflict, view)
    if args.json:
        images = {f"{s}_image": image_of(conflict, s) for s in ("left", "right")}
        print_json(conflict | images | ({"now": now} if args.now else {}))
        return OK
    print(f"conflict  {conflict['id']}, recorded {time_text(conflict['_recorded'])}")
    print(f"row       {conflict['table']} {conflict['key_text']}")
    print(f"kind      {conflict['kind']}")
    print(f"winner    {conflict['winner'] or f'nobody: {state}'}")
    policy = conflict["policy"]
    print(f"policy    {policy}: {_WHY.get(policy, 'a policy of your own')}")
    images = {side: image_of(conflict, side) for side in ("left", "right")} | now
    columns = list(dict.fromkeys(name for image in images.values() if image for name in image))
    sides = [_side(conflict, side) for side in ("left", "right")]
    head = ("", *sides, *(f"{node} now" + ("" if held else " (no row)") for node, held in now.items()))
    rows = [(name, *(_value(image, name) for image in images.values())) for name in columns]
    times = [time_text(conflict[f"{side}_ts"]) for side in ("left", "right")]
    rows.insert(0, ("written", *times, *("" for _ in now)))
    print()
    print_lines(head, [(_mark(row), *row[1:]) for row in rows])
    if state == "open":
        print(f"\ndecide with: sync-worker conflicts resolve {conflict['id']} --take NODE")
    return OK


def _held_now(args: argparse.Namespace, conflict: Conflict) -> dict[str, dict[str, Any] | None]:
    """What each node holds now."""
    from cluster.topology import load_tables

    config = load_config(args)
    table = next(t for t in load_tables(config) if t.name == conflict["table"])
    held: dict[str, dict[str, Any] | None] = {}
    for node, engine in engines_of(config).items():
        with closing(engine.snapshot()) as snapshot:
            rows = snapshot.read_keys(table, [bytes.fromhex(conflict["key"])]).to_pylist()
        held[node] = {n: v for n, v in rows[0].items() if n != "_key"} if rows else None
    return held


def find(folder: Path, keys: Keyring | None, wanted: str, view: View) -> Conflict:
    """The conflict whose name, as a view shows it, or its beginning, is `wanted`; as it is recorded.

    Raises:
        ConfigError: there is none, or several.
    """
    from replication.audit.reader import KINDS, entries
    from replication.errors import ConfigError

    found = []
    for conflict in entries(folder, KINDS["conflict"], keys):
        shown = seen(conflict, view)
        if shown["ident"] == wanted or shown["id"].startswith(wanted):
            found.append(conflict)
    if len(found) != 1:
        message = f"{len(found) or 'no'} conflicts have an ID that begins with {wanted!r}"
        raise ConfigError(message, hint="'sync-worker conflicts list' shows the IDs")
    return found[0]


def _side(conflict: Conflict, side: str) -> str:
    node: str = conflict[f"{side}_node"]
    return f"{node} (deleted)" if conflict[f"{side}_image"] is None else node


def image_of(conflict: Conflict, side: str) -> dict[str, Any] | None:
    """What was written at one side, `left` or `right`; None for a delete."""
    text = conflict[f"{side}_image"]
    image: dict[str, Any] | None = None if text is None else json.loads(text)
    return image


def _value(image: dict[str, Any] | None, name: str) -> str:
    if image is None or name not in image:
        return ""
    return json.dumps(image[name], ensure_ascii=False, default=str)


def _mark(row: tuple[str, ...]) -> str:
    """The column's name, with a star where the versions differ."""
    return f"* {row[0]}" if row[1] != row[2] else f"  {row[0]}"


def plain(conflict: Conflict) -> Conflict:
    """A conflict as JSON has it, with its short name."""
    plain = {"id": conflict_id(conflict["ident"])} | {k: v for k, v in conflict.items() if k != "stream"}
    return plain | ({"key": plain["key"].hex()} if isinstance(plain["key"], bytes) else {})


def _row(conflict: Conflict) -> tuple[str, ...]:
    sides = f"{conflict['left_node']} {time_text(conflict['left_ts'])}, "
    sides += f"{conflict['right_node']} {time_text(conflict['right_ts'])}"
    return (
        conflict["id"],
        time_text(conflict["_recorded"]),
        conflict["table"],
        conflict["key_text"],
        conflict["kind"],
        sides,
        conflict["winner"] or conflict["state"],
        conflict["policy"],
    )
