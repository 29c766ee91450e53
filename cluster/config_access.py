"""`audit.access` and `audit.subjects` of the configuration: who sees which column, and whose rows are."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config_reader import Value, suggest
from replication.audit.access import (
    EVERY,
    ROLES,
    ByRole,
    Rules,
    TableRule,
    Treatment,
    complete,
    shrinking,
)
from replication.audit.subjects import Subject, Subjects
from replication.schema import TableMapping

_NO_KEY = "set audit.key: in clear, whoever reads the log's folder or its proofs sees every value"


def read_access(value: Value, tables: Sequence[TableMapping], *, encrypted: bool) -> Rules:
    """The rules of all tables; those that are not named have none.

    Args:
        value: the section.
        tables: the mapped tables.
        encrypted: whether the log has a master key.
    """
    if not encrypted:
        value.complain("it needs an audit log that is encrypted", _NO_KEY)
    entries = value.entries()
    if value.is_mapping and not entries:
        value.complain("no table is named", "name at least one, or leave the section out")
    known = {table.name: table for table in tables}
    rules = {name: TableRule(table.key) for name, table in known.items()}
    for name, item in entries.items():
        if known and name not in known:
            item.complain(f"no table called '{name}'", suggest(name, known))
        columns = item.entries()
        if item.is_mapping and not columns:
            item.complain("no column is named", f"name at least one, or '{EVERY}' for all")
        found = {column: _by_role(of_column) for column, of_column in columns.items()}
        if name in known:
            for column in known[name].exclude.intersection(columns):
                columns[column].complain(f"'{column}' is excluded", "it is never on record; leave it out")
            rules[name] = TableRule(known[name].key, found)
    return rules


def read_subjects(value: Value, tables: Sequence[TableMapping], *, encrypted: bool) -> Subjects:
    """The tables that have keys per subject. Whether the columns are there is not known yet."""
    if not encrypted:
        value.complain("keys per subject need an audit log that is encrypted", "set audit.key")
    entries = value.entries()
    if value.is_mapping and not entries:
        value.complain("no table is named", "write TABLE: COLUMN, or leave it out")
    known = {table.name: table for table in tables}
    found = {}
    for name, item in entries.items():
        column = item.text()
        if known and name not in known:
            item.complain(f"no table called '{name}'", suggest(name, known))
        elif column is not None and name in known:
            if column in known[name].exclude:
                item.complain(f"'{column}' is excluded", "name a column that is on record")
            found[name] = Subject(column, known[name].key == (column,))
    return found


def _by_role(value: Value) -> ByRole:
    treatments = tuple(str(t) for t in Treatment)
    if not value.is_mapping:
        if not value.is_scalar:
            value.expect(
                "a treatment, or one for each role", "write hidden, or {auditor: masked, admin: clear}"
            )
            return complete({})
        one = value.choice(treatments)
        return dict.fromkeys(ROLES, Treatment(one or Treatment.HIDDEN))
    given = {}
    for role, item in value.record(ROLES).items():
        if (found := item.choice(treatments)) is not None:
            given[role] = Treatment(found)
    by_role = complete(given)
    if pair := shrinking(by_role):
        message = f"{pair[1]} would see less than {pair[0]}"
        value.complain(message, f"each role sees what those before it see: {', '.join(ROLES)}")
    return by_role
