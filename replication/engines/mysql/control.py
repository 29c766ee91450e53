"""Our tables, and the node's place in the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pymysql
from pymysql.connections import Connection

from replication.engine import Reached
from replication.engines.mysql import lineage
from replication.engines.mysql.config import MARKER, NO_SHARD, STATE, WATERMARK, parse
from replication.engines.mysql.connection import Session
from replication.engines.mysql.errors import code_of
from replication.engines.mysql.marker import (
    LOCK,
    PUT_STATE,
    SELECT_MARKERS,
    TABLES,
    insert_marker,
    load_marker,
    state_name,
)
from replication.engines.mysql.position import Token, position_now
from replication.errors import Contention
from replication.formats import FORMAT, FORMAT_NAME, must_be_made
from replication.marker import Marker
from replication.position import Position
from replication.schema import NodeConfig, Table

_START = "start"
_ATTEMPTS = 10
_DENIED = 1142
_NO_ECHO = f"UPDATE {MARKER} SET epoch = %s, seq = seq + 1 WHERE grp = %s AND shard = {NO_SHARD}"
"""Comes first in a transaction that changes markers and is no batch; it changes its row for certain."""
_REMOVE = f"DELETE FROM {MARKER} WHERE grp = %s AND shard <> {NO_SHARD}"


class MysqlControl:
    """Implements `replication.engine.Control`."""

    def __init__(self, node: NodeConfig, group: str) -> None:
        self.node = node
        self.group = group
        self._session = Session(parse(node))

    def stored_format(self) -> int:
        """See `Control.stored_format`."""
        with self._session.use() as c:
            return self._format(c)

    def prepare(self, tables: Sequence[Table]) -> Position:
        """See `Control.prepare`.

        The first call's position is kept among our states, so that a start that failed before the first
        marker loses nothing.
        """
        with self._session.use() as c:
            if must_be_made(self._format(c), self.node.name):
                for statement in TABLES:
                    c.query(statement)
                with c.cursor() as cursor:
                    cursor.execute(PUT_STATE, [FORMAT_NAME, json.dumps(FORMAT)])
            if (kept := self.get_state(_START)) is not None:
                order, token = json.loads(kept)
                return Position(int(order, 16), token)
            position = position_now(c)
        self.put_state(_START, json.dumps([f"{position.order:x}", position.token]))
        return position

    def raise_epoch(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        """See `Control.raise_epoch`. Markers beyond `shards`, of a larger count before, come back too."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._raise(shards, at_least, initial)
            except Contention:
                # An applier of the older incarnation may be committing right now.
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    def accept_server(self, reached: Sequence[Reached]) -> list[Position]:
        """See `Control.accept_server`."""
        with self._session.use() as c:
            kept = self.get_state(lineage.NAME)
            server, resume = lineage.accept(c, self.node.name, lineage.known_as(c, kept), reached)
        if kept != server.dump():
            self.put_state(lineage.NAME, server.dump())
        return resume

    def begin_log(self, tables: Sequence[Table], above: int = 0) -> Position:
        """See `Control.begin_log`."""
        self.prepare(tables)
        with self._session.use() as c:
            server = lineage.known_as(c, self.get_state(lineage.NAME))
            position = position_now(c, server.shift)
            if position.order < above:
                server = lineage.shifted(server.server, Token.unpack(position.token).file, above)
                position = position_now(c, server.shift)
        self.put_state(lineage.NAME, server.dump())
        self.put_state(_START, json.dumps([f"{position.order:x}", position.token]))
        return position

    def replace_markers(self, markers: Sequence[Marker]) -> None:
        """See `Control.replace_markers`."""
        with self._session.use() as c:
            c.begin()
            try:
                with c.cursor() as cursor:
                    cursor.execute(_NO_ECHO, [markers[0].epoch, self.group])
                    cursor.execute(_REMOVE, [self.group])
                    for marker in markers:
                        cursor.execute(*insert_marker(marker))
                c.commit()
            finally:
                if c.open:
                    c.rollback()

    def get_state(self, name: str) -> str | None:
        """See `StateStore.get_state`."""
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(f"SELECT value FROM {STATE} WHERE name = %s", [state_name(self.group, name)])
            row = cursor.fetchone()
        return None if row is None else str(row[0])

    def put_state(self, name: str, value: str) -> None:
        """See `StateStore.put_state`."""
        json.loads(value)
        with self._session.use() as c, c.cursor() as cursor:
            cursor.execute(PUT_STATE, [state_name(self.group, name), value])

    def drop(self) -> None:
        """See `Control.drop`. The tables go with the last group, if the account may drop any."""
        with self._session.use() as c, c.cursor() as cursor:
            if not self._exists(c, MARKER):
                return
            cursor.execute(f"DELETE FROM {MARKER} WHERE grp = %s", [self.group])
            cursor.execute(f"DELETE FROM {WATERMARK} WHERE grp = %s", [self.group])
            prefix = state_name(self.group, "")
            cursor.execute(f"DELETE FROM {STATE} WHERE LEFT(name, CHAR_LENGTH(%s)) = %s", [prefix, prefix])
            others = f"EXISTS (SELECT 1 FROM {MARKER}) OR EXISTS (SELECT 1 FROM {STATE} WHERE name <> %s)"
            cursor.execute(f"SELECT {others}", [FORMAT_NAME])
            row = cursor.fetchone()
            if row is not None and not row[0]:
                try:
                    cursor.execute(f"DROP TABLE IF EXISTS {MARKER}, {WATERMARK}, {STATE}")
                except pymysql.err.OperationalError as error:
                    if code_of(error) != _DENIED:
                        raise

    def close(self) -> None:
        """See `Control.close`."""
        self._session.close()

    def _format(self, c: Connection) -> int:
        with c.cursor() as cursor:
            if not self._exists(c, STATE):
                return 0
            cursor.execute(f"SELECT value FROM {STATE} WHERE name = %s", [FORMAT_NAME])
            row = cursor.fetchone()
        return 0 if row is None else int(row[0])

    @staticmethod
    def _exists(c: Connection, table: str) -> bool:
        with c.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
                [table],
            )
            return cursor.fetchone() is not None

    def _raise(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        with self._session.use() as c:
            c.begin()
            try:
                markers = self._write_epoch(c, shards, at_least, initial)
                c.commit()
            finally:
                if c.open:
                    c.rollback()
        return markers

    def _write_epoch(self, c: Connection, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        with c.cursor() as cursor:
            cursor.execute(LOCK, [self.group])
            cursor.execute(f"SELECT epoch FROM {MARKER} WHERE grp = %s FOR UPDATE", [self.group])
            epoch = max(at_least, *(row[0] + 1 for row in cursor.fetchall()))
            first = f"UPDATE {MARKER} SET epoch = %s WHERE grp = %s AND shard = {NO_SHARD}"
            cursor.execute(first, [epoch, self.group])
            others = f"UPDATE {MARKER} SET epoch = %s WHERE grp = %s AND shard <> {NO_SHARD}"
            cursor.execute(others, [epoch, self.group])
            for shard in range(shards):
                marker = replace(initial, group=self.group, shard=shard, epoch=epoch)
                cursor.execute(*insert_marker(marker))
            cursor.execute(SELECT_MARKERS, [self.group])
            return [load_marker(row) for row in cursor.fetchall()]
