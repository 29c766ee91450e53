"""Show the audit log, and prove that it is what was written.

It holds every change, every decision, every conflict, and what operators did. Only the log's folder is
read; no database is needed, and a group may be running.

`query` gives records page by page, oldest first: its `next` is the `--cursor` that goes on, also with what is
recorded later. `export` writes a file for each stream. `_record` is a record's place in its stream.
With `--as ROLE` they and `tail` show what `audit.access` lets that role see.

`verify` checks every record, segment and signed head, and names the first that is not what was written.
What was cut off at the end together with its heads shows only against a head that was kept elsewhere: `head`
prints the newest, `--head` compares. `proof` prints a proof that stands without the log, and
`verify --proof` checks it. None of these needs the key of an encrypted log.

`prune` removes finished segments of changes and decisions that are older, while the group runs or not. Their
leaves stay, so that `verify` and proofs of what is there go on.

`erase` destroys the key that one person's records are encrypted with, where `audit.subjects` names the column
that says whose they are, while the group runs or not. It shows first what that is. Proofs go on.

`rotate-key` makes new data keys for the records to come, or with `--new-key-file` puts all data keys under
another master key, which the configuration must name from then on. The group must be stopped. Records that
are there stay as they are, and readable.

Examples:
  sync-worker audit tail -n 50
  sync-worker audit tail -f --table orders --kind change
  sync-worker audit query --table orders --key 42 --since 2026-11-25T12:00
  sync-worker audit export --format csv --out folder --kind decision --outcome held
  sync-worker audit export --as auditor --format jsonl --out - --table orders
  sync-worker audit verify
  sync-worker audit head > /somewhere/else/head.json
  sync-worker audit verify --head /somewhere/else/head.json --public-key signer.pem
  sync-worker audit verify --stream changes/orders --from 100 --to 200
  sync-worker audit proof --stream changes/orders --record 100 > proof.json
  sync-worker audit verify --proof proof.json
  sync-worker audit prune --keep-days 400
  sync-worker audit erase --table customers --subject 4711 --yes
  sync-worker audit rotate-key --new-key-file new.key
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from typing import Any

from cluster.commands import audit_erase as erasing
from cluster.commands import audit_keys as keeping
from cluster.commands import audit_proofs as proving
from cluster.commands import audit_prune as removing
from cluster.commands import audit_query as asking
from cluster.commands.common import (
    OK,
    add_audit_folder,
    add_json,
    add_role,
    audit_log,
    audit_view,
    print_json,
    time_text,
)

KINDS = ("change", "decision", "conflict", "hold", "operator")
_POLL_SECONDS = 0.5
_WIDTH = 40


def add_tail_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit tail`."""
    parser.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="so many (default: 20)")
    parser.add_argument("-f", dest="follow", action="store_true", help="go on with what is added")
    parser.add_argument("--table", metavar="T", help="only of this table")
    parser.add_argument("--kind", choices=KINDS, help="only of this kind")
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


ACTIONS = {
    "tail": ("the newest records, and with -f what is added", add_tail_arguments),
    "query": ("records by time, table, key, node and more, page by page", asking.add_query_arguments),
    "export": ("write records to Parquet, JSON lines or CSV", asking.add_export_arguments),
    "verify": ("check the log, a part of it, or a proof", proving.add_verify_arguments),
    "head": ("print the newest signed head, to be kept elsewhere", proving.add_head_arguments),
    "proof": ("print the proof of a record, or of growth since a head", proving.add_proof_arguments),
    "prune": ("remove old changes and decisions, and keep what proofs need", removing.add_prune_arguments),
    "erase": ("make the records of one person unreadable for ever", erasing.add_erase_arguments),
    "rotate-key": ("go on with other keys", keeping.add_rotate_arguments),
}


def run(args: argparse.Namespace) -> int:
    """Run an action."""
    actions = {
        "tail": run_tail,
        "query": asking.run_query,
        "export": asking.run_export,
        "verify": proving.run_verify,
        "head": proving.run_head,
        "proof": proving.run_proof,
        "prune": removing.run_prune,
        "erase": erasing.run_erase,
        "rotate-key": keeping.run_rotate,
    }
    return actions[args.action](args)


def run_tail(args: argparse.Namespace) -> int:
    """Print the newest records, oldest first; with `-f` until interrupted."""
    from replication.audit.reader import Filter, Follower

    folder, keys = audit_log(args)
    follower = Follower(folder, Filter(args.table, args.kind), keys, audit_view(args))
    _show(follower.last(args.count), args.json)
    while args.follow:
        time.sleep(_POLL_SECONDS)
        _show(follower.new(), args.json)
    return OK


def describe(entry: dict[str, Any]) -> str:
    """A record as one readable line."""
    kind, _, table = entry["stream"].partition("/")
    text = _erased if entry.get("_erased") else _TEXTS.get(kind, _operator)
    return f"{time_text(entry['_recorded'])}  {text(entry, table)}"


def _show(entries: Iterable[dict[str, Any]], as_json: bool) -> None:
    for entry in entries:
        if as_json:
            print_json(entry)
        else:
            print(describe(entry))
    sys.stdout.flush()


def _change(entry: dict[str, Any], table: str) -> str:
    names = [n for n in entry if not n.startswith("_") and n != "stream" and entry[n] is not None]
    values = " ".join(f"{n}={_short(entry[n])}" for n in names)
    return f"change    {table} {_op(entry)} on {entry['_node']}: {values}"


def _decision(entry: dict[str, Any], _: str) -> str:
    what = f"{entry['_table']} {_op(entry)} of {entry['_origin']} for {entry['_node']}: {entry['outcome']}"
    return f"decision  {what} (key {entry['_key']}, epoch {entry['_epoch']}, batch {entry['_seq']})"


def _conflict(entry: dict[str, Any], _: str) -> str:
    sides = f"{entry['left_node']} and {entry['right_node']}"
    what = f"{entry['table']} {entry['kind']} of {entry['key_text']} on {sides}"
    return f"conflict  {what}: {entry['winner']} by {entry['policy']}"


def _erased(entry: dict[str, Any], table: str) -> str:
    kind = entry["stream"].partition("/")[0].removesuffix("s")
    of = table or entry.get("_table") or entry["table"]
    op = f" {_op(entry)}" if "_op" in entry else ""
    node = entry.get("_node") or entry.get("node") or f"{entry['left_node']} and {entry['right_node']}"
    return f"{kind:9} {of}{op} on {node}: erased"


def _operator(entry: dict[str, Any], _: str) -> str:
    return f"operator  {entry['kind']} {entry['detail']}"


def _hold(entry: dict[str, Any], _: str) -> str:
    what = f"{entry['table']} {entry['key_text']} of {entry['origin']} for {entry['node']}"
    return f"hold      {what}: {entry['reason']}"


_TEXTS = {"changes": _change, "decisions": _decision, "conflicts": _conflict, "holds": _hold}


def _op(entry: dict[str, Any]) -> str:
    from replication.change import Op

    return Op(entry["_op"]).name.lower()


def _short(value: Any) -> str:
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "…"
