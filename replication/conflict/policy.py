"""Policies: who wins between two versions neither of which saw the other.

A policy is a pure function of the two. It must be total over its own answers, deterministic, and give the
same winner when its arguments are swapped; answering None leaves the decision to the next policy of the
table's list. The list ends with `last_write_wins`, which always decides (ties go to the node with the higher
priority, then to the name that sorts last), or with `manual`, which never does: the key goes on hold.

A custom policy is any callable of this shape, named in the configuration as `module:attribute`:

    def newest_balance(left: Candidate, right: Candidate) -> Side | None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import cast

from replication.change import Op
from replication.conflict.version import Version
from replication.errors import ConfigError


class Side(StrEnum):
    """Which of the two versions a policy chose."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of two conflicting versions, as a policy sees it."""

    version: Version
    priority: int

    @property
    def order(self) -> tuple[int, int, str]:
        """Total order of `last_write_wins`."""
        return self.version.time, self.priority, self.version.node


Policy = Callable[[Candidate, Candidate], Side | None]


def last_write_wins(left: Candidate, right: Candidate) -> Side | None:
    """The later hybrid time wins; then the higher priority, then the name."""
    return Side.LEFT if left.order > right.order else Side.RIGHT


def source_priority(left: Candidate, right: Candidate) -> Side | None:
    """The node with the higher priority wins, the later write among equals.

    A write that saw a winner inherits its rank, so that what follows from a decision never loses to
    what the decision had already beaten.
    """
    a, b = left.version.rank, right.version.rank
    if a == b:
        return None
    return Side.LEFT if a > b else Side.RIGHT


MERGE_FIELDS = "merge_fields"
MANUAL = "manual"
BUILT_IN: Mapping[str, Policy] = {"last_write_wins": last_write_wins, "source_priority": source_priority}


@dataclass(frozen=True, slots=True)
class Policies:
    """A table's policies, in order.

    Attributes:
        merge: changes to different columns both survive.
        chain: what decides the rest, as (name, policy).
        manual: what the chain leaves undecided a person decides; else the last of the chain always decides.
    """

    merge: bool
    chain: tuple[tuple[str, Policy], ...]
    manual: bool = False

    def decide(self, left: Candidate, right: Candidate) -> tuple[Side | None, str]:
        """The winner, or None if a person must say; and the name of the policy that decided so."""
        for name, policy in self.chain:
            if (side := policy(left, right)) is not None:
                return side, name
        if not self.manual:
            message = "a policy list must end with one that always decides"
            raise AssertionError(message)
        if left.version.op is Op.DELETE and right.version.op is Op.DELETE:
            return last_write_wins(left, right), "last_write_wins"  # they agree
        return None, MANUAL


def load_policies(names: Sequence[str]) -> Policies:
    """Build a table's policies from the names in the configuration.

    Raises:
        ConfigError: a name is neither built in nor an importable `module:attribute`.
    """
    chain = [(name, _load(name)) for name in names if name not in (MERGE_FIELDS, MANUAL)]
    manual = MANUAL in names
    if manual and MERGE_FIELDS in names:
        message = "a row cannot go on hold in part"
        raise ConfigError(message, hint=f"leave out {MERGE_FIELDS} or {MANUAL}")
    if not manual and (not chain or chain[-1][0] != "last_write_wins"):
        chain.append(("last_write_wins", last_write_wins))
    return Policies(MERGE_FIELDS in names, tuple(chain), manual)


def _load(name: str) -> Policy:
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    try:
        return cast(Policy, getattr(import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        message = f"conflict policy {name!r} cannot be loaded: {error}"
        hint = f"use {', '.join([*BUILT_IN, MERGE_FIELDS])}, or module:attribute of an importable callable"
        raise ConfigError(message, hint=hint) from error


def conflict_kind(left: Op, right: Op) -> str:
    """The name under which a conflict of these two operations is recorded."""
    if left is Op.INSERT and right is Op.INSERT:
        return "insert_insert"
    names = ("delete" if op is Op.DELETE else "update" for op in (left, right))
    return "_".join(names)
