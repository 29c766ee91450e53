"""Which nodes and tables an operator has paused: durable, on every node that answers, for any `up` to find.

The newest version counts, so one that some nodes have missed does no harm. A running group is told by the
command; one that begins, or whose resolvers begin again, reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from replication.engine import Engine
from replication.errors import SchemaChanged, Terminal, Transient

log = logging.getLogger(__name__)
NAME = "paused"


@dataclass(frozen=True, slots=True)
class Pauses:
    """The paused nodes and tables.

    Attributes:
        version: grows with each change.
        since: by node since when, ISO 8601 in UTC.
        tables: by table since when.
    """

    version: int = 0
    since: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)

    def changed(
        self,
        pause: Collection[str],
        resume: Collection[str],
        now: str,
        pause_tables: Collection[str] = (),
        resume_tables: Collection[str] = (),
    ) -> Pauses:
        """With some more and some fewer; the same if that is so already."""
        since = _changed(self.since, pause, resume, now)
        tables = _changed(self.tables, pause_tables, resume_tables, now)
        if (since, tables) == (self.since, self.tables):
            return self
        return Pauses(self.version + 1, since, tables)


def _changed(
    known: Mapping[str, str], pause: Collection[str], resume: Collection[str], now: str
) -> dict[str, str]:
    since = {n: s for n, s in known.items() if n not in resume}
    return since | {n: now for n in pause if n not in since}


def read_pauses(engines: Mapping[str, Engine]) -> Pauses:
    """The newest that any node has; a node that is away is not asked.

    Raises:
        NodeUnavailable: no node answers.
    """
    found: list[Pauses] = []
    for node, engine in engines.items():
        with closing(engine.control()) as control:
            try:
                text = control.get_state(NAME)
            except SchemaChanged:  # not even our own tables are there
                text = None
            except Transient as away:
                _pass_over(node, away, last=not found and node == list(engines)[-1])
                continue
        found.append(Pauses(**json.loads(text)) if text else Pauses())
    return max(found, key=lambda p: p.version)


def store_pauses(engines: Mapping[str, Engine], pauses: Pauses) -> None:
    """Store it on every node that answers.

    Raises:
        NodeUnavailable: no node answers.
        Terminal: the group has never run.
    """
    text = json.dumps({"version": pauses.version, "since": dict(pauses.since), "tables": dict(pauses.tables)})
    stored = False
    for node, engine in engines.items():
        with closing(engine.control()) as control:
            try:
                control.put_state(NAME, text)
            except SchemaChanged:
                message = "the group has never run"
                raise Terminal(message, node=node, hint="start it with 'sync-worker up' first") from None
            except Transient as away:
                _pass_over(node, away, last=not stored and node == list(engines)[-1])
                continue
        stored = True


def _pass_over(node: str, away: Transient, *, last: bool) -> None:
    if last:
        raise away
    log.warning("node_not_asked", extra={"node": node, "error": str(away)})
