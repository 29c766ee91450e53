"""The `tables` section of the configuration file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from cluster.config_reader import Value, suggest
from cluster.config_where import read_where
from replication.conflict.policy import MANUAL, MERGE_FIELDS
from replication.schema import NodeConfig, TableMapping

POLICIES = ("last_write_wins", "source_priority", "merge_fields", "manual")
OWN_PREFIX = "sync_worker"
"""Our own tables begin with it, and never travel."""
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_CUSTOM_POLICY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_KEYS = ("key", "names", "columns", "exclude", "conflict", "initial", "schema", "truncate", "where", "rest")
ON_ALTER = ("ignore", "evolve", "halt")
ON_TRUNCATE = ("halt", "carry", "ignore")


def read_tables(section: Value, nodes: Sequence[NodeConfig]) -> tuple[TableMapping, ...]:
    """All mapped tables; problems are noted in the section's report."""
    entries = section.entries()
    if section.is_mapping and not entries:
        section.complain("no table is mapped", "name at least one")
    tables = tuple(_read_table(name, value, nodes) for name, value in entries.items())
    owners: dict[tuple[str, str], str] = {}
    for table in tables:
        for node, local in table.names.items():
            other = owners.setdefault((node, local), table.name)
            if other != table.name:
                message = f"'{local}' on {node} is mapped by '{other}' already"
                entries[table.name].complain(message, "map each table once")
    return tables


def _read_table(name: str, value: Value, nodes: Sequence[NodeConfig]) -> TableMapping:
    if not _TABLE_NAME.fullmatch(name):
        value.complain(
            f"'{name}' is not a valid table name",
            "use at most 63 of A-Z a-z 0-9 _ . -, and say under 'names' what it is called on each node",
        )
    fields = value.record(_KEYS, ("key",))
    key = tuple(text for _, text in fields["key"].texts(1)) if "key" in fields else ()
    columns = _read_columns(fields["columns"], key, nodes) if "columns" in fields else {}
    conflict = _read_conflict(fields["conflict"]) if "conflict" in fields else POLICIES[:1]
    on_truncate = _read_policy(fields.get("truncate"), ON_TRUNCATE)
    return TableMapping(
        name=name,
        key=key,
        names=_read_names(name, fields.get("names"), value, nodes),
        columns=columns,
        exclude=_read_exclude(fields["exclude"], key, columns) if "exclude" in fields else frozenset(),
        conflict=conflict,
        initial=_read_initial(fields["initial"], nodes) if "initial" in fields else "none",
        on_alter=_read_policy(fields.get("schema"), ON_ALTER),
        on_truncate=on_truncate,
        rest=_read_rest(fields["rest"], key, fields, nodes) if "rest" in fields else "",
        where=read_where(fields["where"], nodes, conflict, on_truncate) if "where" in fields else {},
    )


def _read_policy(value: Value | None, known: Sequence[str]) -> str:
    """One of several words; the first is the default."""
    found = None if value is None else value.choice(tuple(known))
    return found or known[0]


def _is_node(value: Value, name: str, nodes: Iterable[str], shown: str = "") -> bool:
    """Whether there is such a node; complains at `value`, unless the nodes could not be read at all."""
    names = list(nodes)
    if names and name not in names:
        value.complain(f"no node called '{shown or name}'", suggest(name, names))
    return name in names


def _read_names(table: str, value: Value | None, owner: Value, nodes: Sequence[NodeConfig]) -> dict[str, str]:
    names = {node.name: table for node in nodes}
    for node, item in value.entries().items() if value is not None else ():
        local = item.text()
        if _is_node(item, node, names) and local is not None:
            names[node] = local
    for node, local in names.items():
        if local.removeprefix('"').startswith(OWN_PREFIX):
            owner.complain(f"'{local}' on {node} is one of our own tables", "they never travel; leave it out")
    return names


def _read_columns(value: Value, key: Sequence[str], nodes: Sequence[NodeConfig]) -> dict[str, dict[str, str]]:
    engines = {node.name: node.engine for node in nodes}
    columns: dict[str, dict[str, str]] = {}
    owners: dict[tuple[str, str], str] = {}
    for column, places in value.entries().items():
        columns[column] = {}
        for node, item in places.entries().items():
            local = item.text()
            if not _is_node(item, node, engines) or local is None:
                continue
            if engines[node] == "mongodb" and (column in key) != (local == "_id"):
                item.complain(
                    "in MongoDB the key is always _id, and nothing else is",
                    "leave the key out of 'columns'" if column in key else "choose another field",
                )
            elif (other := owners.setdefault((node, local), column)) != column:
                item.complain(f"'{local}' on {node} is the place of '{other}' already")
            else:
                columns[column][node] = local
    return columns


def _read_exclude(value: Value, key: Sequence[str], mapped: Collection[str]) -> frozenset[str]:
    excluded = value.texts()
    for item, column in excluded:
        if column in key:
            item.complain(f"'{column}' is a key column", "the key must reach every node")
        elif column in mapped:
            item.complain(f"'{column}' is mapped under 'columns'", "map it or exclude it")
    return frozenset(column for _, column in excluded)


def _read_rest(
    value: Value, key: Sequence[str], fields: Mapping[str, Value], nodes: Sequence[NodeConfig]
) -> str:
    """The column of the fields that no other column maps. Whether it is there and json is not known yet."""
    column = value.text() or ""
    documents = {node.name for node in nodes if node.engine == "mongodb"}
    places = fields["columns"].entries().get(column) if "columns" in fields else None
    excluded = {text for _, text in fields["exclude"].texts()} if "exclude" in fields else set()
    if nodes and not documents:
        value.complain("no node is a MongoDB node", "leave it out: it holds fields of documents")
    if column in key:
        value.complain(f"'{column}' is a key column", "name a json column of its own")
    elif column in excluded:
        value.complain(f"'{column}' is excluded", "it must reach every node")
    elif places is not None and documents & places.entries().keys():
        value.complain(f"'{column}' has a place in the documents under 'columns'", "leave that out")
    return column


def _read_conflict(value: Value) -> tuple[str, ...]:
    policies = value.texts(1)
    names = [policy for _, policy in policies]
    for item, policy in policies:
        if policy == MANUAL and MERGE_FIELDS in names:
            item.complain("a row cannot go on hold in part", f"leave out '{MERGE_FIELDS}', or '{MANUAL}'")
        elif policy == MANUAL and names[-1] != MANUAL:
            item.complain("what follows 'manual' is never asked", "put it last")
        elif policy not in POLICIES and not _CUSTOM_POLICY.fullmatch(policy):
            hint = suggest(policy, POLICIES)
            item.complain(f"no policy called '{item.shown}'", f"{hint} A policy of your own is module:name")
    return tuple(names) or POLICIES[:1]


def _read_initial(value: Value, nodes: Sequence[NodeConfig]) -> str:
    names = [node.name for node in nodes]
    if value.is_mapping:
        fields = value.record(("from",), ("from",))
        node = fields["from"].text() if "from" in fields else None
        if node is None or not _is_node(fields["from"], node, names, fields["from"].shown):
            return "none"
        return node
    text = value.text()
    if text in names:
        value.complain("a node is named with 'from'", f"write initial: {{from: {text}}}")
    elif text is not None and text not in ("merge", "none"):
        value.complain(f"'{value.shown}' is not known here", "write {from: NODE}, merge or none")
    return text or "none"
