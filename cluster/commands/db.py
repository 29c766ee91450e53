"""What the group keeps on the databases: make it, bring it to this release's format, or remove it.

  init      Make what 'up' would make at its first start: missing tables where the configuration says
            create_tables, our own tables, and the place in the log (PostgreSQL's publication and slot,
            MongoDB's pre-images). Afterwards the account needs no privilege to create anything. From then
            on each node keeps its log until 'up' reads it.
  migrate   Bring our own tables to the format of this release, after an upgrade. 'up' reads no format
            but its own.
  drop      Remove what is ours from every node, or from one: tables, publication, slot. The rows of
            your applications stay as they are. Do this when a group is given up, or its slot keeps log
            on PostgreSQL until the disk is full.

All three need the group to be stopped. A drop is put on record in the audit log, if there is one.

Examples:
  sync-worker db init -c sync.yaml
  sync-worker db migrate -c sync.yaml
  sync-worker db drop --node mongo
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from cluster.commands.common import FAILED, OK, add_json, engines_of, load_config, print_json, print_lines
from replication.formats import must_be_made

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from replication.engine import Engine

Row = dict[str, Any]
_STOP = "stop 'sync-worker up' first"


def add_drop_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes, and whether to ask."""
    text = "only from this node; may be repeated"
    parser.add_argument("--node", metavar="NODE", action="append", help=text)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_json(parser)


ACTIONS = {
    "init": ("make what the group needs on every node", add_json),
    "migrate": ("bring our own tables to this release's format", add_json),
    "drop": ("remove what is ours from the nodes", add_drop_arguments),
}


def run(args: argparse.Namespace) -> int:
    """Do what the action says; 1 when a node lacks something, or nobody agreed."""
    config = load_config(args)
    actions: dict[str, Callable[[argparse.Namespace, GroupConfig], list[Row] | None]] = {
        "init": _init,
        "migrate": _migrate,
        "drop": _drop,
    }
    rows = actions[args.action](args, config)
    if rows is None:
        return FAILED
    if args.json:
        print_json({"group": config.group, "nodes": rows})
    else:
        print_lines(("NODE", "FORMAT", "DONE"), [(r["node"], str(r["format"]), r["done"]) for r in rows])
    return OK


def _init(args: argparse.Namespace, config: GroupConfig) -> list[Row] | None:
    from cluster.lease import at_rest
    from cluster.ready import make_ready
    from cluster.topology import open_catalogs, read_topology

    engines = engines_of(config)
    with at_rest(config.group, engines, _STOP):
        before = {node: _format(engine) for node, engine in engines.items()}
        with open_catalogs(config) as catalogs:
            missing = read_topology(config, catalogs).missing if config.create_tables else {}
        ready = make_ready(config)
        if ready is None:
            print("nothing was begun: see the findings above, and 'sync-worker check'", file=sys.stderr)
            return None
        rows = []
        for node, engine in engines.items():
            made = [f"table {name}" for name in sorted(missing.get(node, ()))]
            made += ["our own tables"] * must_be_made(before[node], node)
            with closing(engine.control()) as control:
                control.prepare(ready.tables)
            rows.append(_row(node, _format(engine), f"made {', '.join(made)}" if made else "all was there"))
    return rows


def _migrate(args: argparse.Namespace, config: GroupConfig) -> list[Row] | None:
    from cluster.lease import at_rest

    engines = engines_of(config)
    with at_rest(config.group, engines, _STOP):
        rows = []
        for node, engine in engines.items():
            found = _format(engine)
            missing = must_be_made(found, node)
            done = "nothing yet: 'db init', or the first 'up', makes it" if missing else "nothing to migrate"
            rows.append(_row(node, found, done))
    return rows


def _drop(args: argparse.Namespace, config: GroupConfig) -> list[Row] | None:
    from cluster.lease import at_rest
    from replication.errors import ConfigError

    engines = engines_of(config)
    chosen = args.node or list(engines)
    for node in chosen:
        if node not in engines:
            message = f"no node called {node!r}"
            raise ConfigError(message, hint=f"the configuration has {', '.join(engines)}")
    if not (args.yes or _agreed(config, chosen)):
        print("nothing was changed", file=sys.stderr)
        return None
    with at_rest(config.group, engines, _STOP):
        rows = []
        for node in dict.fromkeys(chosen):
            found = _format(engines[node])
            with closing(engines[node].control()) as control:
                control.drop()
            left = _format(engines[node])
            done = "removed what is of the group" if found else "nothing was there"
            stay = "; our tables stay, for another group or since the account may drop none"
            rows.append(_row(node, left, done + stay * bool(left)))
    _record(config, [row["node"] for row in rows])
    return rows


def _row(node: str, found: int, done: str) -> Row:
    return {"node": node, "format": found, "done": done}


def _format(engine: Engine) -> int:
    with closing(engine.control()) as control:
        return control.stored_format()


def _agreed(config: GroupConfig, nodes: list[str]) -> bool:
    where = f"the group '{config.group}' keeps on {', '.join(nodes)}"
    print(
        f"What {where} is removed: its markers and its place in the log.\n"
        "The rows of your applications stay. A group that begins again copies them anew.",
        file=sys.stderr,
    )
    if not sys.stdin.isatty():
        print("--yes removes without asking", file=sys.stderr)
        return False
    return input("remove? [y/N] ").strip().lower() in ("y", "yes")


def _record(config: GroupConfig, nodes: list[str]) -> None:
    from cluster.audit_log import open_writer

    if not config.audit_path.is_dir():
        return
    with closing(open_writer(config.audit_path, config.group, config.audit, shards=config.shards)) as writer:
        writer.add_operator("dropped", {"nodes": nodes})
        writer.flush()
