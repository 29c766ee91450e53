"""How the nodes' declarations of every mapped column go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.config import GroupConfig
from cluster.config_nodes import UNDECLARED_ENGINES
from cluster.topology import Topology
from replication.engine import Finding
from replication.engines.creation import created
from replication.narrowing import CLOCKS
from replication.pairing import Declaration, Pairing, pair
from replication.schema import Column, Table


@dataclass(frozen=True, slots=True)
class Place:
    """A mapped column on one node.

    Attributes:
        declaration: what is declared there, or will be where the table is created.
        pairing: what becomes there of values that the declaring node can hold.
    """

    declaration: Declaration
    pairing: Pairing

    @property
    def native(self) -> str:
        """The declared type for people, without its character set."""
        return self.declaration.type.native.split(" CHARACTER SET ")[0]


def places(config: GroupConfig, topology: Topology, table: Table, column: Column) -> Mapping[str, Place]:
    """A mapped column on every node that has it or will have it, the node of highest priority first."""
    source = topology.declared_by[table.name]
    wide = Declaration(column.type, config.node(source).engine)
    found = {}
    for node in config.by_priority():
        there = topology.schemas[table.name].get(node.name)
        if there is None or node.engine in UNDECLARED_ENGINES:
            other = created(wide, node.engine)
        elif column.name in (names := {c.name: c for c in there.columns}):
            other = Declaration(names[column.name].type, node.engine)
        else:
            continue  # preflight says that it is missing
        found[node.name] = Place(other, pair(wide, other))
    return found


def findings(config: GroupConfig, topology: Topology, node: str) -> Iterator[Finding]:
    """What only shows when the nodes are compared: key columns that some node would narrow."""
    for table in topology.tables:
        for name in table.schema.key:
            column = table.schema.column(name)
            if column.type.kind in CLOCKS:
                yield from _rough_key(config, topology, table, column, node)


def _rough_key(
    config: GroupConfig, topology: Topology, table: Table, column: Column, node: str
) -> Iterator[Finding]:
    declared = {
        n: p.declaration
        for n, p in places(config, topology, table, column).items()
        if p.declaration.engine not in UNDECLARED_ENGINES
    }
    finest = max(declared, key=lambda n: declared[n].digits)
    if node not in declared or declared[node].digits == declared[finest].digits:
        return
    local = f"{table.mapping.names[node]}.{table.mapping.local(node, column.name)}"
    message = (
        f"the key column {local} is {declared[node].type.native}, "
        f"and {finest} keeps {declared[finest].digits} digits of the second ({declared[finest].type.native})"
    )
    remedy = "declare it with as many digits on both; in a key nothing is cut"
    yield Finding("error", table.name, message, remedy)
