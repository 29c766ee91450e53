"""The `nodes` section of the configuration file."""

from __future__ import annotations

from cluster.config_reader import Problem, Value, check_identifier, suggest
from replication.engines import ENGINES
from replication.schema import NodeConfig

MAX_NODES = 3
PUBLIC_ENGINES = tuple(engine for engine in ENGINES if engine != "memory")
"""What is suggested; the memory engine serves tests only."""
UNDECLARED_ENGINES = frozenset({"mongodb"})
"""Engines whose tables declare no columns, so that another node must."""
_SCHEMES = {
    "postgres": ("postgresql://", "postgres://"),
    "mysql": ("mysql://",),
    "mongodb": ("mongodb://", "mongodb+srv://"),
}


def read_nodes(section: Value) -> tuple[NodeConfig, ...]:
    """All nodes; problems are noted in the section's report."""
    entries = section.entries()
    nodes = tuple(_read_node(name, value) for name, value in entries.items())
    if section.is_mapping and not 2 <= len(nodes) <= MAX_NODES:
        section.complain(f"a group has 2 to {MAX_NODES} nodes, found {len(nodes)}")
    elif nodes and all(n.engine in UNDECLARED_ENGINES for n in nodes):
        section.complain(
            "no node declares columns: MongoDB's collections have none",
            "a group needs at least one PostgreSQL or MySQL node",
        )
    given: dict[int, str] = {}
    for node in nodes:
        if f"nodes.{node.name}.priority" not in section.report.lines:
            continue
        other = given.setdefault(node.priority, node.name)
        if other != node.name:
            place = entries[node.name]
            at = section.report.lines[f"{place.path}.priority"]
            message = f"{node.priority} is also the priority of '{other}'"
            hint = "give each node its own number; the higher one wins"
            section.report.problems.append(
                Problem(section.report.file, at, f"{place.path}.priority", message, hint)
            )
    return nodes


def _read_node(name: str, value: Value) -> NodeConfig:
    if check_identifier(value, name) and name in ("merge", "none"):
        value.complain(f"'{name}' is a word of the configuration", "choose another name")
    fields = value.record(("engine", "dsn", "priority"), ("engine", "dsn"))
    engine = _read_engine(fields["engine"]) if "engine" in fields else None
    dsn = _read_dsn(fields["dsn"], engine) if "dsn" in fields else None
    priority = fields["priority"].integer(-1_000_000, 1_000_000) if "priority" in fields else None
    return NodeConfig(name, engine or "", dsn or "", priority or 0)


def _read_engine(value: Value) -> str | None:
    text = value.text()
    if text is None or text in ENGINES:
        return text
    value.complain(f"no engine called '{value.shown}'", suggest(text, PUBLIC_ENGINES))
    return None


def _read_dsn(value: Value, engine: str | None) -> str | None:
    dsn = value.secret("an address")
    schemes = _SCHEMES.get(engine or "")
    if dsn is None or schemes is None:
        return dsn
    if not dsn.startswith(schemes):
        value.complain(f"not an address of {engine}", f"it begins with {schemes[0]}")
    elif not dsn.split("://", 1)[1].rpartition("@")[2].partition("?")[0].partition("/")[2]:
        value.complain("the address names no database", f"write {schemes[0]}host:port/DATABASE")
    return dsn
