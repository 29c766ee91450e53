"""The `where` of a table: which rows a node holds."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from cluster.config_reader import Value, suggest
from replication.conflict.policy import MANUAL, MERGE_FIELDS
from replication.filter import Test
from replication.schema import Condition, NodeConfig

Where = dict[str, tuple[tuple[Condition, ...], ...]]
_NULL = "tag:yaml.org,2002:null"
_LISTS = (Test.IN, Test.NOT_IN)


def read_where(value: Value, nodes: Sequence[NodeConfig], policies: Sequence[str], on_truncate: str) -> Where:
    """Filters by node. Whether columns and values fit the table is not known yet."""
    names = [node.name for node in nodes]
    where: Where = {}
    for node, item in value.entries().items():
        if names and node not in names:
            item.complain(f"no node called '{node}'", suggest(node, names))
            continue
        alternatives = _alternatives(item)
        if alternatives:
            where[node] = alternatives
    if names and set(names) == where.keys():
        value.complain("every node has a filter", "leave out the node that holds every row")
    if where and (unfit := [p for p in policies if p in (MERGE_FIELDS, MANUAL)]):
        hint = "use last_write_wins, source_priority or a policy of your own"
        value.complain(f"a table with a filter cannot use {unfit[0]} in this release", hint)
    if where and on_truncate == "carry":
        hint = "use halt or ignore: a TRUNCATE says nothing of the rows that a node does not hold"
        value.complain("a table with a filter cannot carry a TRUNCATE", hint)
    return where


def _alternatives(value: Value) -> tuple[tuple[Condition, ...], ...]:
    if isinstance(value.node, yaml.SequenceNode):
        items = value.items()
        if not items:
            value.complain("the list is empty", "name at least one alternative")
    else:
        items = [value]
    found = tuple(tuple(_conditions(item)) for item in items)
    return found if all(found) else ()


def _conditions(value: Value) -> list[Condition]:
    entries = value.entries()
    if value.is_mapping and not entries:
        value.complain("no column is asked about", "write column: value, or leave the node out")
    found: list[Condition] = []
    for column, asked in entries.items():
        if asked.is_mapping:
            for test, compared in asked.record(tuple(Test)).items():
                values = _compared(compared, Test(test))
                found += [Condition(column, test, values, _at(compared))] if values else []
            if not asked.entries():
                asked.complain("nothing is asked of the column", f"use one of: {', '.join(Test)}")
        elif asked.is_scalar:
            values = _compared(asked, Test.EQ)
            found += [Condition(column, Test.EQ.value, values, _at(asked))] if values else []
        else:
            values = _compared(asked, Test.IN)
            found += [Condition(column, Test.IN.value, values, _at(asked))] if values else []
    return found


def _at(value: Value) -> str:
    return value.path.partition(".where.")[2]


def _compared(value: Value, test: Test) -> tuple[str, ...]:
    """What a column is compared with; empty if that was no good."""
    if test is Test.NULL:
        answer = value.boolean()
        return () if answer is None else ("true" if answer else "false",)
    if test in _LISTS:
        return tuple(text for item, text in value.texts(1) if _is_value(item))
    text = value.text() if _is_value(value) else None
    return () if text is None else (text,)


def _is_value(value: Value) -> bool:
    if value.node.tag == _NULL and not value.is_empty:
        value.complain("no comparison holds for a null", "write {null: true}")
        return False
    return True
