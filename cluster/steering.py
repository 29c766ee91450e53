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
class Wanted:
    """What an operator names.

    Attributes:
        nodes: of the configuration.
        tables: of the configuration.
    """

    nodes: Collection[str] = ()
    tables: Collection[str] = ()


NOTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Steered:
    """What came of it.

    Attributes:
        since: the nodes that are paused now, and since when.
        tables: the tables that are.
        changed: of the nodes that were named, the ones for which it is something new.
        changed_tables: the same of the tables.
        left: how many transactions nodes have not answered.
    """

    since: Mapping[str, str]
    tables: Mapping[str, str]
    changed: list[str]
    changed_tables: list[str]
    left: int


def steer(way: Way, pause: Wanted = NOTHING, resume: Wanted = NOTHING) -> Steered:
    """Pause and resume nodes and tables.

    Raises:
        ConfigError: there is no such node or table, or it cannot be paused apart.
        NodeUnavailable: no node answers.
    """
    _refuse_unknown(way.config, [*pause.nodes, *resume.nodes], [*pause.tables, *resume.tables])
    _refuse_to_split(way.config, pause.tables)
    engines = engines_of(way.config)
    before = read_pauses(engines)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    after = before.changed(pause.nodes, resume.nodes, now, pause.tables, resume.tables)
    nodes = _changed([*pause.nodes, *resume.nodes], before.since, after.since)
    tables = _changed([*pause.tables, *resume.tables], before.tables, after.tables)
    if nodes or tables:
        store_pauses(engines, after)  # first: resolvers that begin from now on read it
    records = [("paused" if n in after.since else "resumed", {"node": n}) for n in nodes]
    records += [("paused" if t in after.tables else "resumed", {"table": t}) for t in tables]
    return Steered(after.since, after.tables, nodes, tables, _tell(way, after, records))


def _changed(names: Sequence[str], before: Collection[str], after: Collection[str]) -> list[str]:
    return [n for n in names if (n in before) != (n in after)]


def _tell(way: Way, pauses: Pauses, records: Sequence[tuple[str, Any]]) -> int:
    """Tell the running group and put it on record; how many transactions nodes have not answered."""
    if not way.runs:
        try:
            note_at_rest(way.config, records)
        except AuditInUse:
            pass
        else:
            _refuse_elsewhere(way.config)
            return 0
    with way.open() as group:
        left = group.pause(pauses)  # also when nothing is new: the last try may have been cut off
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


def _refuse_unknown(config: GroupConfig, nodes: Collection[str], tables: Collection[str]) -> None:
    known, mapped = [n.name for n in config.nodes], [m.name for m in config.tables]
    for node in nodes:
        if node in known:
            continue
        if node in mapped:
            message = f"{node} is a table, not a node"
            raise ConfigError(message, hint=f"name it as a table: --table {node}")
        message = f"no node called '{node}'"
        raise ConfigError(message, hint=suggest(node, known))
    for table in tables:
        if table not in mapped:
            message = f"no table called '{table}'"
            raise ConfigError(message, hint=suggest(table, mapped))


def _refuse_to_split(config: GroupConfig, tables: Collection[str]) -> None:
    """A transaction that is to become visible as one cannot wait in part.

    Raises:
        ConfigError: it would have to.
    """
    if tables and config.ordering == "transaction" and len(config.tables) > 1:
        message = "with ordering: transaction one table cannot be paused: its part would be missing"
        raise ConfigError(message, hint="pause a node, or choose ordering: key")
