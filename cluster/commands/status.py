"""Show what a running group is doing.

Asks the group's actors: how far each initial copy is, how many rows wait for each node, and what the
resolvers have done since they started. Of each node it says whether it answers: its circuit breaker is
`closed`; `open` while it is away and the pause before the next try lasts; `half-open` during that try. It
says how many rows that a node refused wait to be sent again, and whether RabbitMQ or Redis, if configured,
is away; of Redis, whether it answers this command; of Kafka, how many records wait for it; and of
the audit log's archive, up to when it has everything.
Of a group that a changed table has halted it shows why, and of one that waits for a node, for which and
since when. `up` notes in the audit log's folder where the group runs and what it waits for; --address names
the Ray cluster where that folder is not at hand.

For instance:
  sync-worker status -c sync.yaml --json
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cluster.commands.common import (
    FAILED,
    OK,
    add_address,
    add_json,
    load_config,
    present_ray_token,
    print_json,
    print_lines,
    reach,
)
from replication.errors import SyncError

if TYPE_CHECKING:
    from actors.archiving import ArchiveStatus
    from actors.backfill import CopyStatus
    from actors.publisher import PublisherStatus
    from actors.shard_status import ShardStatus
    from cluster.config import GroupConfig
    from cluster.group_state import GroupState
    from cluster.node_states import NodeState
    from cluster.schema_state import Halt
    from cluster.waiting import Note
    from replication.retries import RetryStatus

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to ask, and how to print."""
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state; 1 when the group does not run."""
    config = load_config(args)
    address = reach(args, config)
    present_ray_token(address)
    from cluster.launch import ask, disconnect
    from cluster.node_states import by_node
    from cluster.sharing.stores import seen_from_here
    from cluster.waiting import read_note

    state = ask(address, config.group)
    disconnect()
    note = read_note(config.audit_path)
    if state is None:
        if note is not None:
            _print_waiting(args, config, note)
            return FAILED
        if halts := _halts(config):
            _print_halted(args, config, halts)
            return FAILED
        if lost := last_halt(config):
            _print_lost(args, config, lost)
            return FAILED
        print(f"group {config.group} does not run here; start it with: sync-worker up -c {args.config}")
        return FAILED
    nodes = by_node(state.guards)
    paused = {n: since for s in state.shards for n, since in s.paused.items()}
    redis = seen_from_here(config)
    if args.json:
        print_json(state_json(config, state, note) | ({"redis": asdict(redis)} if redis else {}))
    else:
        _print(state.shards, state.copies)
        _print_nodes(nodes, paused)
        _print_tables(state.shards)
        _print_retries(state.retries)
        _print_kafka(state.kafka)
        _print_archive(state.archive)
        if redis is not None and redis.away_since:
            print(
                "\nRedis does not answer; each replica of the interface counts requests by itself meanwhile"
            )
            print(f"  {redis.error}")
        if note is not None:
            print(f"\n{waiting_text(note)}")
    return OK


def state_json(config: GroupConfig, state: GroupState, note: Note | None) -> dict[str, Any]:
    """The state of a running group as JSON values."""
    from cluster.node_states import by_node

    paused = {n: since for s in state.shards for n, since in s.paused.items()}
    found: dict[str, Any] = {
        "group": config.group,
        "nodes": [{**asdict(n), "paused": paused.get(n.node, "")} for n in by_node(state.guards)],
        "shards": [asdict(s) for s in state.shards],
        "copies": copies_json(state.copies),
    }
    found |= {"retries": asdict(state.retries)} if state.retries else {}
    found |= {"kafka": asdict(state.kafka)} if state.kafka else {}
    found |= {"archive": asdict(state.archive)} if state.archive else {}
    return found | ({"waiting": _waiting_json(note)} if note else {})


def _print_nodes(nodes: Sequence[NodeState], paused: Mapping[str, str]) -> None:
    print()
    rows = [
        (
            n.node,
            paused.get(n.node, ""),
            n.breaker,
            n.since,
            _seconds(n),
            n.error[:90],
        )
        for n in nodes
    ]
    print_lines(("NODE", "PAUSED SINCE", "BREAKER", "FAILS SINCE", "NEXT TRY", "ERROR"), rows)


def _print_tables(shards: Sequence[ShardStatus]) -> None:
    """The tables that are paused, and what they keep."""
    tables = {t: since for s in shards for t, since in s.paused_tables.items()}
    if not tables:
        return
    rows = []
    for table, since in tables.items():
        waiting = {n: sum(s.held_back[n].get(table, 0) for s in shards) for n in shards[0].held_back}
        rows.append((table, since, "  ".join(f"{n} {count}" for n, count in waiting.items())))
    print()
    print_lines(("TABLE", "PAUSED SINCE", "WAITING"), rows)
    most = max(s.most for s in shards)
    print(
        f"all logs are kept since {min(tables.values())}; once {most:,} rows wait for a node, all tables wait"
    )


def _print_retries(retries: RetryStatus | None) -> None:
    """What waits to be sent again, if anything does, and a broker that is away."""
    if retries is None:
        return
    store = retries.store
    if retries.waiting or retries.dead:
        left = max(0.0, retries.next_try - time.time())
        waiting = f"{retries.waiting} rows wait for their next try" if retries.waiting else "no row waits"
        when = f", the first in {left:.0f} s" if retries.waiting else ""
        print(f"\nretries: {waiting}{when}; {retries.dead} dead letters ('sync-worker dlq list')")
    if store.away_since:
        print(f"\nRabbitMQ is away since {store.away_since}; retries are kept in a local file meanwhile")
        print(f"  {store.error}")


def _print_kafka(kafka: PublisherStatus | None) -> None:
    """How far Kafka has what changed, where it is configured."""
    if kafka is None:
        return
    waiting = "  ".join(f"{table} {count}" for table, count in kafka.waiting.items() if count)
    behind = f", the oldest for {kafka.behind_seconds:.0f} s" if kafka.behind_seconds else ""
    print(
        f"\nKafka: {kafka.published:,} records published; "
        + (f"waiting {waiting}{behind}" if waiting else "none waits")
    )
    if kafka.since:
        print(f"Kafka is away since {kafka.since}; the sync goes on, and what changes waits in the audit log")
        print(f"  {kafka.error}")
    if kafka.missed:
        print(f"{kafka.missed:,} records were removed from the audit log before they were published")


def _print_archive(archive: ArchiveStatus | None) -> None:
    """How far the audit log's copy is, where there is one."""
    if archive is None:
        return
    print(f"\naudit log: all up to {archive.copied or 'nothing yet'} is in the archive")
    if archive.since:
        print(f"the archive is away since {archive.since}; it is tried again, and nothing is lost")
        print(f"  {archive.error}")


def _seconds(node: NodeState) -> str:
    return f"{node.next_try_in:.0f} s" if node.failures else ""


def waiting_text(note: Note) -> str:
    """One sentence about the node that `up` waits for."""
    from cluster.waiting import seconds_since

    what = "the group cannot begin" if note.doing != "resolvers" else "a lost resolver cannot begin again"
    away, left = seconds_since(note), max(0.0, note.next_try - time.time())
    return (
        f"waits for {note.node} since {note.since} ({away:.0f} s, {note.tries} tries), and {what} without it;"
        f" next try in {left:.0f} s\n  {note.error}"
    )


def _waiting_json(note: Note) -> dict[str, object]:
    from cluster.waiting import seconds_since

    seconds = {"seconds": round(seconds_since(note), 1), "next_try_in": max(0.0, note.next_try - time.time())}
    return {k: v for k, v in asdict(note).items() if k != "next_try"} | seconds


def _print_waiting(args: argparse.Namespace, config: GroupConfig, note: Note) -> None:
    if args.json:
        print_json({"group": config.group, "state": "waiting", "waiting": _waiting_json(note)})
    else:
        print(f"group {config.group} {waiting_text(note)}")


def _halts(config: GroupConfig) -> list[Halt]:
    """What has halted the group; nothing where the nodes cannot be asked."""
    from cluster.schema_state import load_states

    try:
        states = load_states(config)
    except SyncError as error:
        log.warning("nodes_not_asked", extra={"error": str(error)})
        return []
    return [halt for state in states.values() for halt in state.halted.values()]


def last_halt(config: GroupConfig) -> dict[str, str] | None:
    """The lost log that ended the group, if nothing is on record since: node, error and hint."""
    from cluster.audit_log import open_keys
    from replication.audit.reader import tail

    if not config.audit_path.is_dir():
        return None
    newest = tail(config.audit_path, 1, keys=open_keys(config.audit_path, config.audit))
    if not newest or (newest[0]["stream"], newest[0].get("kind")) != ("operator", "halted"):
        return None
    detail: dict[str, str] = json.loads(newest[0]["detail"])
    return detail


def _print_lost(args: argparse.Namespace, config: GroupConfig, lost: dict[str, str]) -> None:
    command = f"sync-worker reset {lost['node']} -c {args.config}"
    if args.json:
        print_json({"group": config.group, "state": "halted: lost log", **lost, "command": command})
        return
    print(f"group {config.group} is halted: the log of {lost['node']} was lost")
    print(f"  {lost['error']}")
    print(f"    accept the gap with: {command}")


def _print_halted(args: argparse.Namespace, config: GroupConfig, halts: Sequence[Halt]) -> None:
    rows = [
        {
            "table": h.table,
            "node": h.node,
            "change": h.change,
            "command": f"sync-worker up -c {args.config} --accept {h.table}",
        }
        for h in halts
    ]
    if args.json:
        print_json({"group": config.group, "state": "halted: schema change", "halted": rows})
        return
    print(f"group {config.group} is halted: schema change")
    for row in rows:
        print(f"  {row['table']} at {row['node']}: {row['change']}")
        print(f"    make the table fit on every node, then go on with: {row['command']}")


def _marks(shard: ShardStatus, node: str) -> str:
    if node in shard.paused:
        return " (paused)"
    return " (lags)" if node in shard.lags else ""


def time_left(copy: CopyStatus) -> str:
    """How long a copy will take, as in `1:05:00`; `?` where that is not known."""
    if copy.finished:
        return ""
    return "?" if copy.seconds_left is None else str(timedelta(seconds=round(copy.seconds_left)))


def held_text(copy: CopyStatus) -> str:
    """That a copy is slower than it could be, and why; empty if it is not."""
    return f"held to {copy.held_to:,.0f} rows/s: {copy.because}" if copy.held_to else ""


def copies_json(copies: dict[str, list[CopyStatus]]) -> list[dict[str, object]]:
    """The copies as JSON values."""
    return [copy_json(node, c) for node, statuses in copies.items() for c in statuses]


def copy_json(node: str, copy: CopyStatus) -> dict[str, object]:
    """A copy as JSON values."""
    return {"node": node, **asdict(copy), "seconds_left": copy.seconds_left}


def _print(shards: list[ShardStatus], copies: dict[str, list[CopyStatus]]) -> None:
    rows = [
        (
            str(s.shard),
            "replaying" if s.replaying else "running",
            *(str(count) for count in (s.changes, s.applied, s.conflicts, s.held, s.undecided)),
            "  ".join(f"{n} {count}{_marks(s, n)}" for n, count in s.backlog.items()),
        )
        for s in shards
    ]
    print_lines(("SHARD", "STATE", "CHANGES", "APPLIED", "CONFLICTS", "HELD", "OPEN", "WAITING"), rows)
    copying = [
        (
            c.table,
            node,
            f"{c.rows:,}",
            f"{c.estimate:,}" if c.estimate else "?",
            f"{c.rows_per_second:,.0f}",
            time_left(c),
            str(c.workers),
            "finished" if c.finished else held_text(c) or "copying",
        )
        for node, statuses in copies.items()
        for c in statuses
    ]
    if copying:
        print()
        print_lines(("TABLE", "FROM", "ROWS", "OF ABOUT", "ROWS/S", "LEFT", "READERS", "STATE"), copying)
