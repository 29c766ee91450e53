"""Our own tables, publication and slot on one node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from psycopg import sql

from replication.engine import Reached
from replication.engines.postgres import lineage
from replication.engines.postgres.columns import publishes_generated
from replication.engines.postgres.config import (
    MARKER,
    NO_SHARD,
    SCHEMA,
    STATE,
    WATERMARK,
    Connection,
    Session,
    object_name,
    quoted,
    quoted_table,
    split_name,
)
from replication.engines.postgres.errors import SNAPSHOT_HINT
from replication.engines.postgres.position import between, parse_lsn
from replication.errors import LogLost, PreflightFailed
from replication.formats import FORMAT, FORMAT_NAME, must_be_made
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig, Table

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('sync_worker'))"
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {MARKER} (
    grp text NOT NULL, shard integer NOT NULL, shards integer NOT NULL, epoch bigint NOT NULL,
    seq bigint NOT NULL, state text NOT NULL, versions bytea NOT NULL, PRIMARY KEY (grp, shard)
) WITH (fillfactor = 50);
ALTER TABLE {MARKER} ALTER versions SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS {WATERMARK} (grp text PRIMARY KEY, ident text NOT NULL);
CREATE TABLE IF NOT EXISTS {STATE} (name text PRIMARY KEY, value text NOT NULL);
"""
_DECIMAL128 = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.decimal128(n numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    size numeric := abs(n);
    places integer;
BEGIN
    IF n::text IN ('NaN', 'Infinity', '-Infinity') OR n = 0 THEN
        RETURN n;
    END IF;
    IF size >= 1 THEN
        places := 34 - length(trunc(size)::text);
    ELSE
        places := 34 + length(substring(size::text from '^0\\.(0*)'));
    END IF;
    RETURN trunc(n, least(places, 6176));
END $$
"""
"""A number as IEEE 754 decimal128 holds it: cut to 34 digits; the rule of `replication.narrowing`."""
_EXACT = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.exact(given anyelement, kept anyelement, declared text) RETURNS anyelement
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF given IS DISTINCT FROM kept THEN
        RAISE EXCEPTION USING ERRCODE = 'data_exception',
            MESSAGE = format(
                '%s would become %s as %s', left(given::text, 60), left(kept::text, 60), declared);
    END IF;
    RETURN given;
END $$
"""
"""A value, if a column keeps it as it is. An error of class 22 is one of its row; see `errors`."""

_ANNOUNCE = f"""
INSERT INTO {MARKER} (grp, shard, shards, epoch, seq, state, versions)
VALUES (%(grp)s, {NO_SHARD}, 0, %(epoch)s, 0, '{{}}', '')
ON CONFLICT (grp, shard) DO UPDATE SET epoch = EXCLUDED.epoch"""
_RAISE = f"""
UPDATE {MARKER} SET epoch = %(epoch)s, state = state || '', versions = versions || ''::bytea
WHERE grp = %(grp)s AND shard <> {NO_SHARD}"""
# The concatenation makes new values of large ones, which the log would leave out as unchanged otherwise.


class PostgresControl:
    """Implements `replication.engine.Control`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        # Raising the epoch puts all that was committed before it on disk, whatever the server's default is.
        self._session = Session(node, {"synchronous_commit": "on"})

    def stored_format(self) -> int:
        """See `Control.stored_format`."""
        with self._session.use() as c:
            return self._format(c)

    def prepare(self, tables: Sequence[Table]) -> Position:
        """See `Control.prepare`.

        Raises:
            LogLost: the slot is gone although the group has been at work here.
            PreflightFailed: our own tables are of a newer format, or a table's changes could not be published
                without failing its applications.
        """
        name = object_name(self.group)
        with self._session.use() as c:
            with c.transaction():
                c.execute(_LOCK)
                if must_be_made(self._format(c), self.node.name):
                    for statement in (_TABLES, _DECIMAL128, _EXACT):
                        c.execute(statement)
                    c.execute(put_state_sql(), [FORMAT_NAME, json.dumps(FORMAT)])
                self._publish(c, name, tables)
            slot = self._slot(c, name)
            if slot is None:
                self._refuse_gap(c, name)
                slot = self._create_slot(c, name)
        return between(parse_lsn(slot))

    def raise_epoch(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        """See `Control.raise_epoch`. Markers beyond `shards`, of a larger count before, come back too."""
        with self._session.use() as c, c.transaction():
            c.execute(f"LOCK TABLE {MARKER} IN SHARE ROW EXCLUSIVE MODE")
            row = c.execute(f"SELECT max(epoch) FROM {MARKER} WHERE grp = %s", [self.group]).fetchone()
            stored = row[0] if row and row[0] is not None else 0
            epoch = max(at_least, stored + 1)
            c.execute(_ANNOUNCE, {"epoch": epoch, "grp": self.group})
            c.execute(_RAISE, {"epoch": epoch, "grp": self.group})
            for shard in range(shards):
                self._insert(c, replace(initial, shard=shard, epoch=epoch))
            return self._markers(c)

    def accept_server(self, reached: Sequence[Reached]) -> list[Position]:
        """See `Control.accept_server`. Places in the log are the same on a standby."""
        read = max((0, *(max(r.order, r.resume.order) for r in reached)))
        kept = self.get_state(lineage.NAME)
        before = lineage.server_of(self.node) if kept is None else lineage.Server.load(kept)
        now = lineage.accept(self.node, before, read)
        if kept is None or now != before:
            self.put_state(lineage.NAME, now.dump())
        return [r.resume for r in reached]

    def begin_log(self, tables: Sequence[Table], above: int = 0) -> Position:
        """See `Control.begin_log`."""
        name = object_name(self.group)
        with self._session.use() as c:
            self._drop_slot(c, name)
            slot = self._create_slot(c, name)
        self.prepare(tables)
        self.put_state(lineage.NAME, lineage.server_of(self.node).dump())
        return between(parse_lsn(slot))

    def replace_markers(self, markers: Sequence[Marker]) -> None:
        """See `Control.replace_markers`."""
        with self._session.use() as c, c.transaction():
            c.execute(f"LOCK TABLE {MARKER} IN SHARE ROW EXCLUSIVE MODE")
            c.execute(_ANNOUNCE, {"epoch": markers[0].epoch, "grp": self.group})
            c.execute(f"DELETE FROM {MARKER} WHERE grp = %s AND shard <> {NO_SHARD}", [self.group])
            for marker in markers:
                self._insert(c, marker)

    def get_state(self, name: str) -> str | None:
        """See `StateStore.get_state`."""
        with self._session.use() as c:
            row = c.execute(f"SELECT value FROM {STATE} WHERE name = %s", [self._state(name)]).fetchone()
        return None if row is None else str(row[0])

    def put_state(self, name: str, value: str) -> None:
        """See `StateStore.put_state`."""
        json.loads(value)
        with self._session.use() as c:
            c.execute(put_state_sql(), [self._state(name), value])

    def drop(self) -> None:
        """See `Control.drop`. The schema goes with the last group that uses it."""
        name = object_name(self.group)
        with self._session.use() as c:
            self._drop_slot(c, name)
            c.execute(f"DROP PUBLICATION IF EXISTS {quoted(name)}")
            with c.transaction():
                c.execute(_LOCK)
                if self._exists(c):
                    self._remove_rows(c)

    def close(self) -> None:
        """See `Control.close`."""
        self._session.close()

    def _state(self, name: str) -> str:
        return state_name(self.group, name)

    def _publish(self, c: Connection, name: str, tables: Sequence[Table]) -> None:
        """Let the publication hold the mapped tables, our marker and our watermark, and nothing else."""
        names = [t.mapping.names[self.node.name] for t in tables]
        for table in names:
            self._refuse_unidentified(c, table)
        listed = sql.SQL(", ".join([*map(quoted_table, names), MARKER, WATERMARK]))
        options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
        if publishes_generated(c):
            options += ", publish_generated_columns = stored"
        exists = c.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [name]).fetchone()
        if exists is None:
            create = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})")
            c.execute(create.format(sql.Identifier(name), listed, sql.SQL(options)))
            return
        rows = c.execute(
            "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s", [name]
        ).fetchall()
        if set(rows) != {split_name(n) for n in [*names, MARKER, WATERMARK]}:
            alter = sql.SQL("ALTER PUBLICATION {} SET TABLE {}")
            c.execute(alter.format(sql.Identifier(name), listed))

    def _refuse_unidentified(self, c: Connection, table: str) -> None:
        """A published table without identity would fail its applications' updates and deletes."""
        row = c.execute(
            "SELECT r.relreplident, EXISTS (SELECT FROM pg_index WHERE indrelid = r.oid AND indisprimary)"
            " FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace"
            " WHERE n.nspname = %s AND r.relname = %s",
            split_name(table),
        ).fetchone()
        if row is None or row[0] == "n" or (row[0] == "d" and not row[1]):
            message = f"table {table} has no replica identity" if row else f"table {table} does not exist"
            raise PreflightFailed(message, node=self.node.name, hint="run `sync-worker check` for the remedy")

    def _slot(self, c: Connection, name: str) -> str | None:
        """Where an existing slot resumes.

        Raises:
            LogLost: it exists and has lost what it still needed.
        """
        row = c.execute(
            "SELECT confirmed_flush_lsn::text, coalesce(wal_status, 'lost') FROM pg_replication_slots "
            "WHERE slot_name = %s",
            [name],
        ).fetchone()
        if row is None:
            return None
        if row[1] == "lost":
            message = f"replication slot {name} is lost: the server removed log that it still needed"
            raise LogLost(message, node=self.node.name, hint=SNAPSHOT_HINT)
        return str(row[0])

    def _refuse_gap(self, c: Connection, name: str) -> None:
        """A new slot would start now; what happened since the old one would be skipped in silence."""
        row = c.execute(f"SELECT count(*) FROM {MARKER} WHERE grp = %s", [self.group]).fetchone()
        if row and row[0]:
            message = f"replication slot {name} is missing, although the group has been at work here"
            raise LogLost(message, node=self.node.name, hint=SNAPSHOT_HINT)

    def _drop_slot(self, c: Connection, name: str) -> None:
        c.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots "
            "WHERE slot_name = %s AND active_pid IS NOT NULL",
            [name],
        )
        c.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
            [name],
        )

    def _create_slot(self, c: Connection, name: str) -> str:
        # From version 17 on a standby that synchronises slots takes this one with it.
        failover = ", failover => true" if c.info.server_version >= 170_000 else ""
        row = c.execute(
            f"SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput'{failover})", [name]
        ).fetchone()
        assert row is not None
        return str(row[0])

    def _markers(self, c: Connection) -> list[Marker]:
        rows = c.execute(
            f"SELECT grp, shard, shards, epoch, seq, state, versions FROM {MARKER} "
            f"WHERE grp = %s AND shard <> {NO_SHARD} ORDER BY shard",
            [self.group],
        ).fetchall()
        return [Marker.load(*row) for row in rows]

    def _format(self, c: Connection) -> int:
        there = c.execute("SELECT to_regclass(%s) IS NOT NULL", [STATE]).fetchone()
        if not (there and there[0]):
            return 0
        row = c.execute(f"SELECT value FROM {STATE} WHERE name = %s", [FORMAT_NAME]).fetchone()
        return 0 if row is None else int(row[0])

    def _insert(self, c: Connection, marker: Marker) -> None:
        """Store a marker where there is none."""
        m = marker
        c.execute(
            f"INSERT INTO {MARKER} (grp, shard, shards, epoch, seq, state, versions) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (grp, shard) DO NOTHING",
            [self.group, m.shard, m.shards, m.epoch, m.seq, m.state(), m.versions],
        )

    def _exists(self, c: Connection) -> bool:
        row = c.execute("SELECT to_regclass(%s) IS NOT NULL", [MARKER]).fetchone()
        return bool(row and row[0])

    def _remove_rows(self, c: Connection) -> None:
        c.execute(f"DELETE FROM {MARKER} WHERE grp = %s", [self.group])
        c.execute(f"DELETE FROM {WATERMARK} WHERE grp = %s", [self.group])
        c.execute(f"DELETE FROM {STATE} WHERE starts_with(name, %s)", [self._state("")])
        others = c.execute(
            f"SELECT EXISTS (SELECT FROM {MARKER}) OR EXISTS (SELECT FROM pg_publication_tables "
            "WHERE schemaname = %s AND tablename = 'marker')",
            [SCHEMA],
        ).fetchone()
        if others and not others[0]:
            c.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def state_name(group: str, name: str) -> str:
    """Under which name a group's state is stored; groups may share a database."""
    return f"{group}/{name}"


def put_state_sql() -> str:
    """Stores one state: parameters are its name and value."""
    return (
        f"INSERT INTO {STATE} (name, value) VALUES (%s, %s) "
        "ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
    )
