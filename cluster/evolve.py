"""From what the nodes have now and had before to the tables that the group goes on with.

Runs while the group stands still: at its start, and after a log has shown that a table was changed. A change
that the table's policy carries is made on the other nodes, one that it ignores is noted, and any other one
halts the group until somebody accepts it. Everything here can be done again after a crash in the middle.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cluster.config import GroupConfig
from cluster.config_nodes import UNDECLARED_ENGINES
from cluster.schema_state import (
    Halt,
    NodeState,
    agreed_columns,
    as_agreed,
    load_states,
    mapped_as,
    save_states,
)
from cluster.topology import Topology, read_topology
from replication.engine import Catalog
from replication.errors import SchemaChanged, Terminal
from replication.evolution import Changed, ColumnChange, carried, differences, ignored
from replication.schema import Column, Table, TableMapping, TableSchema

log = logging.getLogger(__name__)
Found = Mapping[str, Mapping[str, TableSchema | None]]
"""For each node that declares columns, what it has of each table."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was done, for the audit log."""

    table: str
    node: str
    change: str
    outcome: str


@dataclass(slots=True)
class Evolved:
    """What the group goes on with.

    Attributes:
        topology: its tables have only columns that travel, and know what each node has.
        states: of every node, to be stored once the group can start.
        notes: what was done.
        stale: whether a state differs from what the node holds.
    """

    topology: Topology
    states: dict[str, NodeState]
    notes: list[Note] = field(default_factory=list)
    stale: bool = False


def evolve(
    config: GroupConfig,
    catalogs: Mapping[str, Catalog],
    accept: Collection[str] = (),
    stopped: SchemaChanged | None = None,
) -> Evolved:
    """Settle what has changed.

    Args:
        config: the group.
        catalogs: see `topology.open_catalogs`.
        accept: tables to go on with as they are now.
        stopped: what a log has shown.

    Raises:
        SchemaChanged: a table's policy halts the group; that is stored on the node.
        InvalidConfig: the configuration does not fit the tables.
        NodeUnavailable: a node cannot be reached.
    """
    states = load_states(config)
    before = {node: state.dump() for node, state in states.items()}
    found = _read(config, catalogs)
    changes = list(_changes(config, states, found, accept))
    _halt_where_needed(config, states, found, changes, accept, stopped)
    topology = read_topology(config, catalogs)
    notes = []
    for mapping, node, change in changes:
        outcome = "ignored"
        if carried(mapping.on_alter, change):
            _carry(config, catalogs, states, topology.table(mapping.name), node, change, found, stopped)
            outcome = "carried"
        notes.append(Note(mapping.name, node, str(change), outcome))
    if any(n.outcome == "carried" for n in notes):
        topology, found = read_topology(config, catalogs), _read(config, catalogs)
    for name in accept:
        notes.append(Note(name, "", "", "accepted"))
    agreed = {m.name: _agree(m, topology, states, found, changes, accept) for m in config.tables}
    for node, state in states.items():
        _renew(state, config, agreed, found.get(node, {}), accept)
    topology = as_agreed(topology, states)
    for note in notes:
        detail = {"table": note.table, "node": note.node, "change": note.change}
        log.warning(f"schema_change_{note.outcome}", extra=detail)
    stale = any(before[node] != state.dump() for node, state in states.items())
    return Evolved(topology, states, notes, stale)


def halt(config: GroupConfig, error: SchemaChanged) -> None:
    """Store on its node that a change in its log has stopped the group."""
    states = load_states(config)
    state = states[error.node]
    state.halted[error.table] = Halt(error.table, error.node, _told(error), error.position or 0)
    save_states(config, {error.node: state})


def accept_place(config: GroupConfig, error: SchemaChanged) -> None:
    """Go on past a change that left nothing different."""
    state = load_states(config)[error.node]
    state.accepted[error.table] = max(error.position or 0, state.accepted.get(error.table, 0))
    save_states(config, {error.node: state})


def _read(config: GroupConfig, catalogs: Mapping[str, Catalog]) -> Found:
    return {
        node: {m.name: catalog.read_schema(m) for m in config.tables}
        for node, catalog in catalogs.items()
        if config.node(node).engine not in UNDECLARED_ENGINES
    }


def _changes(
    config: GroupConfig, states: Mapping[str, NodeState], found: Found, accept: Collection[str]
) -> Iterator[tuple[TableMapping, str, ColumnChange]]:
    """What is different from what was known, of tables that are not accepted as they are."""
    for mapping in config.tables:
        if mapping.name in accept or agreed_columns(states, mapping) is None:
            continue
        for node, tables in found.items():
            before, now = states[node].tables.get(mapping.name), tables[mapping.name]
            if before is not None and now is not None:
                yield from ((mapping, node, change) for change in differences(before, now))


def _halt_where_needed(
    config: GroupConfig,
    states: Mapping[str, NodeState],
    found: Found,
    changes: Collection[tuple[TableMapping, str, ColumnChange]],
    accept: Collection[str],
    stopped: SchemaChanged | None,
) -> None:
    for node, tables in found.items():
        for name, now in tables.items():
            if now is None and name in states[node].tables and name not in accept:
                _halt(config, states, Halt(name, node, "the table is gone"), stopped)
    for mapping, node, change in changes:
        agreed = agreed_columns(states, mapping) or ()
        if not carried(mapping.on_alter, change) and not ignored(mapping.on_alter, change, agreed):
            _halt(config, states, Halt(mapping.name, node, str(change)), stopped)


def _halt(
    config: GroupConfig, states: Mapping[str, NodeState], why: Halt, stopped: SchemaChanged | None
) -> None:
    """Store why, and stop.

    Raises:
        SchemaChanged: always.
    """
    if stopped is not None and (stopped.node, stopped.table) == (why.node, why.table):
        told = _told(stopped)
        known = "" if why.change in told else f"; {why.change}"
        why = replace(why, change=told + known, order=stopped.position or 0)
    states[why.node].halted[why.table] = why
    save_states(config, {why.node: states[why.node]})
    raise halted(why)


def _told(error: SchemaChanged) -> str:
    """What an error says of a table, without the table's name."""
    return error.message.removeprefix(f"{error.table}: ")


def halted(why: Halt) -> SchemaChanged:
    """The error of a halt."""
    hint = f"make the table fit on every node, then go on with: sync-worker up --accept {why.table}"
    message = f"{why.table}: {why.change}"
    return SchemaChanged(message, node=why.node, position=why.order or None, hint=hint).on(why.table)


def _carry(
    config: GroupConfig,
    catalogs: Mapping[str, Catalog],
    states: Mapping[str, NodeState],
    table: Table,
    node: str,
    change: ColumnChange,
    found: Found,
    stopped: SchemaChanged | None,
) -> None:
    """Make a change on every other node that has the table."""
    engine, other = config.node(node).engine, node
    if change.what is Changed.ADDED and (why := _takes_fields(config, catalogs, table, change.column, found)):
        _halt(config, states, Halt(table.name, node, why), stopped)
    try:
        fill = catalogs[node].filled(table.mapping, change.column) if change.what is Changed.ADDED else None
        for other, catalog in catalogs.items():
            if other == node or found.get(other, {}).get(table.name, table.schema) is None:
                continue
            if change.what is Changed.ADDED:
                catalog.add_column(table, change.column, engine, fill)
            else:
                catalog.widen_column(table, change.column, engine)
    except Terminal as error:
        where = "" if other == node else f" cannot be made on {other}"
        _halt(config, states, Halt(table.name, node, f"{change}{where}: {error.message}"), stopped)


def _takes_fields(
    config: GroupConfig, catalogs: Mapping[str, Catalog], table: Table, column: Column, found: Found
) -> str:
    """Why a new column cannot be carried: documents have its field already, and it has travelled; or empty.

    What the SQL nodes have of it is in the column of the rest, as JSON; in the new column their rows have the
    default. So the values must be read anew from the documents. A field that has not travelled yet is in the
    log, and is read for the new column.
    """
    mapping = table.mapping
    if not mapping.rest:
        return ""
    names = [c.name for c in table.schema.columns if c.name != column.name]
    for documents in (n.name for n in config.nodes if n.engine in UNDECLARED_ENGINES):
        taken = {mapping.local(documents, name).split(".")[0] for name in names} | mapping.exclude
        field_ = mapping.local(documents, column.name).split(".")[0]
        for node, tables in found.items():
            known = field_ not in taken and tables.get(table.name) is not None
            if known and catalogs[node].rest_has(table, field_):
                return (
                    f"{node} has values of the field {field_} in {mapping.rest}; "
                    f"add the column on every node, and once the group runs: sync-worker backfill "
                    f"{table.name} --from {documents}"
                )
    return ""


def _agree(
    mapping: TableMapping,
    topology: Topology,
    states: Mapping[str, NodeState],
    found: Found,
    changes: Collection[tuple[TableMapping, str, ColumnChange]],
    accept: Collection[str],
) -> tuple[str, ...]:
    """The columns that travel from now on."""
    columns = [c.name for c in topology.table(mapping.name).schema.columns]
    agreed = agreed_columns(states, mapping)
    if agreed is None:
        return tuple(columns)
    if mapping.name in accept:
        shapes = [tables[mapping.name] for tables in found.values()]
        everywhere = [{c.name for c in shape.columns} for shape in shapes if shape is not None]
        return tuple(c for c in columns if all(c in names for names in everywhere))
    added = [
        change.column.name
        for table, _, change in changes
        if table is mapping and change.what is Changed.ADDED and carried(mapping.on_alter, change)
    ]
    return tuple(c for c in columns if c in agreed or c in added)


def _renew(
    state: NodeState,
    config: GroupConfig,
    agreed: Mapping[str, tuple[str, ...]],
    found: Mapping[str, TableSchema | None],
    accept: Collection[str],
) -> None:
    """Take what was settled into a node's state."""
    state.tables = {name: schema for name, schema in found.items() if schema is not None}
    for m in config.tables:
        under, before = state.agreed.get(m.name, ("", ()))
        if under == mapped_as(m) and (new := set(agreed[m.name]).difference(before)):
            state.late[m.name] = tuple(sorted(new.union(state.late.get(m.name, ()))))
        once = {*before, *state.past.get(m.name, ())}.difference(agreed[m.name])
        state.past[m.name] = tuple(sorted(once))
    state.agreed = {m.name: (mapped_as(m), agreed[m.name]) for m in config.tables}
    for name in accept:
        if (why := state.halted.get(name)) is not None:
            state.accepted[name] = max(why.order, state.accepted.get(name, 0))
    state.halted = {}
