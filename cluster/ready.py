"""Making the nodes ready: tables that exist and fit, and what the group is to know of them.

Used at the start of a group, and again after a log has shown that a table was changed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.config import GroupConfig
from cluster.evolve import Note, accept_place, evolve, halt
from cluster.mapping import findings
from cluster.schema_state import load_states, save_states
from cluster.topology import Topology, create_missing_tables, open_catalogs, read_topology
from replication.engine import Catalog
from replication.errors import ConfigError, SchemaChanged
from replication.schema import Table

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a group starts with.

    Attributes:
        tables: the mapped tables.
        notes: what was done about changes of tables, for the audit log.
    """

    tables: tuple[Table, ...]
    notes: list[Note] = field(default_factory=list, compare=False)


def can_start(config: GroupConfig) -> bool:
    """Whether a group that has never run may start; of one that has, its states say more, see `make_ready`.

    Raises:
        ConfigError: the configuration does not fit.
    """
    if any(state.tables for state in load_states(config).values()):
        return True
    with open_catalogs(config) as catalogs:
        topology = read_topology(config, catalogs)
        if config.create_tables:
            create_missing_tables(config, catalogs, topology)
        return _fit(config, catalogs, topology)


def make_ready(
    config: GroupConfig, accept: Collection[str] = (), stopped: SchemaChanged | None = None
) -> Ready | None:
    """Settle what has changed, create what is missing and run preflight.

    Args:
        config: the group.
        accept: tables to go on with as they are now.
        stopped: what a log has shown.

    Returns:
        None when a node cannot take part; why is in our log.

    Raises:
        SchemaChanged: a table's policy halts the group.
        ConfigError: the configuration does not fit.
    """
    if unknown := sorted(set(accept) - {m.name for m in config.tables}):
        message = f"--accept {unknown[0]}: no such table"
        raise ConfigError(message, hint="name a table as the configuration does")
    with open_catalogs(config) as catalogs:
        evolved = evolve(config, catalogs, accept, stopped)
        if config.create_tables and any(evolved.topology.missing.values()):
            create_missing_tables(config, catalogs, evolved.topology)
            evolved = evolve(config, catalogs, accept, stopped)  # what was made is known from the beginning
        topology = evolved.topology
        if not _fit(config, catalogs, topology):
            return None
    if evolved.stale:
        save_states(config, evolved.states, topology.tables)
    return Ready(topology.tables, evolved.notes)


def _fit(config: GroupConfig, catalogs: Mapping[str, Catalog], topology: Topology) -> bool:
    """Run preflight and log what it finds; whether every node can take part."""
    errors = 0
    for node, catalog in catalogs.items():
        for f in [*findings(config, topology, node), *catalog.preflight(topology.tables)]:
            errors += f.level == "error"
            detail = {"node": node, "subject": f.subject, "finding": f.message, "remedy": f.remedy}
            log.log(logging.ERROR if f.level == "error" else logging.WARNING, "preflight", extra=detail)
    return not errors


def go_on(config: GroupConfig, tables: Sequence[Table], stopped: SchemaChanged) -> Ready:
    """What the group goes on with after a log, or a node, has shown that a table was changed.

    Args:
        config: the group.
        tables: what it had.
        stopped: what was shown.

    Raises:
        SchemaChanged: it cannot go on by itself.
    """
    try:
        ready = make_ready(config, (), stopped)
    except ConfigError as error:  # a table or its key is gone
        log.error("tables_do_not_fit", extra={"error": str(error)})
        ready = None
    if ready is not None and ready.tables != tuple(tables):
        return ready
    if stopped.table and stopped.fits and ready is not None:
        accept_place(config, stopped)  # it was undone before we looked
        again = make_ready(config)
        if again is not None:
            return again
    if stopped.table:
        halt(config, stopped)
    raise stopped
