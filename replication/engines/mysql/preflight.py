"""What would keep a MySQL node from taking part, each with the statement that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymysql.connections import Connection

from replication.engine import Finding
from replication.engines.mysql.columns import (
    CODE_POINTS,
    LocalColumn,
    read_columns,
    read_unique_indexes,
    unfit,
)
from replication.engines.mysql.config import OWN, STATE, quoted, table_name
from replication.engines.mysql.declare import declaration
from replication.engines.mysql.errors import code_of
from replication.engines.mysql.grants import Grants, read_grants
from replication.engines.mysql.types import KINDS, TEXTS
from replication.preflight import column_findings
from replication.schema import Column, NodeConfig, Table
from replication.types import Kind

MINIMUM_VERSION = (8, 0, 19)
"""Row aliases in INSERT, and a collation that keeps blanks apart."""
APPLYING = "@sync_worker_applying"
_PACKET = 4 << 20
_SHORT_RETENTION = 24 * 3600
_WANTED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "log_bin": (("ON",), "the server keeps no binary log; start it with --log-bin"),
    "binlog_format": (("ROW",), "SET PERSIST binlog_format = ROW"),
    "binlog_row_image": (("FULL",), "SET PERSIST binlog_row_image = FULL"),
    "binlog_row_metadata": (("FULL",), "SET PERSIST binlog_row_metadata = FULL"),
    "binlog_row_value_options": (("",), "SET PERSIST binlog_row_value_options = ''"),
    "binlog_order_commits": (("ON",), "SET PERSIST binlog_order_commits = ON"),
    "gtid_mode": (("ON",), "SET PERSIST gtid_mode = ON, by way of OFF_PERMISSIVE and ON_PERMISSIVE"),
    "enforce_gtid_consistency": (("ON",), "SET PERSIST enforce_gtid_consistency = ON"),
    "read_only": (("OFF",), "SET PERSIST read_only = OFF, or name the primary in the dsn"),
}
_RELATION = """
SELECT engine, table_type FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_name = %s"""
_CASCADES = """
SELECT constraint_name, referenced_table_name, delete_rule, update_rule
FROM information_schema.referential_constraints
WHERE constraint_schema = DATABASE() AND table_name = %s
  AND (delete_rule IN ('CASCADE', 'SET NULL') OR update_rule IN ('CASCADE', 'SET NULL'))"""
_TRIGGERS = """
SELECT trigger_name, action_statement FROM information_schema.triggers
WHERE event_object_schema = DATABASE() AND event_object_table = %s"""


def check(c: Connection, node: NodeConfig, tables: Sequence[Table]) -> list[Finding]:
    """All findings, errors first."""
    found = list(_version(c))
    if not found:
        grants = read_grants(c)
        found += [*_server(c), *_account(c, grants)]
        for table in tables:
            found += _table(c, node, grants, table)
    return sorted(found, key=lambda f: f.level != "error")


def _version(c: Connection) -> Iterator[Finding]:
    version = str(_one(c, "SELECT VERSION()"))
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if "mariadb" in version.lower():
        remedy = "name a MySQL 8.0 server, or a later one"
        yield _error("version", f"{version} is MariaDB, whose binary log is another", remedy)
    elif numbers < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        yield _error("version", f"MySQL {version} is too old", f"upgrade to MySQL {wanted} or newer")


def _server(c: Connection) -> Iterator[Finding]:
    for name, (accepted, remedy) in _WANTED.items():
        value = _variable(c, name)
        if value is not None and value not in accepted:
            shown = value or "empty"
            yield _error(name, f"{name} is {shown}, it must be {accepted[0] or 'empty'}", remedy)
    if _variable(c, "server_id") == "0":
        yield _error("server_id", "server_id is 0, nobody may read the log", "SET PERSIST server_id = 1")
    packet = int(_variable(c, "max_allowed_packet") or 0)
    if packet < _PACKET:
        message = f"max_allowed_packet is {packet} bytes, too few for our statements"
        yield _error("max_allowed_packet", message, "SET PERSIST max_allowed_packet = 67108864")
    for name in ("sync_binlog", "innodb_flush_log_at_trx_commit"):
        if (value := _variable(c, name)) not in (None, "1"):
            message = f"{name} is {value}: a crash may lose commits that the other nodes have been sent"
            yield Finding("warning", name, message, f"SET PERSIST {name} = 1")
    retention = int(_variable(c, "binlog_expire_logs_seconds") or 0)
    if 0 < retention < _SHORT_RETENTION:
        message = (
            f"the binary log is kept for {retention // 60} minutes; what is away for longer must be copied"
        )
        remedy = "SET PERSIST binlog_expire_logs_seconds = 604800"
        yield Finding("warning", "binlog_expire_logs_seconds", message, remedy)


def _account(c: Connection, grants: Grants) -> Iterator[Finding]:
    for privilege in ("REPLICATION SLAVE", "REPLICATION CLIENT"):
        if not grants.everywhere(privilege):
            remedy = f"GRANT {privilege} ON *.* TO {grants.account}"
            yield _error("account", f"account {grants.account} lacks {privilege}", remedy)
    database = str(_one(c, "SELECT DATABASE()"))
    ours = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
    create = () if _row(c, ours, STATE) else ("CREATE",)
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", *create):
        if not grants.on_table(privilege, database, OWN + "marker"):
            remedy = f"GRANT {privilege} ON {quoted(database)}.* TO {grants.account}"
            yield _error("account", f"account {grants.account} lacks {privilege} for our own tables", remedy)
    yield from _filters(c, database)


def _filters(c: Connection, database: str) -> Iterator[Finding]:
    """Databases that the server leaves out of its log."""
    try:
        status = _row(c, "SHOW BINARY LOG STATUS")
    except Exception as error:
        if code_of(error) not in (1064, 1227):
            raise
        status = _row(c, "SHOW MASTER STATUS") if code_of(error) == 1064 else None  # before MySQL 8.2
    if not status:
        return
    only, never = (set(filter(None, str(status[i] or "").split(","))) for i in (2, 3))
    if (only and database not in only) or database in never:
        message = f"the server leaves the database {database} out of its binary log"
        yield _error(
            "binlog_do_db", message, "take binlog-do-db and binlog-ignore-db out of its configuration"
        )


def _table(c: Connection, node: NodeConfig, grants: Grants, table: Table) -> Iterator[Finding]:
    name = table_name(node, table.mapping)
    if name.startswith(OWN):
        remedy = f"map the table to one whose name does not start with {OWN}"
        yield _error(table.name, f"table {name} is not an application's", remedy)
        return
    row = _row(c, _RELATION, name)
    if row is None:
        yield _error(table.name, f"table {name} does not exist", "create it, or set create_tables: true")
        return
    engine, kind = row
    if kind != "BASE TABLE" or engine != "InnoDB":
        what = f"a {kind.lower()}" if kind != "BASE TABLE" else f"kept by {engine}, without transactions"
        yield _error(table.name, f"{name} is {what}", f"ALTER TABLE {quoted(name)} ENGINE = InnoDB")
    columns = {column.name: column for column in read_columns(c, name)}
    mapped = {k.name: table.mapping.local(node.name, k.name) for k in table.schema.columns}
    yield from _columns(table, name, columns, mapped)
    key = [mapped[k] for k in table.schema.key]
    if all(k in columns for k in key):
        yield from _key(c, table, name, [columns[k] for k in key])
    yield from _cascades(c, table, name)
    yield from _triggers(c, table, name)
    database = str(_one(c, "SELECT DATABASE()"))
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        if not grants.on_table(privilege, database, name):
            remedy = f"GRANT {privilege} ON {quoted(database)}.{quoted(name)} TO {grants.account}"
            yield _error(table.name, f"{privilege} on table {name} is not granted", remedy)


def _columns(
    table: Table, name: str, columns: Mapping[str, LocalColumn], mapped: Mapping[str, str]
) -> Iterator[Finding]:
    def modify(local: LocalColumn, type: str) -> str:
        return f"ALTER TABLE {quoted(name)} MODIFY {quoted(local.name)} {type}"

    def misfit(column: Column, local: LocalColumn) -> Finding | None:
        place = f"{name}.{local.name} is {local.declared}"
        if local.type.name not in KINDS:
            return _error(table.name, f"{place}, which is not supported", "exclude it")
        if trouble := unfit(table, column, local):
            return _error(table.name, trouble, f"{modify(local, declaration(column.type))}, or exclude it")
        if local.type.name in ("float", "double") and "," in local.declared:
            remedy = modify(local, local.type.name)
            return _error(table.name, f"{place}, which rounds what is written", remedy)
        return None

    def drop_not_null(local: LocalColumn) -> str:
        return modify(local, f"{local.declared} NULL")

    yield from column_findings(table, name, columns, mapped, misfit, drop_not_null)


def _key(c: Connection, table: Table, name: str, key: Sequence[LocalColumn]) -> Iterator[Finding]:
    sql, names = quoted(name), ", ".join(quoted(k.name) for k in key)
    wanted = {k.name for k in key}
    fit = [i for i in read_unique_indexes(c, name) if i.columns and set(i.columns) == wanted and i.whole]
    if not fit:
        remedy = f"ALTER TABLE {sql} ADD PRIMARY KEY ({names})"
        yield _error(table.name, f"nothing makes ({names}) unique in table {name}", remedy)
    elif all(i.nullable for i in fit):
        first = next(k for k in key if not k.not_null)
        remedy = f"ALTER TABLE {sql} MODIFY {quoted(first.name)} {first.declared} NOT NULL"
        yield _error(table.name, f"the key of table {name} may be null", remedy)
    for column, local in zip(table.schema.key, key, strict=True):
        if local.type.name in TEXTS:
            yield from _collation(table, name, table.schema.column(column).type.kind, local)


def _collation(table: Table, name: str, kind: Kind, k: LocalColumn) -> Iterator[Finding]:
    modify = f"ALTER TABLE {quoted(name)} MODIFY {quoted(k.name)} {k.declared} CHARACTER SET"
    place = f"{name}.{k.name} is in collation {k.collation}"
    if kind is Kind.UUID:
        if not k.collation.endswith("_ci"):
            message = f"{place}: a UUID that an application writes in capitals would not be found"
            remedy = f"{modify} ascii COLLATE ascii_general_ci NOT NULL"
            yield Finding("warning", table.name, message, remedy)
    elif k.collation != CODE_POINTS:
        message = (
            f"{place}: keys that it takes for equal go to hold, "
            "and the initial copy sorts the table for every chunk"
        )
        remedy = f"{modify} utf8mb4 COLLATE {CODE_POINTS} NOT NULL"
        yield Finding("warning", table.name, message, remedy)


def _cascades(c: Connection, table: Table, name: str) -> Iterator[Finding]:
    """Rows that a cascade changes are in no log, unless the server itself carries it out (MySQL 9.6)."""
    if _variable(c, "innodb_native_foreign_keys") == "OFF":
        return
    for constraint, parent, on_delete, on_update in _rows(c, _CASCADES, name):
        message = (
            f"foreign key {constraint} of {name} to {parent} (ON DELETE {on_delete}, ON UPDATE {on_update}) "
            "changes rows without a trace in the binary log"
        )
        remedy = (
            f"ALTER TABLE {quoted(name)} DROP FOREIGN KEY {quoted(constraint)}, and add it with RESTRICT; "
            "or upgrade to MySQL 9.6"
        )
        yield _error(table.name, message, remedy)


def _triggers(c: Connection, table: Table, name: str) -> Iterator[Finding]:
    """Triggers fire for us too; what they write would be taken for our own and not travel on."""
    for trigger, body in _rows(c, _TRIGGERS, name):
        if APPLYING not in str(body):
            message = f"trigger {trigger} of table {name} also fires for rows of other nodes"
            remedy = f"wrap its body in IF {APPLYING} IS NULL THEN … END IF"
            yield Finding("warning", table.name, message, remedy)


def _variable(c: Connection, name: str) -> str | None:
    row = _row(c, "SHOW GLOBAL VARIABLES LIKE %s", name)
    return None if row is None else str(row[1])


def _one(c: Connection, query: str) -> Any:
    row = _row(c, query)
    assert row is not None
    return row[0]


def _row(c: Connection, query: str, *parameters: object) -> Any:
    with c.cursor() as cursor:
        cursor.execute(query, parameters or None)
        return cursor.fetchone()


def _rows(c: Connection, query: str, *parameters: object) -> Any:
    with c.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def _error(subject: str, message: str, remedy: str) -> Finding:
    return Finding("error", subject, message, remedy)
