"""What would keep a PostgreSQL node from taking part, each with the statement that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from replication.engine import Finding
from replication.engines.postgres.columns import LocalColumn, publishes_generated, read_columns
from replication.engines.postgres.config import (
    Connection,
    object_name,
    quoted,
    quoted_table,
    split_name,
)
from replication.engines.postgres.types import declaration
from replication.pairing import shown
from replication.preflight import column_findings
from replication.schema import Column, NodeConfig, Table

MINIMUM_VERSION = 140_000
_ROLE = """
SELECT rolsuper, rolreplication OR rolsuper, current_user, current_database(),
       has_database_privilege(current_database(), 'CREATE') OR to_regclass('sync_worker.state') IS NOT NULL
FROM pg_roles WHERE rolname = current_user"""
_RELATION = """
SELECT r.oid::int8, r.relreplident, pg_has_role(r.relowner, 'USAGE'), r.relpersistence
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname = %s AND r.relname = %s AND r.relkind IN ('r', 'p')"""
_INDEXES = """
SELECT array_agg(a.attname::text), bool_and(a.attnotnull), i.indisprimary, i.indisreplident, i.indimmediate
FROM pg_index i
JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n) ON k.n <= i.indnkeyatts
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
GROUP BY i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate"""
_C_INDEX = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    JOIN pg_collation c ON c.oid = i.indcollation[0]
    LEFT JOIN pg_database d ON d.datname = current_database()
    WHERE i.indrelid = %s AND a.attname = %s
      AND (c.collname IN ('C', 'POSIX', 'ucs_basic')
           OR (c.collname = 'default' AND d.datcollate IN ('C', 'POSIX'))))"""

_LARGE = """
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attname = ANY(%s) AND attstorage IN ('x', 'e')
  AND (atttypid NOT IN ('varchar'::regtype, 'bpchar'::regtype) OR atttypmod = -1 OR atttypmod > 504)
ORDER BY attnum"""
# Up to 500 characters take at most 2,000 bytes, which stay in the row; the modifier counts four more.


def check(c: Connection, node: NodeConfig, group: str, tables: Sequence[Table]) -> list[Finding]:
    """All findings, errors first."""
    found = [*_server(c), *_role(c), *_slot(c, group, tables)]
    for table in tables:
        found += _table(c, node, table)
    return sorted(found, key=lambda f: f.level != "error")


def _server(c: Connection) -> Iterator[Finding]:
    version = c.info.server_version
    if version < MINIMUM_VERSION:
        yield _error(
            "version", f"PostgreSQL {version // 10_000} is too old", "upgrade to PostgreSQL 14 or newer"
        )
    level = _one(c, "SHOW wal_level")
    if level != "logical":
        remedy = "ALTER SYSTEM SET wal_level = logical; then restart the server"
        yield _error("wal_level", f"wal_level is {level}, the log holds no row changes", remedy)
    encoding = _one(c, "SHOW server_encoding")
    if encoding != "UTF8":
        remedy = "create the database with ENCODING 'UTF8'"
        yield _error("server_encoding", f"the database's encoding is {encoding}", remedy)
    if int(_one(c, "SELECT current_setting('max_wal_senders')")) == 0:
        remedy = "ALTER SYSTEM SET max_wal_senders = 10; then restart the server"
        yield _error("max_wal_senders", "max_wal_senders is 0, nobody may read the log", remedy)


def _role(c: Connection) -> Iterator[Finding]:
    row = c.execute(_ROLE).fetchone()
    assert row is not None
    superuser, replication, user, database, create = row
    role = quoted(user)
    if not replication:
        yield _error("role", f"role {user} may not read the log", f"ALTER ROLE {role} REPLICATION")
    if not create:
        remedy = f"GRANT CREATE ON DATABASE {quoted(database)} TO {role}"
        yield _error("role", f"role {user} may not create our schema", remedy)
    if superuser:
        return
    can_set = False
    if c.info.server_version >= 150_000:
        privilege = "SELECT has_parameter_privilege('session_replication_role', 'SET')"
        can_set = bool(_one(c, privilege))
    if not can_set:
        remedy = f"GRANT SET ON PARAMETER session_replication_role TO {role}"
        if c.info.server_version < 150_000:
            remedy = f"ALTER ROLE {role} SUPERUSER; PostgreSQL 14 cannot grant less"
        message = f"role {user} may not keep triggers from firing while it applies"
        yield _error("session_replication_role", message, remedy)


def _slot(c: Connection, group: str, tables: Sequence[Table]) -> Iterator[Finding]:
    name = object_name(group)
    row = c.execute(
        "SELECT coalesce(wal_status, 'lost'), plugin, database FROM pg_replication_slots "
        "WHERE slot_name = %s",
        [name],
    ).fetchone()
    if row is None:
        used = int(_one(c, "SELECT count(*) FROM pg_replication_slots"))
        if used >= int(_one(c, "SELECT current_setting('max_replication_slots')")):
            remedy = f"ALTER SYSTEM SET max_replication_slots = {used + 10}; then restart the server"
            yield _error("max_replication_slots", f"all {used} replication slots are taken", remedy)
        if _one(c, "SELECT to_regclass('sync_worker.marker') IS NOT NULL"):
            written = c.execute("SELECT count(*) FROM sync_worker.marker WHERE grp = %s", [group]).fetchone()
            if written and written[0]:
                yield _error("slot", f"replication slot {name} is gone: changes were missed", _RESET)
    elif row[0] == "lost":
        yield _error("slot", f"replication slot {name} is lost: changes were missed", _RESET)
    elif row[1] != "pgoutput" or row[2] != _one(c, "SELECT current_database()"):
        message = f"replication slot {name} belongs to somebody else"
        yield _error("slot", message, f"SELECT pg_drop_replication_slot('{name}')")
    elif row[0] == "unreserved":
        message = f"replication slot {name} is about to lose log that it needs"
        yield Finding("warning", "slot", message, "raise max_slot_wal_keep_size")


_RESET = "sync-worker reset NODE: it marks the gap, makes a new slot, and the next start copies anew"


def _table(c: Connection, node: NodeConfig, table: Table) -> Iterator[Finding]:
    name = table.mapping.names[node.name]
    row = c.execute(_RELATION, split_name(name)).fetchone()
    if row is None:
        yield _error(table.name, f"table {name} does not exist", "create it, or set create_tables: true")
        return
    oid, identity, owned, persistence = row
    if persistence != "p":
        remedy = f"ALTER TABLE {quoted_table(name)} SET LOGGED"
        yield _error(table.name, f"table {name} is not in the log", remedy)
    if not owned:
        remedy = f"ALTER TABLE {quoted_table(name)} OWNER TO {quoted(_one(c, 'SELECT current_user'))}"
        yield _error(table.name, f"only the owner of table {name} may publish it", remedy)
    columns = {col.name: col for col in read_columns(c, name)}
    mapped = {k.name: table.mapping.local(node.name, k.name) for k in table.schema.columns}
    yield from _columns(table, name, columns, mapped)
    key = [mapped[k] for k in table.schema.key]
    if all(k in columns for k in key):
        yield from _key(c, table, name, oid, identity, mapped)
        yield from _collation(c, table, name, oid, key)
    yield from _privileges(c, table, name)
    yield from _generated(c, name, columns.values(), table)


def _columns(
    table: Table, name: str, columns: Mapping[str, LocalColumn], mapped: Mapping[str, str]
) -> Iterator[Finding]:
    def misfit(column: Column, local: LocalColumn) -> Finding | None:
        if local.type.fits(column.type):
            return None
        message = f"{name}.{local.name} is {local.native}, which is not {shown(column.type)}"
        change = f"ALTER {quoted(local.name)} TYPE {declaration(column.type)}"
        return _error(table.name, message, f"ALTER TABLE {quoted_table(name)} {change}, or exclude it")

    def drop_not_null(local: LocalColumn) -> str:
        return f"ALTER TABLE {quoted_table(name)} ALTER {quoted(local.name)} DROP NOT NULL"

    yield from column_findings(table, name, columns, mapped, misfit, drop_not_null)


def _key(
    c: Connection, table: Table, name: str, oid: int, identity: str, mapped: Mapping[str, str]
) -> Iterator[Finding]:
    key = [mapped[k] for k in table.schema.key]
    others = [local for column, local in mapped.items() if column not in table.schema.key]
    sql, names = quoted_table(name), ", ".join(map(quoted, key))
    indexes = c.execute(_INDEXES, [oid]).fetchall()
    if not any(set(cols) == set(key) and immediate for cols, _, _, _, immediate in indexes):
        remedy = f"ALTER TABLE {sql} ADD PRIMARY KEY ({names})"
        yield _error(table.name, f"nothing makes ({', '.join(key)}) unique in table {name}", remedy)
    nullable = [k for cols, not_null, *_ in indexes for k in key if set(cols) == set(key) and not not_null]
    if nullable:
        remedy = f"ALTER TABLE {sql} ALTER {quoted(nullable[0])} SET NOT NULL"
        yield _error(table.name, f"the key of table {name} may be null", remedy)
    covered: list[str] = []
    if identity == "f":
        covered = key
    else:
        for cols, _, primary, replident, _ in indexes:
            if (identity == "d" and primary) or (identity == "i" and replident):
                covered = cols
    full = f"ALTER TABLE {sql} REPLICA IDENTITY FULL"
    if not set(key) <= set(covered):
        message = f"deletes from table {name} would not name the key: its replica identity does not cover it"
        yield _error(table.name, message, full)
    if "merge_fields" in table.mapping.conflict and identity != "f":
        message = f"merge_fields needs to know which columns of {name} changed"
        yield _error(table.name, message, full)
    elif identity != "f" and (large := large_columns(c, name, others)):
        message = (
            f"an update that leaves a large {large[0]} of {name} as it was does not log it; where it meets a "
            "write of another node, the nodes may end up with different values"
        )
        yield Finding("warning", table.name, message, full)


def large_columns(c: Connection, name: str, columns: Sequence[str]) -> list[str]:
    """Those of a table's columns whose values may be stored out of line (TOAST), in the table's order."""
    return [row[0] for row in c.execute(_LARGE, [quoted_table(name), list(columns)])]


def _collation(c: Connection, table: Table, name: str, oid: int, key: list[str]) -> Iterator[Finding]:
    first = table.schema.column(table.schema.key[0]).type
    if first.kind.value != "text" or first.native.split("(")[0] not in ("text", "character varying"):
        return
    row = c.execute(_C_INDEX, [oid, key[0]]).fetchone()
    if row and not row[0]:
        columns = ", ".join([f'{quoted(key[0])} COLLATE "C"', *map(quoted, key[1:])])
        message = f"the initial copy sorts {name} for every chunk: its key has no index in code point order"
        remedy = f"CREATE INDEX CONCURRENTLY ON {quoted_table(name)} ({columns})"
        yield Finding("warning", table.name, message, remedy)


def _privileges(c: Connection, table: Table, name: str) -> Iterator[Finding]:
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        if not _one(c, "SELECT has_table_privilege(%s, %s)", quoted_table(name), privilege):
            user = quoted(_one(c, "SELECT current_user"))
            remedy = f"GRANT {privilege} ON {quoted_table(name)} TO {user}"
            yield _error(table.name, f"{privilege} on table {name} is not granted", remedy)


def _generated(c: Connection, name: str, columns: Any, table: Table) -> Iterator[Finding]:
    for column in columns:
        unseen = column.generated == "v" or (column.generated == "s" and not publishes_generated(c))
        if unseen and column.name not in table.mapping.exclude:
            message = f"generated column {name}.{column.name} is not in the log and does not travel"
            yield Finding("warning", table.name, message, "exclude it, or store it in a plain column")


def _one(c: Connection, query: str, *parameters: object) -> Any:
    row = c.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


def _error(subject: str, message: str, remedy: str) -> Finding:
    return Finding("error", subject, message, remedy)
