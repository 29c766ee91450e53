"""`pause` and `resume`: stored on the nodes, told to the group that runs, and put on record."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.commands.common import engines_of
from cluster.config import GroupConfig
from cluster.config_reader import suggest
from cluster.lease import GroupLease
from cluster.pausing import Pauses, read_pauses, store_pauses
from cluster.running import Way, note_at_rest
from replication.audit.store import AuditInUse
from replication.errors import ConfigError, Terminal, Transient


@dataclass(frozen=True, slots=True)
class Steered:
    """What came of it.

    Attributes:
        since: the nodes that are paused now, and since when.
        changed: of those that were named, the ones for which it is something new.
        left: how many transactions paused nodes have not answered.
    """

    since: Mapping[str, str]
    changed: list[str]
    left: int


def steer(way: Way, pause: Collection[str] = (), resume: Collection[str] = ()) -> Steered:
    """Pause and resume nodes.

    Raises:
        ConfigError: there is no such node.
        NodeUnavailable: no node answers.
    """
    _refuse_unknown(way.config, [*pause, *resume])
    engines = engines_of(way.config)
    before = read_pauses(engines)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    after = before.changed(pause, resume, now)
    changed = [n for n in (*pause, *resume) if (n in before.since) != (n in after.since)]
    if changed:
        store_pauses(engines, after)  # first: resolvers that begin from now on read it
    records = [("paused" if n in after.since else "resumed", {"node": n}) for n in changed]
    return Steered(after.since, changed, _tell(way, after, records))


def _tell(way: Way, pauses: Pauses, records: Sequence[tuple[str, Any]]) -> int:
    """Tell the running group and put it on record; how many transactions paused nodes have not answered."""
    if not way.runs:
        try:
            note_at_rest(way.config, records)
        except AuditInUse:
            pass
        else:
            _refuse_elsewhere(way.config)
            return 0
    with way.open() as group:
        left = group.pause(pauses.since)  # also when nothing is new: the last try may have been cut off
        for kind, detail in records:
            group.note(kind, detail)
    return left


def _refuse_elsewhere(config: GroupConfig) -> None:
    """The audit log's folder says that the group does not run; the nodes may know better.

    Raises:
        Terminal: it runs, and was not told.
    """
    with closing(GroupLease(config.group, engines_of(config))) as lease, suppress(Transient):
        if other := lease.taken():
            message = f"this is stored, but {other}, which runs the group, was not told"
            raise Terminal(message, hint="do it again where its audit log is, or with --address")


def _refuse_unknown(config: GroupConfig, nodes: Collection[str]) -> None:
    names = [n.name for n in config.nodes]
    for node in nodes:
        if node in names:
            continue
        if node in {m.name for m in config.tables}:
            message = f"{node} is a table; in this release nodes can be paused, not tables"
            raise ConfigError(message, hint=f"name one of: {', '.join(names)}")
        message = f"no node called '{node}'"
        raise ConfigError(message, hint=suggest(node, names))
