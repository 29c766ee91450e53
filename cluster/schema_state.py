"""What each node was last known to have of the mapped tables: durable, on the node itself.

By it a change that was made while the group was down is noticed at the next start, columns that do not travel
stay at home after it, and a group that was halted says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.config import GroupConfig
from cluster.topology import Topology
from replication.engines import load_engine
from replication.errors import SchemaChanged
from replication.schema import Column, Table, TableMapping, TableSchema
from replication.types import CanonicalType, Kind

NAME = "tables"


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a table stopped the group.

    Attributes:
        table: canonical table name.
        node: where it was changed.
        change: the statement, or what is different.
        order: of the change in the node's log; 0 if it was noticed at a start.
    """

    table: str
    node: str
    change: str
    order: int = 0


@dataclass(slots=True)
class NodeState:
    """What one node keeps for the group.

    Attributes:
        tables: canonical table name to what the node has of it.
        agreed: to the columns that travel, with the mapping that they were agreed under.
        accepted: to the order in the node's log up to which changes of the table itself are settled.
        halted: to why it stopped the group.
        late: to the columns that did not travel from the beginning.
        past: to the columns that travelled once.
    """

    tables: dict[str, TableSchema] = field(default_factory=dict)
    agreed: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    halted: dict[str, Halt] = field(default_factory=dict)
    late: dict[str, tuple[str, ...]] = field(default_factory=dict)
    past: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def dump(self) -> str:
        """As JSON text. Orders have up to 96 bits, so they are hexadecimal."""
        return json.dumps(
            {
                "tables": {name: _dump_schema(schema) for name, schema in self.tables.items()},
                "agreed": {name: [under, *columns] for name, (under, columns) in self.agreed.items()},
                "accepted": {name: f"{order:x}" for name, order in self.accepted.items()},
                "halted": {h.table: [h.node, h.change, f"{h.order:x}"] for h in self.halted.values()},
                "late": self.late,
                "past": self.past,
            }
        )

    @classmethod
    def load(cls, text: str) -> NodeState:
        """Undo `dump`."""
        s: dict[str, Any] = json.loads(text)
        return cls(
            {name: _load_schema(name, schema) for name, schema in s["tables"].items()},
            {name: (under, tuple(columns)) for name, (under, *columns) in s["agreed"].items()},
            {name: int(order, 16) for name, order in s["accepted"].items()},
            {t: Halt(t, node, change, int(order, 16)) for t, (node, change, order) in s["halted"].items()},
            {name: tuple(columns) for name, columns in s["late"].items()},
            {name: tuple(columns) for name, columns in s.get("past", {}).items()},
        )


def load_states(config: GroupConfig) -> dict[str, NodeState]:
    """The state of every node; an empty one where there is none yet.

    Raises:
        NodeUnavailable: a node cannot be reached.
    """
    states = {}
    for node in config.by_priority():
        with closing(load_engine(node, config.group).control()) as control:
            try:
                text = control.get_state(NAME)
            except SchemaChanged:  # not even our own tables are there
                text = None
        states[node.name] = NodeState() if text is None else NodeState.load(text)
    return states


def save_states(config: GroupConfig, states: Mapping[str, NodeState], tables: tuple[Table, ...] = ()) -> None:
    """Store the states of nodes.

    Args:
        config: the group.
        states: by node.
        tables: what to prepare a node for that has none of our tables yet; see `Control.prepare`.
    """
    for name, state in states.items():
        with closing(load_engine(config.node(name), config.group).control()) as control:
            text = state.dump()
            try:
                control.put_state(NAME, text)
            except SchemaChanged:
                control.prepare(tables)
                control.put_state(NAME, text)


def mapped_as(mapping: TableMapping) -> str:
    """What the configuration says of a table's columns, as text: after it was changed, agree anew."""
    names = {c: dict(sorted(n.items())) for c, n in sorted(mapping.columns.items())}
    return json.dumps([sorted(mapping.exclude), names, dict(sorted(mapping.names.items()))])


def agreed_columns(states: Mapping[str, NodeState], mapping: TableMapping) -> tuple[str, ...] | None:
    """The columns of a table that travel; None if that has not been agreed under this mapping."""
    for state in states.values():
        under, columns = state.agreed.get(mapping.name, ("", ()))
        if under == mapped_as(mapping):
            return columns
    return None


def as_agreed(topology: Topology, states: Mapping[str, NodeState]) -> Topology:
    """The topology with only those columns that travel, and with what is known of each node's tables."""
    tables = []
    for table in topology.tables:
        agreed = agreed_columns(states, table.mapping)
        if agreed is not None:
            columns = tuple(c for c in table.schema.columns if c.name in agreed)
            table = replace(table, schema=replace(table.schema, columns=columns))
        tables.append(_knowing(table, states))
    return replace(topology, tables=tuple(tables))


def _knowing(table: Table, states: Mapping[str, NodeState]) -> Table:
    known = {node: s.tables[table.name] for node, s in states.items() if table.name in s.tables}
    accepted = {node: s.accepted[table.name] for node, s in states.items() if table.name in s.accepted}
    late = frozenset(column for s in states.values() for column in s.late.get(table.name, ()))
    past = frozenset(column for s in states.values() for column in s.past.get(table.name, ()))
    return replace(table, known=known, accepted=accepted, late=late, past=past)


def _dump_schema(schema: TableSchema) -> dict[str, Any]:
    columns = [
        [c.name, c.type.kind, c.type.native, c.type.item, c.nullable, c.generated, c.default]
        for c in schema.columns
    ]
    return {"key": list(schema.key), "columns": columns}


def _load_schema(name: str, stored: Mapping[str, Any]) -> TableSchema:
    columns = tuple(
        Column(
            column,
            CanonicalType(Kind(kind), native, Kind(item) if item else None),
            nullable,
            generated,
            default,
        )
        for column, kind, native, item, nullable, generated, default in stored["columns"]
    )
    return TableSchema(name, columns, tuple(stored["key"]))
