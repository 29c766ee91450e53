"""Settling what awaits a person's decision: one node's row, perhaps with other values, goes to every node."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from actors.recopy import Recopied
from cluster.running import ANSWER_SECONDS, RunningGroup, patiently
from replication.audit.undecided import RESOLVED, Record, newest_writes
from replication.errors import ConfigError, NodeUnavailable, Terminal
from replication.schema import Column, Table
from replication.types import Kind


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one row shall be.

    Attributes:
        table: its table.
        key: its canonical key.
        conflicts: all that await a decision about it.
        node: whose row it shall be, as that is now.
        given: values that replace that row's, by column.
    """

    table: Table
    key: bytes
    conflicts: Sequence[Record]
    node: str
    given: Mapping[str, pa.Scalar]

    def carry_out(self, group: RunningGroup) -> None:
        """Let every node hold it; on record once they do.

        Raises:
            Terminal: the node's row cannot be read, or is to get values and is not there.
        """
        done = self._settle(group)
        if done.unreadable:
            message = f"the row of {self.node} cannot be read: {done.unreadable[0][1]}"
            raise Terminal(message, hint="take another node's row, or mend it there")
        detail = {
            "idents": [c["ident"] for c in self.conflicts],
            "table": self.table.name,
            "key": self.key.hex(),
            "node": self.node,
            "given": {name: _plain(value) for name, value in self.given.items()},
        }
        group.note(RESOLVED, detail)

    def _settle(self, group: RunningGroup) -> Recopied:
        """Send the row; returns once no crash can bring the conflict back.

        Where an application writes the row while it is read, it is read again. After a crash before the end
        the key is on hold again, and all is begun anew.
        """
        owner, read = group.owner(self.key), newest_writes(self.conflicts)
        epoch: int | None = None

        def ask() -> None:
            nonlocal epoch
            epoch = owner.call("settle", self.table.name, self.key, self.node, read).result(ANSWER_SECONDS)
            if epoch is None:
                message = "the group is not yet as far as the conflict"
                raise NodeUnavailable(message)

        def settled() -> dict[str, int] | None:
            until: dict[str, int] | None
            until = owner.call("settled_up_to", self.table.name, self.key, epoch).result(ANSWER_SECONDS)
            return until

        while True:
            done = group.copy_keys(
                self.table,
                self.node,
                [self.key],
                deletes=True,
                before=lambda: patiently(ask),
                given=self.given,
            )
            if done.unreadable:
                return done
            if (until := patiently(settled)) is not None:
                group.wait_released(until)
                if patiently(settled) is not None:
                    return done


def plan(
    tables: Mapping[str, Table],
    chosen: Iterable[Record],
    every: Iterable[Record],
    node: str,
    given: Mapping[str, str | None],
) -> list[Resolution]:
    """What settles some conflicts; one of a row settles all of that row.

    Args:
        tables: the mapped tables by name.
        chosen: the conflicts that were named.
        every: all that await a decision.
        node: whose row to take.
        given: text of the values that replace others, None for null.

    Raises:
        ConfigError: no such node, table or column, or no such value.
    """
    rows: dict[tuple[str, bytes], list[Record]] = {(c["table"], c["key"]): [] for c in chosen}
    for conflict in every:
        if (place := (conflict["table"], conflict["key"])) in rows:
            rows[place].append(conflict)
    found = []
    for (name, key), conflicts in rows.items():
        if name not in tables:
            message = f"table {name!r} is not mapped any more"
            raise ConfigError(message, hint=f"the configuration maps {', '.join(tables)}")
        table = tables[name]
        if node not in table.mapping.names:
            message = f"no node called {node!r}"
            raise ConfigError(message, hint=f"take the row of {' or '.join(table.mapping.names)}")
        values = {column: value_of(table, column, text) for column, text in given.items()}
        found.append(Resolution(table, key, conflicts, node, values))
    return found


def value_of(table: Table, name: str, text: str | None) -> pa.Scalar:
    """A column's value from its text, as `canonical` values travel; None is null.

    Raises:
        ConfigError: there is no such column, it is of the key, or that is no value of it.
    """
    column = next((c for c in table.schema.columns if c.name == name), None)
    if column is None or name in table.schema.key:
        message = f"{table.name} has no column called {name!r}" if column is None else f"{name!r} is the key"
        names = [c.name for c in table.schema.columns if c.name not in table.schema.key]
        raise ConfigError(message, hint=f"values can be given for {', '.join(names)}")
    try:
        return _parse(column, text)
    except (ValueError, InvalidOperation, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        message = f"{text!r} is no {column.type.kind} for {name!r}"
        raise ConfigError(message, hint=str(error).splitlines()[0]) from error


def _parse(column: Column, text: str | None) -> pa.Scalar:
    kind, arrow = column.type.kind, column.type.arrow
    if text is None:
        if not column.nullable:
            message = "it cannot be null"
            raise ValueError(message)
        return pa.scalar(None, arrow)
    if kind is Kind.BYTES:
        return pa.scalar(bytes.fromhex(text), arrow)
    if kind in (Kind.JSON, Kind.LIST):
        json.loads(text)
    elif kind is Kind.UUID:
        text = str(uuid.UUID(text))
    elif kind is Kind.NUMERIC:
        Decimal(text)
    return pa.array([text], pa.utf8()).cast(arrow)[0]


def _plain(value: pa.Scalar) -> Any:
    held = value.as_py()
    return held.hex() if isinstance(held, bytes) else held if held is None else str(held)
