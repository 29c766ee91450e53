"""Repairing what `verify` found: a plan by the tables' policies, and its way through the running group.

A difference has no causes that the markers know of, so the policies are asked about versions without
causality: of each node the time of its newest write of the row, as far as the audit log knows it, and the
node's priority.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.audit_log import open_keys
from cluster.config import GroupConfig
from cluster.running import Way, way_of
from replication.audit.holds import open_holds
from replication.audit.keys import Keyring
from replication.audit.reader import read, streams
from replication.audit.records import CHANGES
from replication.audit.undecided import undecided
from replication.change import Op
from replication.conflict.policy import Candidate, Policies, Side, last_write_wins, load_policies
from replication.conflict.version import Version
from replication.difference import Difference, DifferenceKind
from replication.schema import Table

if TYPE_CHECKING:
    from cluster.verify_report import TableResult

REPAIRED_AT_ONCE = 100_000
"""So many rows of a table are repaired by one call."""


@dataclass(slots=True)
class Step:
    """Rows of one table that one node sends to the others.

    Attributes:
        table: the table.
        source: the node whose rows are right.
        deletes: the node lacks the rows, so the others lose them.
        keys: which rows.
        kinds: how many of which kind.
    """

    table: Table
    source: str
    deletes: bool
    keys: list[bytes] = field(default_factory=list)
    kinds: Counter[DifferenceKind] = field(default_factory=Counter)

    def __str__(self) -> str:
        if self.deletes:
            return f"{self.table.name}: delete {len(self.keys):,} rows that {self.source} does not hold"
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        found = f" ({kinds})" if kinds else ""
        return f"{self.table.name}: send {len(self.keys):,} rows of {self.source} to the others{found}"

    def as_json(self) -> dict[str, Any]:
        """For `--json` and the audit log."""
        return {
            "table": self.table.name,
            "from": self.source,
            "deletes": self.deletes,
            "rows": len(self.keys),
            **{kind.value: count for kind, count in self.kinds.items()},
        }


@dataclass(slots=True)
class Plan:
    """What a repair would do.

    Attributes:
        steps: in the tables' order.
        left: table and number of rows for which there is nothing right to send, or that must not be deleted
            because a node refuses them.
    """

    steps: list[Step]
    left: Counter[str]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from map(str, self.steps)
        for table, count in self.left.items():
            why = "on hold, undecided, or no node holds one that can be read"
            yield f"{table}: {count:,} rows are left alone: {why}"


def repair(args: argparse.Namespace, config: GroupConfig, results: Sequence[TableResult]) -> bool:
    """Show the plan, ask, and carry it out; whether it was.

    Raises:
        Terminal: the group does not run.
    """
    return bool(carry_out(args, config, make_plan(config, results, delete=args.delete), "repair"))


def carry_out(args: argparse.Namespace, config: GroupConfig, plan: Plan, what: str) -> list[dict[str, Any]]:
    """Show a plan, ask, and send its rows; what was done, by step, or nothing.

    Args:
        args: `json`, `yes` and what reaches the group count.
        config: the group.
        plan: which rows.
        what: under which name it goes on record.

    Raises:
        Terminal: the group does not run.
    """
    out = sys.stderr if args.json else sys.stdout
    for line in plan.lines():
        print(line, file=out)
    if not plan.steps or not (args.yes or _agreed()):
        print("nothing was written", file=out)
        return []
    done = send(way_of(args, config), plan, what)
    for one in done:
        gone = f", {one['missing']:,} that the node does not hold" if "missing" in one else ""
        print(f"{one['table']}: {one['sent']:,} rows sent, {one['deleted']:,} deleted{gone}", file=out)
    return done


def send(way: Way, plan: Plan, what: str) -> list[dict[str, Any]]:
    """Send the rows of a plan; what was done, by step.

    Raises:
        Terminal: the group does not run.
    """
    with way.open() as group:
        group.note(f"{what}_started", [step.as_json() for step in plan.steps])
        done: list[dict[str, Any]] = []
        for step in plan.steps:
            sent = group.copy_keys(step.table, step.source, step.keys, deletes=step.deletes)
            result = {"table": step.table.name, "sent": sent.sent, "deleted": sent.deleted}
            done.append(result | ({"missing": sent.missing} if sent.missing else {}))
        group.settle()
        group.note(f"{what}_finished", done)
    return done


def make_plan(config: GroupConfig, results: Sequence[TableResult], *, delete: bool) -> Plan:
    """Which node's rows go to the others, by the tables' policies.

    Args:
        config: its nodes' priorities and its audit log count.
        results: what was found.
        delete: a node that lacks a row may decide, too.
    """
    priorities = {node.name: node.priority for node in config.nodes}
    steps: dict[tuple[str, str, bool], Step] = {}
    left: Counter[str] = Counter()
    audit = open_keys(config.audit_path, config.audit)
    holds = open_holds(config.audit_path, audit) if delete and config.audit_path.is_dir() else []
    held = {(hold["table"], hold["key"]) for hold in holds}
    awaiting = {(c["table"], c["key"]) for c in undecided(config.audit_path, audit).values()}
    for result in results:
        table = result.table
        policies = load_policies(table.mapping.conflict)
        times = last_writes(config.audit_path, table.name, [d.key for d in result.kept], audit)
        for difference in result.kept:
            if difference.kind is DifferenceKind.CHANGING:
                continue  # nobody knows whether it differs
            if (table.name, difference.key) in awaiting:
                left[table.name] += 1
                continue
            winner = _winner(difference, policies, priorities, times, delete=delete)
            on_hold = (table.name, difference.key) in held
            if winner is None or (on_hold and winner in difference.absent):
                left[table.name] += 1
                continue
            at = (table.name, winner, winner in difference.absent)
            step = steps.setdefault(at, Step(table, winner, at[2]))
            step.keys.append(difference.key)
            step.kinds[difference.kind] += 1
    return Plan(list(steps.values()), left)


def last_writes(
    path: Path, table: str, keys: Sequence[bytes], audit: Keyring | None = None
) -> Mapping[tuple[str, bytes], int]:
    """The commit time of each node's newest write of some keys, as far as the audit log has them."""
    stream = f"{CHANGES}/{table}"
    wanted = pa.array(keys, pa.binary())
    times: dict[tuple[str, bytes], int] = defaultdict(int)
    for batch in read(path, stream, audit) if path.is_dir() and stream in streams(path) else ():
        mine = pc.and_(
            pc.is_in(batch.column("_key"), value_set=wanted), pc.not_equal(batch.column("_op"), int(Op.READ))
        )
        rows = batch.filter(mine)
        columns = (rows.column(name).to_pylist() for name in ("_node", "_key", "_ts"))
        for node, key, at in zip(*columns, strict=True):
            times[node, key] = max(times[node, key], at)
    return times


def _winner(
    difference: Difference,
    policies: Policies,
    priorities: Mapping[str, int],
    times: Mapping[tuple[str, bytes], int],
    *,
    delete: bool,
) -> str | None:
    """The node whose row is right; None where there is none to send."""
    nodes = difference.holders + (difference.absent if delete else [])
    if not difference.holders or not difference.key:
        return None
    candidates = [
        Candidate(
            Version(node, 0, times.get((node, difference.key), 0), Op.UPDATE, {}, rank=priorities[node]),
            priorities[node],
        )
        for node in nodes
    ]
    return reduce(lambda a, b: _better(a, b, policies), candidates).version.node


def _better(left: Candidate, right: Candidate, policies: Policies) -> Candidate:
    side = policies.decide(left, right)[0] or last_write_wins(left, right)  # a person looks at the plan
    return left if side is Side.LEFT else right


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("--yes writes without asking", file=sys.stderr)
        return False
    return input("write these rows? [y/N] ").strip().lower() in ("y", "yes")
