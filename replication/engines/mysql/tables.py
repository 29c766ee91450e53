"""Which table the rows of an event are of, and what that table is to us.

A table map event gives a table a number, good until the next file begins. The same table comes again before
nearly every row event, so what was made of its bytes is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from pymysqlreplication.constants import BINLOG

from replication.engines.mysql.charsets import Charset
from replication.engines.mysql.config import MARKER, WATERMARK
from replication.engines.mysql.decode import HEADER, Event, Malformed, read_rows, table_id
from replication.engines.mysql.images import Plan, row_starts, split_row
from replication.engines.mysql.layout import Layout, lay_out
from replication.engines.mysql.tablemap import TableMap, names, read_table_map
from replication.errors import Terminal
from replication.schema import Table, TableSchema

COPY_AGAIN = "mend it, then copy the table again"
_BODY = HEADER + 6


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the reader of a log must know of the tables.

    Attributes:
        node: this node's name.
        group: the group's name.
        database: the database that our tables and the mapped ones are in.
        tables: mapped tables by their name on this node.
        charsets: by the numbers of the server's collations.
        lower_case: the server compares table names without case.
        look: reads what this node has of a table now.
    """

    node: str
    group: str
    database: str
    tables: Mapping[str, Table]
    charsets: Mapping[int, Charset]
    lower_case: bool = False
    look: Callable[[Table], TableSchema | None] = lambda _: None

    def find(self, database: str, table: str) -> Table | None:
        """The mapped table of that name."""
        if self._same(database) != self._same(self.database):
            return None
        if not self.lower_case:
            return self.tables.get(table)
        return next((t for name, t in self.tables.items() if name.lower() == table.lower()), None)

    def is_ours(self, database: str) -> bool:
        """Whether it is the database of the mapped tables."""
        return self._same(database) == self._same(self.database)

    def _same(self, name: str) -> str:
        return name.lower() if self.lower_case else name


class Role(Enum):
    """What a table is to us."""

    FOREIGN = 0
    MAPPED = 1
    MARKER = 2
    WATERMARK = 3


@dataclass(frozen=True, slots=True)
class Known:
    """A table map event and what was made of it.

    Attributes:
        body: the event after the table's number.
        role: what the table is.
        found: the table, unless it is foreign.
        plan: of its row images, unless it is foreign.
        layout: of a mapped table.
    """

    body: bytes
    role: Role
    found: TableMap | None = None
    plan: Plan | None = None
    layout: Layout | None = None


class Tables:
    """The tables that the log has named."""

    def __init__(self, mapped: Mapped) -> None:
        self._mapped = mapped
        self._by_id: dict[int, Known] = {}
        self._by_name: dict[tuple[str, str], Known] = {}

    def forget(self) -> None:
        """A new file begins, and numbers are given anew."""
        self._by_id.clear()

    def learn(self, event: Event) -> None:
        """Take a table map event.

        Raises:
            Malformed: a table of ours is described by something else.
            Terminal: it is described without the names of its columns.
        """
        number, body = table_id(event), event.data[_BODY:]
        known = self._by_id.get(number)
        if known is not None and known.body == body:
            return
        name = names(event.data)
        known = self._by_name.get(name)
        if known is None or known.body != body:
            known = self._read(event, name, body)
            if known.role is not Role.FOREIGN:
                self._by_name[name] = known
        self._by_id[number] = known

    def of(self, event: Event) -> Known:
        """The table of a row event.

        Raises:
            Malformed: no table map came before it.
        """
        known = self._by_id.get(table_id(event))
        if known is None:
            message = "rows of a table that was not described"
            raise Malformed(message)
        return known

    def _read(self, event: Event, name: tuple[str, str], body: bytes) -> Known:
        database, table = name
        role, mapped = Role.FOREIGN, self._mapped.find(database, table)
        if mapped is not None:
            role = Role.MAPPED
        elif self._mapped.is_ours(database):
            role = {MARKER: Role.MARKER, WATERMARK: Role.WATERMARK}.get(table, Role.FOREIGN)
        if role is Role.FOREIGN:
            return Known(body, role)
        found = read_table_map(event.data)
        if not found.named:
            message = f"the log does not name the columns of {table}"
            raise Terminal(message, hint=f"SET PERSIST binlog_row_metadata = FULL; {COPY_AGAIN}")
        if mapped is not None:
            layout = self._lay_out(mapped, found)
            return Known(body, role, found, layout.plan, layout)
        return Known(body, role, found, Plan(found.columns))

    def _lay_out(self, table: Table, found: TableMap) -> Layout:
        m = self._mapped
        layout = lay_out(table, m.node, found, m.charsets)
        if not layout.trouble or m.node not in table.known or (now := m.look(table)) is None:
            return layout
        # The log is behind: what the node has by now was added later.
        later = frozenset(table.mapping.local(m.node, c.name) for c in now.columns)
        return lay_out(table, m.node, found, m.charsets, later)


def images(event: Event, known: Known) -> list[int]:
    """Where the row images of an event begin; of updates two for each row, before and after.

    Raises:
        Malformed: they do not fill the event.
        Terminal: they lack columns.
    """
    rows = read_rows(event)
    assert known.found is not None
    assert known.plan is not None
    if rows.width != len(known.found.columns):
        message = f"rows of {rows.width} columns of a table that has {len(known.found.columns)}"
        raise Malformed(message)
    if not rows.full:
        message = f"the log lacks columns of {known.found.table}"
        raise Terminal(message, hint=f"SET PERSIST binlog_row_image = FULL; {COPY_AGAIN}")
    starts = row_starts(event.data, rows.at, known.plan)
    if event.type == BINLOG.UPDATE_ROWS_EVENT_V2 and len(starts) % 2:
        message = "an update without an image of after"
        raise Malformed(message)
    return starts


def own_rows(event: Event, known: Known) -> list[tuple[int, dict[str, bytes]]]:
    """The rows of one of our own tables as they are now, by column name, each with its place in the event."""
    starts = images(event, known)
    assert known.found is not None
    assert known.plan is not None
    if event.type == BINLOG.UPDATE_ROWS_EVENT_V2:
        starts = starts[1::2]
    names = [c.name for c in known.found.columns]
    found = []
    for i, at in enumerate(starts):
        values = split_row(event.data, at, known.plan)
        found.append((2 * i + 1, {n: v or b"" for n, v in zip(names, values, strict=True)}))
    return found
