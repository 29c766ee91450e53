"""What the statements that define tables do to the mapped ones.

An `ALTER TABLE` counts if the columns are others than this node was known to have. Tools that change a table
without stopping its writers build a copy beside it and swap the two by renaming; such a swap, known by the
names that the tools give, is an `ALTER TABLE` as well: what they write into the copy says nothing new.

    gh-ost                       orders -> _orders_del, _orders_gho -> orders
    pt-online-schema-change      orders -> _orders_old, _orders_new -> orders
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from replication.engines.mysql.ddl import Does, Statement
from replication.engines.mysql.tables import Mapped
from replication.evolution import ColumnChange, differences, resizes
from replication.schema import Table

_LEAVES = re.compile(r"_(.+)_(del|old)")
_COMES = re.compile(r"_(.+)_(gho|new)")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Definition:
    """What happened to a mapped table; see `change.SchemaChange`."""

    table: str
    what: str
    detail: str
    fits: bool = False
    resized: bool = False


def definitions(statement: Statement, text: str, mapped: Mapped) -> Iterator[Definition]:
    """What a statement does to mapped tables.

    Args:
        statement: as `ddl` reads it.
        text: the statement itself.
        mapped: the mapped tables.
    """
    does = statement.does
    if does is Does.NOTHING:
        return
    if does is Does.DROP_DATABASE:
        if mapped.is_ours(statement.tables[0][0]):
            for table in mapped.tables.values():
                yield Definition(table.name, "drop", "the database was dropped")
        return
    swapped = _swapped(statement, mapped) if does is Does.RENAME else frozenset()
    for database, name in dict.fromkeys(statement.tables):
        if (found := mapped.find(database, name)) is None:
            continue
        detail = f"{name} at {mapped.node}: {text[:_LONGEST]}"
        if does is Does.ALTER or found.name in swapped:
            if changed := _changed(found, mapped):
                said = f"{detail}; {'; '.join(map(str, changed))}"
                yield Definition(found.name, "alter", said, fits=True, resized=resizes(changed, found))
        else:
            yield Definition(found.name, does.value, detail)


def _changed(table: Table, mapped: Mapped) -> list[ColumnChange]:
    """What is different from what the node was known to have; empty if nothing is, or it is not known."""
    before = table.known.get(mapped.node)
    now = mapped.look(table) if before is not None else None
    return [] if before is None or now is None else differences(before, now)


def _swapped(statement: Statement, mapped: Mapped) -> frozenset[str]:
    """Mapped tables that a tool puts its copy in the place of, in one statement or, once done, in two."""
    names = statement.tables
    moves = list(zip(names[::2], names[1::2], strict=False))
    left, came = set(), set()
    for (database, old), (_, new) in moves:
        # With more underscores where a table of that name was there already.
        leaves = _LEAVES.fullmatch("_" + new.lstrip("_"))
        comes = _COMES.fullmatch("_" + old.lstrip("_"))
        if leaves and leaves[1] == old:
            left.add((database, old))
        if comes and comes[1] == new:
            came.add((database, new))
    found = {name: table for name in left | came if (table := mapped.find(*name)) is not None}
    whole = left & came
    return frozenset(t.name for name, t in found.items() if name in whole or mapped.look(t) is not None)
