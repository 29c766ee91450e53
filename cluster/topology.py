"""From the configuration to what the engines work with: every table with its schema, as the nodes declare it.

The schema of a table comes from the node of highest priority that declares its columns; MongoDB declares
none. Mistakes that only show once the databases are asked are reported like those in the file, all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

from cluster.audit_log import unknown_columns
from cluster.config import GroupConfig, InvalidConfig
from cluster.config_nodes import UNDECLARED_ENGINES
from cluster.config_reader import Problem, suggest
from replication.audit.records import ERASED, TRACE
from replication.batch import APPLY_COLUMNS
from replication.change import SYSTEM_COLUMNS
from replication.declared import second_digits
from replication.engine import Catalog
from replication.engines import load_engine
from replication.filter import BadFilter, read_condition
from replication.key import KEY_KINDS
from replication.narrowing import CLOCKS, MICROSECONDS
from replication.schema import Table, TableMapping, TableSchema
from replication.types import Kind

SUBJECT_KINDS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.TEXT, Kind.UUID})
RESERVED_COLUMNS = frozenset(
    {name for name, _ in (*SYSTEM_COLUMNS, *APPLY_COLUMNS)}
    | {"_node", "_shard", "_recorded", "_table", TRACE, ERASED}
)
"""System columns, which no data column may be called."""


@dataclass(frozen=True, slots=True)
class Topology:
    """What the nodes of a group hold.

    Attributes:
        tables: in the configuration's order.
        declared_by: for each table, the node whose schema is used.
        schemas: for each table what every node declares that has it.
        missing: for each node, the tables it does not have.
    """

    tables: tuple[Table, ...]
    declared_by: Mapping[str, str]
    schemas: Mapping[str, Mapping[str, TableSchema]]
    missing: Mapping[str, frozenset[str]]

    def table(self, name: str) -> Table:
        """The table called `name`; KeyError if there is none."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)


@contextmanager
def open_catalogs(config: GroupConfig) -> Iterator[dict[str, Catalog]]:
    """A catalog of every node, by its name, highest priority first."""
    with ExitStack() as stack:
        yield {
            node.name: stack.enter_context(closing(load_engine(node, config.group).catalog()))
            for node in config.by_priority()
        }


def load_tables(config: GroupConfig) -> tuple[Table, ...]:
    """Connect to every node and build the mapped tables.

    Raises:
        InvalidConfig: the configuration does not fit the tables.
        NodeUnavailable: a node cannot be reached.
    """
    from cluster.schema_state import as_agreed, load_states

    with open_catalogs(config) as catalogs:
        return as_agreed(read_topology(config, catalogs), load_states(config)).tables


def read_topology(config: GroupConfig, catalogs: Mapping[str, Catalog]) -> Topology:
    """Read every table's schema on every node.

    Args:
        config: the configuration.
        catalogs: see `open_catalogs`.

    Raises:
        InvalidConfig: the configuration does not fit the tables.
        NodeUnavailable: a node cannot be reached.
    """
    tables: list[Table] = []
    declared_by: dict[str, str] = {}
    schemas: dict[str, Mapping[str, TableSchema]] = {}
    missing: dict[str, set[str]] = {node: set() for node in catalogs}
    problems: list[Problem] = []
    for mapping in config.tables:
        found = {node: catalog.read_schema(mapping) for node, catalog in catalogs.items()}
        for node, schema in found.items():
            if schema is None:
                missing[node].add(mapping.name)
        declaring = [
            (node, schema)
            for node, schema in found.items()
            if schema is not None and config.node(node).engine not in UNDECLARED_ENGINES
        ]
        if not declaring:
            problems.append(_undeclared(config, mapping))
            continue
        node, schema = declaring[0]
        problems += [*_check(config, mapping, node, schema), *_check_filters(config, mapping, schema)]
        problems += _check_rest(config, mapping, node, schema)
        problems += [*_check_access(config, mapping, node, schema), *_check_subject(config, mapping, schema)]
        if mapping.initial in missing and mapping.name in missing[mapping.initial]:
            message = f"{mapping.initial} has no table {mapping.names[mapping.initial]}"
            problems.append(
                config.problem(f"tables.{mapping.name}.initial", message, "name a node that has it")
            )
        tables.append(Table(mapping, with_rest(mapping, _with_digits(config, schema, declaring))))
        declared_by[mapping.name] = node
        schemas[mapping.name] = dict(declaring)
    if problems:
        raise InvalidConfig(problems)
    lacking = {node: frozenset(names) for node, names in missing.items()}
    return Topology(tuple(tables), declared_by, schemas, lacking)


def create_missing_tables(config: GroupConfig, catalogs: Mapping[str, Catalog], topology: Topology) -> None:
    """Create what is missing, as the declaring nodes have it."""
    for node, names in topology.missing.items():
        for name in sorted(names):
            source = config.node(topology.declared_by[name]).engine
            catalogs[node].create_table(topology.table(name), source)


def _with_digits(
    config: GroupConfig, schema: TableSchema, declaring: Sequence[tuple[str, TableSchema]]
) -> TableSchema:
    """The schema with the digits of the second that nodes keep, where they are fewer than six."""
    digits: dict[str, dict[str, int]] = {column.name: {} for column in schema.columns}
    for node, found in declaring:
        for column in found.columns:
            kept = second_digits(column.type.native, config.node(node).engine)
            if column.name in digits and column.type.kind in CLOCKS and kept < MICROSECONDS:
                digits[column.name][node] = kept
    columns = tuple(replace(c, digits=digits[c.name]) if digits[c.name] else c for c in schema.columns)
    return replace(schema, columns=columns)


def with_rest(mapping: TableMapping, schema: TableSchema) -> TableSchema:
    """The schema in which the column of all further fields is known as such."""
    columns = [
        replace(c, type=replace(c.type, rest=True)) if c.name == mapping.rest else c for c in schema.columns
    ]
    return replace(schema, columns=tuple(columns))


def _undeclared(config: GroupConfig, mapping: TableMapping) -> Problem:
    places = [
        f"{mapping.names[node.name]} on {node.name}"
        for node in config.by_priority()
        if node.engine not in UNDECLARED_ENGINES
    ]
    message = f"no such table: {', '.join(places)}"
    return config.problem(
        f"tables.{mapping.name}", message, "create it there, or say under 'names' what it is called"
    )


def _check_filters(config: GroupConfig, mapping: TableMapping, schema: TableSchema) -> Iterator[Problem]:
    for alternatives in mapping.where.values():
        for condition in (c for conditions in alternatives for c in conditions):
            try:
                read_condition(condition, schema)
            except BadFilter as error:
                path = f"tables.{mapping.name}.where.{condition.at}"
                yield config.problem(path, str(error), error.hint)


def _check_rest(
    config: GroupConfig, mapping: TableMapping, node: str, schema: TableSchema
) -> Iterator[Problem]:
    if not mapping.rest:
        return
    path, names = f"tables.{mapping.name}.rest", [column.name for column in schema.columns]
    if mapping.rest not in names:
        message = f"{node} has no column '{mapping.rest}' in {mapping.names[node]}"
        yield config.problem(path, message, suggest(mapping.rest, names))
    elif (column := schema.column(mapping.rest)).type.kind is not Kind.JSON or column.generated:
        message = f"the column '{mapping.rest}' is {column.type.kind}{', generated' * column.generated}"
        yield config.problem(path, message, "name a json column that can be written")


def _check_access(
    config: GroupConfig, mapping: TableMapping, node: str, schema: TableSchema
) -> Iterator[Problem]:
    """A column whose name is wrong would stay in clear."""
    for name in unknown_columns(config, mapping.name, [column.name for column in schema.columns]):
        message = f"{node} has no column '{name}' in {mapping.names[node]}, and it was never on record"
        hint = suggest(name, [column.name for column in schema.columns])
        yield config.problem(f"audit.access.{mapping.name}.{name}", message, hint)


def _check_subject(config: GroupConfig, mapping: TableMapping, schema: TableSchema) -> Iterator[Problem]:
    if (subject := config.audit.subjects.get(mapping.name)) is None:
        return
    path, names = f"audit.subjects.{mapping.name}", [column.name for column in schema.columns]
    if subject.column not in names:
        yield config.problem(path, f"no column '{subject.column}'", suggest(subject.column, names))
    elif (kind := schema.column(subject.column).type.kind) not in SUBJECT_KINDS:
        message = f"the column '{subject.column}' is {kind}"
        yield config.problem(path, message, f"it is one of: {', '.join(sorted(SUBJECT_KINDS))}")


def _check(config: GroupConfig, mapping: TableMapping, node: str, schema: TableSchema) -> Iterator[Problem]:
    path = f"tables.{mapping.name}"
    names = [column.name for column in schema.columns]
    for name in mapping.key:
        if name not in names:
            message = f"{node} has no column '{name}' in {mapping.names[node]}"
            yield config.problem(f"{path}.key", message, suggest(name, names))
        elif schema.column(name).type.kind not in KEY_KINDS:
            kind = schema.column(name).type.kind
            message = f"the column '{name}' is {kind}, which cannot be a key"
            yield config.problem(f"{path}.key", message, f"a key is one of: {', '.join(sorted(KEY_KINDS))}")
    for name in mapping.columns:
        if name not in names:
            message = f"{node} has no column '{name}' in {mapping.names[node]}"
            yield config.problem(f"{path}.columns.{name}", message, suggest(name, names))
    for name in RESERVED_COLUMNS.intersection(names):
        fix = f"give it another name here: columns: {{{name.strip('_')}: {{{node}: {name}}}}}"
        yield config.problem(path, f"the column name '{name}' is used by Sync Worker itself", fix)
