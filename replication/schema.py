"""Tables, columns, and how they are named on each node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from replication.types import CanonicalType


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, the same on every node but for its name.

    Attributes:
        name: the canonical name, as the configuration writes it.
        type: the canonical type.
        nullable: whether the node that declared it accepts null.
        generated: computed by the database (stored or virtual); read but never written.
        default: the default expression in the declaring engine's dialect, or None.
        digits: node name to the digits of the second that it keeps, for nodes that keep fewer than six.
    """

    name: str
    type: CanonicalType
    nullable: bool = True
    generated: bool = False
    default: str | None = None
    digits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """The canonical shape of a table: mapped columns in order, and the key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of the data columns, without system columns."""
        return pa.schema([(c.name, c.type.arrow) for c in self.columns])

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def index(self, name: str) -> int:
        """The column's place, which is also its bit in `_have` and `_changed`."""
        return next(i for i, c in enumerate(self.columns) if c.name == name)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a row filter, see `replication.filter`.

    Attributes:
        column: canonical column name.
        test: one of `filter.Test`.
        values: what the column is compared with, as the configuration writes it.
        at: where in the table's `where` it stands, for messages.
    """

    column: str
    test: str
    values: tuple[str, ...]
    at: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TableMapping:
    """What the configuration says of one table.

    Attributes:
        name: the table's name in the configuration.
        key: canonical names of the key columns, in key order.
        names: node name to the table's name there (`schema.table` in PostgreSQL); complete for all nodes.
        columns: canonical column name to {node name: column name or document path}, only where it differs.
        exclude: canonical columns that never leave their node.
        conflict: conflict policies, tried in order.
        initial: the node whose rows are copied at the start, `merge`, or `none`.
        on_alter: what follows from a change of its columns on one node: `evolve`, `ignore` or `halt`.
        on_truncate: what follows from a TRUNCATE on one node: `carry`, `ignore` or `halt`.
        rest: canonical name of the column that holds the fields of a document which no other column maps, or
            empty.
        where: node name to the filter of the rows that it holds: alternatives, each of conditions that must
            all hold. A node that is not in it holds every row.
    """

    name: str
    key: tuple[str, ...]
    names: Mapping[str, str]
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    conflict: tuple[str, ...] = ("last_write_wins",)
    initial: str = "none"
    on_alter: str = "ignore"
    on_truncate: str = "halt"
    where: Mapping[str, tuple[tuple[Condition, ...], ...]] = field(default_factory=dict)
    rest: str = ""

    def local(self, node: str, column: str) -> str:
        """What the canonical `column` is called on `node`; in MongoDB a dotted path."""
        return self.columns.get(column, {}).get(node, column)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One database of the group. `dsn` may hold a password: never log it, use `redacted`."""

    name: str
    engine: str
    dsn: str = field(repr=False)
    priority: int = 0
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A mapped table with its schema, once that has been read: what engines work with.

    Attributes:
        known: what each node was last known to have, columns that do not travel included. A node that is not
            in it does not announce changes which the mapped columns survive.
        accepted: for each node, the order in its log up to which changes of the table itself are settled.
        late: columns that travel only since the group has run. A document without one may be older than it.
        past: columns that no longer travel. Their fields stay in the documents, and are none of the rest.
    """

    mapping: TableMapping
    schema: TableSchema
    known: Mapping[str, TableSchema] = field(default_factory=dict)
    accepted: Mapping[str, int] = field(default_factory=dict)
    late: frozenset[str] = frozenset()
    past: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.mapping.name
