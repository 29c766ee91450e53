"""Rows that are on hold: what a node refuses to take, and what it holds but the others cannot read.

Everything else goes on. A row that `waits` is sent again by itself, with growing pauses, as `retries` in the
configuration says, and is `dead` after the last try. A row leaves this list once it was written again, by an
application, by itself or by `retry`, which reads it again where it was written and sends it like any change;
the group must run. `discard` takes a row off the list and leaves it as it is on every node. Both are on
record in the audit log.

Examples:
  sync-worker dlq list
  sync-worker dlq list --table orders --json
  sync-worker dlq retry 3f2a90c1
  sync-worker dlq retry --all
  sync-worker dlq discard 3f2a90c1
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.commands.common import (
    FAILED,
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
    load_config,
    print_json,
    print_records,
    time_text,
)

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from cluster.running import RunningGroup, Way
    from replication.audit.access import View

Hold = dict[str, Any]
ON_HOLD = Listing("rows on hold", "dlq list")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `dlq list`."""
    parser.add_argument("--table", metavar="T", help="only of this table")
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


def add_chosen(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `dlq retry` and `dlq discard`."""
    add_choice(parser, ON_HOLD)
    add_address(parser)
    add_json(parser)


ACTIONS = {
    "list": ("rows on hold, oldest first", add_list_arguments),
    "retry": ("read rows again where they were written, and send them", add_chosen),
    "discard": ("take rows off the list, and leave them as they are", add_chosen),
}


def run(args: argparse.Namespace) -> int:
    """List, retry or discard."""
    return {"list": _list, "retry": _retry, "discard": _discard}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from replication.audit.holds import open_holds

    view = audit_view(args)
    found = [h for h in open_holds(*audit_log(args)) if args.table in (None, h["table"])]
    found = [seen(hold, view) for hold in found]
    head = ("id", "since", "node", "table", "key", "written at", "state", "reason")
    print_records(args, found, dict, _row, head, "nothing is on hold")
    return OK


def _retry(args: argparse.Namespace) -> int:
    """Send the rows again; 1 when some are on hold again."""
    from cluster.running import way_of

    config = load_config(args)
    chosen = choose(holds_of(config), args, ON_HOLD)
    outcomes = retry(way_of(args, config), chosen)
    if args.json:
        print_json([{**plain(h), "again": again is not None, "reason": again} for h, again in outcomes])
    else:
        for hold, again in outcomes:
            what = f"on hold again: {again}" if again else "sent"
            print(f"{hold['id']}  {hold['table']} {hold['key_text']} for {hold['node']}: {what}")
    return FAILED if any(again for _, again in outcomes) else OK


def retry(way: Way, chosen: Sequence[Hold]) -> list[tuple[Hold, str | None]]:
    """Read rows on hold again where they were written, and send them.

    Returns:
        each with the reason why it is on hold again, or None.
    """
    from cluster.topology import load_tables

    tables = {t.name: t for t in load_tables(way.config)}
    with way.open() as group:
        group.note("dlq_retried", [_named(h) for h in chosen])
        parts: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        for hold in chosen:
            if hold["table"] in tables and hold["key"]:
                parts[hold["table"], hold["origin"]].append(hold["key"])
        for (table, origin), keys in parts.items():
            group.copy_keys(tables[table], origin, list(dict.fromkeys(keys)), deletes=True)
        still = _still_held(group, way.config, chosen)
    return [(h, still.get(h["id"])) for h in chosen]


def holds_of(config: GroupConfig) -> list[Hold]:
    """What is on hold now, oldest first; see `open_holds`."""
    from cluster.audit_log import open_keys
    from replication.audit.holds import open_holds

    return open_holds(config.audit_path, open_keys(config.audit_path, config.audit))


def _still_held(group: RunningGroup, config: GroupConfig, chosen: Sequence[Hold]) -> dict[str, str]:
    """The reason of what is on hold again, by id, once everything before is on record."""
    group.settle()
    wanted = {h["id"] for h in chosen}
    return {h["id"]: h["reason"] for h in holds_of(config) if h["id"] in wanted}


def _discard(args: argparse.Namespace) -> int:
    """Put on record that rows are of no account any more."""
    from cluster.running import way_of

    config = load_config(args)
    chosen = choose(holds_of(config), args, ON_HOLD)
    discard(way_of(args, config), chosen)
    if args.json:
        print_json([plain(h) for h in chosen])
    else:
        for hold in chosen:
            print(f"{hold['id']}  {hold['table']} {hold['key_text']} for {hold['node']}: discarded")
    return OK


def discard(way: Way, chosen: Sequence[Hold]) -> None:
    """Take rows off the list, and leave them as they are on every node."""
    from cluster.running import note_anyway
    from replication.audit.holds import DISCARDED

    note_anyway(way, [(DISCARDED, _named(h)) for h in chosen])


def _named(hold: Hold) -> dict[str, str]:
    return {"id": hold["id"], "node": hold["node"], "table": hold["table"], "key": hold["key"].hex()}


def plain(hold: Hold) -> Hold:
    """A row on hold as JSON has it."""
    return {**hold, "key": hold["key"].hex()}


def seen(hold: Hold, view: View) -> Hold:
    """The same as a view shows it."""
    return view.entry("holds", plain(hold))


def _row(hold: Hold) -> tuple[str, ...]:
    when = time_text(hold["_recorded"])
    names = hold["id"], when, hold["node"], hold["table"], hold["key_text"], hold["origin"]
    return *names, _state(hold), hold["reason"]


def _state(hold: Hold) -> str:
    """Whether it is sent again by itself."""
    if hold["origin"] == hold["node"]:
        return "unreadable"
    tries = hold["dead_after"]
    return "waits" if tries is None else f"dead ({tries} tries)"
