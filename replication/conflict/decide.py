"""What becomes of a key when one more write of it arrives: the causal rule, then the table's policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replication.change import Op
from replication.clock import tick
from replication.conflict.merge import merge_fields
from replication.conflict.policy import Candidate, Policies, Side, conflict_kind
from replication.conflict.rows import KeyState
from replication.conflict.version import ALL, Version, stack


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two writes of one key neither of which saw the other, and what was decided.

    `winner` is the node of the surviving write, `merged`, or nobody (`""`) while the key is on hold.
    """

    table: str
    key: bytes
    kind: str
    left: Version
    right: Version
    winner: str
    policy: str

    @property
    def ident(self) -> str:
        """The same two writes give the same text, whichever came first and however often."""
        dots = sorted(f"{v.node}:{v.order:x}" for v in (self.left, self.right))
        return f"{self.table}:{self.key.hex()}:{'+'.join(dots)}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one write.

    Attributes:
        version: what every node should hold now.
        lost: the node where the write was made does not hold that version.
        clash: the write had not seen everything that is on its way, so every other node needs the outcome.
        conflict: what is recorded; at most one.
        held: the key goes on hold; `version` stays as it was.
    """

    version: Version
    lost: bool = False
    clash: bool = False
    conflict: Conflict | None = None
    held: bool = False


def decide(state: KeyState, write: Version, policies: Policies, priorities: Mapping[str, int]) -> Decision:
    """Weigh one more write against a key that is on its way.

    Raises `write.time` where causality asks for it.
    """
    current = state.version
    if write.node in state.time:
        write.time = tick(write.time, state.time[write.node])
    saw_winner = current.order <= write.saw(current.node)
    if saw_winner:
        write.time = tick(write.time, current.time)
        write.rank = max(write.rank, current.rank)
    # The winner saw it, or something that the winner beat. In normal running a write arrives before those
    # that saw it; after a restart each log is read again at its own pace.
    dominated = write.order <= max(current.saw(write.node), state.seen.get(write.node, 0))
    follows = not dominated and saw_winner and _saw_all(state, write)
    if policies.merge and {current.op, write.op}.isdisjoint((Op.DELETE, Op.READ)):
        return _merge(state, write, policies, priorities, dominated=dominated, follows=follows)
    if dominated:
        if same_dot(current, write):  # a decision learnt from an echo
            current.stray, current.learnt = write.stray, False
            if write.have == ALL:
                current.layers = write.layers  # the echo need not show the whole row
        return Decision(current, lost=not same_dot(current, write))
    if follows:
        # An operator's values may not have reached the node, and the write leaves them alone.
        write.stray |= current.op is Op.READ and current.stray and write.have != ALL
        return Decision(_follow(current, write))
    if current.op is Op.READ:
        winner = _on_top(_with_read(current, write, priorities), current, write)
        return Decision(winner, lost=winner is not write, clash=True)
    if saw_winner:  # it beats what the winner had beaten
        return Decision(_follow(current, write), clash=True)
    side, policy = policies.decide(_candidate(current, priorities), _candidate(write, priorities))
    if side is None:
        return Decision(current, conflict=_conflict(state, write, "", policy), held=True)
    winner = _on_top(current if side is Side.LEFT else write, current, write)
    conflict = _conflict(state, write, winner.node, policy)
    return Decision(winner, lost=winner is not write, clash=True, conflict=conflict)


def same_dot(a: Version, b: Version) -> bool:
    """Whether both are the same write; a key change is a delete and an insert with orders of their own."""
    return (a.node, a.order) == (b.node, b.order)


def _saw_all(state: KeyState, write: Version) -> bool:
    return all(order <= write.saw(node) for node, order in state.last.items())


def _follow(current: Version, write: Version) -> Version:
    """A write that saw the version: it replaces it, and leaves what it does not hold as it was."""
    if write.op is not Op.DELETE and write.have != ALL and not current.learnt:
        # Of a row that must be read where it was written, nobody knows what the write leaves out.
        unknown = current.op is not Op.DELETE and not current.layers
        write.layers = () if unknown else stack(write.layers, current.layers)
    return write


def _on_top(winner: Version, current: Version, write: Version) -> Version:
    """The winner with the loser beneath, which may have changed a column that the winner left alone."""
    loser = write if winner is current else current
    if Op.DELETE not in (winner.op, loser.op) and winner.layers and winner.have != ALL:
        winner.layers = stack(winner.layers, loser.layers) if loser.layers else ()
    return winner


def _with_read(current: Version, write: Version, priorities: Mapping[str, int]) -> Version:
    """A row of the initial copy is no write: it never beats one, and of two the higher priority wins."""
    if current.op is not write.op:
        return write
    current_first = _candidate(current, priorities).order[1:] > _candidate(write, priorities).order[1:]
    return current if current_first else write


def _merge(
    state: KeyState,
    write: Version,
    policies: Policies,
    priorities: Mapping[str, int],
    *,
    dominated: bool,
    follows: bool,
) -> Decision:
    current = state.version
    merged = merge_fields(current, write, policies, priorities, state.decided_cut)
    if follows:
        return Decision(merged.version)
    if dominated:
        return Decision(merged.version, lost=True, clash=merged.won)
    concurrent = current.order > write.saw(current.node)
    conflict = _conflict(state, write, "merged", merged.policy) if concurrent else None
    return Decision(merged.version, lost=True, clash=True, conflict=conflict)


def _candidate(version: Version, priorities: Mapping[str, int]) -> Candidate:
    return Candidate(version, priorities[version.node])


def _conflict(state: KeyState, write: Version, winner: str, policy: str) -> Conflict:
    kind = conflict_kind(state.version.op, write.op)
    return Conflict(state.table, state.key, kind, state.version, write, winner, policy)
