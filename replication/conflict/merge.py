"""Merging two versions column by column.

Each column remembers who set it and what that write had seen, so causality is exact per column: a write
takes every column that it changed from writes that it saw, loses those that writes which saw it have
changed, and only where neither saw the other does the rest of the policies decide. The outcome does
not depend on the order in which the writes arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from replication.change import Op
from replication.conflict.policy import MERGE_FIELDS, Candidate, Policies, Side
from replication.conflict.version import ALL, FieldDot, Version, restrict, stack
from replication.marker import Vector


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged version, the policy that decided the last contested column, and whether `write` won any."""

    version: Version
    policy: str
    won: bool


def merge_fields(
    current: Version, write: Version, policies: Policies, priorities: Mapping[str, int], decided: Vector
) -> Merged:
    """Merge one more write into a version.

    Args:
        current: the version so far.
        write: the write, whose `fields` are its own.
        policies: what decides contested columns.
        priorities: node name to priority.
        decided: the cut of the predecessor's decision that the version began as; it had weighed every write
            up to there, deletes included.
    """
    lost, policy = 0, MERGE_FIELDS
    for column, dot in current.fields.items():
        overlap = write.changed & _bits(column, current.fields)
        if overlap and not _saw(write, dot):
            if write.order <= _seen_by(dot, write.node):
                lost |= overlap
                continue
            mine, theirs = Candidate(write, priorities[write.node]), _candidate(dot, priorities)
            side, policy = policies.decide(theirs, mine)
            if side is Side.LEFT:
                lost |= overlap
    won = write.changed & ~lost
    won_values = won
    if write.order <= decided.get(write.node, 0):  # the decision holds the outcome already
        won_values &= ~_settled(current.fields, decided)
    newer = max(current, write, key=lambda v: (v.time, priorities[v.node], v.node))
    version = replace(
        newer,
        op=Op.INSERT if current.op is write.op is Op.INSERT else Op.UPDATE,
        absorbed={n: max(current.saw(n), write.saw(n)) for n in priorities},
        layers=stack(restrict(write.layers, won_values), stack(current.layers, write.layers)),
        rank=max(current.rank, write.rank),
        fields=_fields(current, write, won),
    )
    return Merged(version, policy, bool(won_values))


def _bits(column: int, fields: Mapping[int, FieldDot]) -> int:
    """The columns that an entry stands for: one, or with `ALL` every one without an entry of its own."""
    return 1 << column if column != ALL else ~_explicit(fields)


def _explicit(fields: Mapping[int, FieldDot]) -> int:
    return sum(1 << c for c in fields if c != ALL)


def _settled(fields: Mapping[int, FieldDot], decided: Vector) -> int:
    """The columns that no write after the decision has set, those whose writer is not known yet included."""
    settled = 0 if ALL in fields else ~_explicit(fields)
    for column, dot in fields.items():
        if dot.order <= decided.get(dot.node, 0):
            settled |= _bits(column, fields)
    return settled


def _saw(write: Version, dot: FieldDot) -> bool:
    return dot.order <= write.saw(dot.node)


def _seen_by(dot: FieldDot, node: str) -> int:
    return dot.order if node == dot.node else dot.absorbed.get(node, 0)


def _candidate(dot: FieldDot, priorities: Mapping[str, int]) -> Candidate:
    priority = priorities[dot.node]
    return Candidate(Version(dot.node, dot.order, dot.time, Op.UPDATE, dot.absorbed, rank=priority), priority)


def _fields(current: Version, write: Version, won: int) -> dict[int, FieldDot]:
    """Who set which column, after `write` won those in the mask `won`."""
    dot = FieldDot(write.node, write.order, write.time, write.absorbed)
    fields = {c: dot if c != ALL and won >> c & 1 else d for c, d in current.fields.items()}
    if write.changed != ALL:
        return fields | {c: dot for c in write.fields if won >> c & 1}
    if won < 0:  # also every column that has no entry of its own
        fields[ALL] = dot
    return fields
