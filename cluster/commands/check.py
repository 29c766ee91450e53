"""Read the configuration, connect to every node, and say what would keep the group from starting.

Nothing is changed on any node. Prints how every table is mapped: for each column its name and type on every
node, what a node narrows and what it holds rows for; then what each node lacks and the statement that mends
it.

Example:
  sync-worker check -c sync.yaml

Exits 0 if the group can start, 1 if something must be mended first, 2 if a node could not be asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.commands.common import FAILED, OK, add_json, load_config, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.config import GroupConfig
    from cluster.mapping import Place
    from cluster.topology import Topology
    from replication.engine import Finding
    from replication.schema import NodeConfig, Table

_PIPE_WIDTH = 1_000
_NAMES = {
    "audit": "audit log",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "kafka": "Kafka",
    "tracing": "traces",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print, and give the exit code."""
    from cluster import audit_log, mapping, tracing
    from cluster.retries import stores
    from cluster.schema_state import as_agreed, load_states
    from cluster.sharing import stores as shared_stores
    from cluster.topology import open_catalogs, read_topology

    config = load_config(args)
    with open_catalogs(config) as catalogs:
        topology = as_agreed(read_topology(config, catalogs), load_states(config))
        findings = {
            node: [
                *_missing(config, topology, node),
                *mapping.findings(config, topology, node),
                *catalog.preflight(_present(topology, node)),
            ]
            for node, catalog in catalogs.items()
        }
    audit = audit_log.findings(config.audit_path, config.audit)
    beside = {
        "audit": audit,
        "rabbitmq": stores.findings(config),
        "redis": shared_stores.findings(config),
        "kafka": _of_kafka(config),
        "tracing": tracing.findings(config.tracing),
    }
    found = (*findings.values(), *beside.values())
    ready = not any(f.level == "error" for one in found for f in one)
    if args.json:
        more = {name: [_plain(f) for f in one] for name, one in beside.items()}
        print_json(as_json(config, topology, findings, ready) | more)
    else:
        from rich.console import Console

        # A terminal wraps the cells; what reads a pipe wants its lines whole.
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        console = Console(highlight=False, soft_wrap=True, width=width)
        report(config, topology, findings, console, beside)
    return OK if ready else FAILED


def _of_kafka(config: GroupConfig) -> Sequence[Finding]:
    if config.kafka is None:
        return ()
    from cluster.kafka.client import findings

    return findings(config.kafka)


def report(
    config: GroupConfig,
    topology: Topology,
    findings: Mapping[str, Sequence[Finding]],
    console: Console,
    beside: Mapping[str, Sequence[Finding]],
) -> None:
    """Print the mapping of every table, the findings of every node and of all else, the verdict."""
    for table in topology.tables:
        _print_table(config, topology, table, console)
    errors = 0
    for node, found in findings.items():
        console.print(f"{node} ({config.node(node).engine})" + ("" if found else ": nothing to mend"))
        errors += _print_findings(found, console)
    for name, found in beside.items():
        if found:
            console.print(_NAMES[name])
            errors += _print_findings(found, console)
    mend = f"{errors} error{'s' if errors > 1 else ''} to mend first"
    console.print(mend if errors else f"the group '{config.group}' is ready to start: sync-worker up")


def _print_findings(found: Sequence[Finding], console: Console) -> int:
    """Print them, errors first; gives how many errors there are."""
    for finding in sorted(found, key=lambda f: f.level != "error"):
        console.print(f"  {finding.level}: {finding.subject}: {finding.message}", markup=False)
        console.print(f"    remedy: {finding.remedy}", markup=False)
    return sum(f.level == "error" for f in found)


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level,
        "subject": finding.subject,
        "message": finding.message,
        "remedy": finding.remedy,
    }


def as_json(
    config: GroupConfig, topology: Topology, findings: Mapping[str, Sequence[Finding]], ready: bool
) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "group": config.group,
        "ready": ready,
        "nodes": {node: [_plain(f) for f in found] for node, found in findings.items()},
        "tables": [table_json(config, topology, table) for table in topology.tables],
    }


def local_name(node: NodeConfig, table: Table, column: str) -> str:
    """What a column is called on a node."""
    if node.engine == "mongodb" and column == table.mapping.rest:
        return "(every other field)"
    if node.engine != "mongodb" or column not in table.schema.key:
        return table.mapping.local(node.name, column)
    return "_id" if len(table.schema.key) == 1 else f"_id.{column}"


def _print_table(config: GroupConfig, topology: Topology, table: Table, console: Console) -> None:
    from rich.table import Table as Grid

    from cluster.mapping import places
    from replication.filter import described

    mapping = table.mapping
    heads = []
    for node in config.by_priority():
        created = " (will be created)" if mapping.name in topology.missing[node.name] else ""
        heads.append(f"{node.name}: {mapping.names[node.name]}{created if config.create_tables else ''}")
    title = (
        f"{table.name}: key {', '.join(mapping.key)}; conflict {', '.join(mapping.conflict)}; "
        f"initial {mapping.initial}"
    )
    grid = Grid("column", "type", *heads, title=title, title_justify="left")
    for column in table.schema.columns:
        kind = column.type.kind + ("" if column.nullable else ", not null")
        kind += ", generated" if column.generated else ""
        found = places(config, topology, table, column)
        cells = [_cell(local_name(n, table, column.name), found.get(n.name)) for n in config.by_priority()]
        grid.add_row(column.name, kind, *cells)
    console.print(grid)
    for name, alternatives in mapping.where.items():
        console.print(f"{name} holds only rows with {described(alternatives)}", markup=False)
    if mapping.exclude:
        console.print(f"never leaves its node: {', '.join(sorted(mapping.exclude))}", markup=False)
    console.print()


def _cell(name: str, place: Place | None) -> str:
    """A column on one node: its name and type, then what is not the same there."""
    if place is None:
        return name
    lines = [f"{name} {place.native}".rstrip()]
    if place.pairing.rule:
        lines.append(f"{place.pairing.verdict}: {place.pairing.rule}")
    lines += [f"held: {held}" for held in place.pairing.held]
    return "\n".join(lines)


def table_json(config: GroupConfig, topology: Topology, table: Table) -> dict[str, Any]:
    """How a table is mapped, as `--json` prints it."""
    from cluster.mapping import places
    from replication.filter import described

    mapping = table.mapping
    return {
        "table": table.name,
        "key": list(mapping.key),
        "declared_by": topology.declared_by[table.name],
        "conflict": list(mapping.conflict),
        "initial": mapping.initial,
        "exclude": sorted(mapping.exclude),
        "where": {node: described(alternatives) for node, alternatives in mapping.where.items()},
        "nodes": {
            node.name: {
                "name": mapping.names[node.name],
                "exists": mapping.name not in topology.missing[node.name],
            }
            for node in config.nodes
        },
        "columns": [
            {
                "column": column.name,
                "type": column.type.kind.value,
                "native": column.type.native,
                "nullable": column.nullable,
                "generated": column.generated,
                "names": {node.name: local_name(node, table, column.name) for node in config.nodes},
                "nodes": {
                    node: {
                        "type": place.declaration.type.native,
                        "verdict": place.pairing.verdict.value,
                        "rule": place.pairing.rule,
                        "held": list(place.pairing.held),
                    }
                    for node, place in places(config, topology, table, column).items()
                },
            }
            for column in table.schema.columns
        ],
    }


def _present(topology: Topology, node: str) -> list[Table]:
    return [table for table in topology.tables if table.name not in topology.missing[node]]


def _missing(config: GroupConfig, topology: Topology, node: str) -> list[Finding]:
    from replication.engine import Finding

    if config.create_tables:
        return []
    remedy = "create it, or set create_tables: true"
    return [
        Finding("error", name, f"{topology.table(name).mapping.names[node]} does not exist", remedy)
        for name in sorted(topology.missing[node])
    ]
