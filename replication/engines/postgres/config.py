"""Names of our objects, connections with pinned settings, and where a table lives on this node.

Whatever the server's or the role's defaults are, values must come out as the same text everywhere: every
connection, the replication one included, pins the settings below at start.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replication.engines.postgres.errors import classify
from replication.errors import ConfigError
from replication.schema import NodeConfig

SCHEMA = "sync_worker"
MARKER = f"{SCHEMA}.marker"
WATERMARK = f"{SCHEMA}.watermark"
STATE = f"{SCHEMA}.state"
NO_SHARD = -1
"""The marker row with this number comes first where epochs are raised: that transaction is not an echo."""

SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "row_security": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
REPLICA: Mapping[str, str] = {
    "session_replication_role": "replica",
    "plan_cache_mode": "force_generic_plan",
    "default_transaction_isolation": "read committed",
}
"""For appliers: no triggers, no foreign keys; key lookups by index whatever the batch's size; and what others
commit meanwhile can be seen."""

_CONNECTION: Mapping[str, str | int] = {
    "client_encoding": "UTF8",
    "application_name": "sync_worker",
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_NAME_LIMIT = 63

Connection = psycopg.Connection[tuple[Any, ...]]


def object_name(group: str) -> str:
    """The name of the group's publication and slot: lower-case letters, digits and underscores."""
    clean = re.sub(r"[^a-z0-9_]", "_", group.lower())
    name = f"{SCHEMA}_{clean}"
    if clean == group and len(name) <= _NAME_LIMIT:
        return name
    suffix = f"_{zlib.crc32(group.encode()):08x}"
    return name[: _NAME_LIMIT - len(suffix)] + suffix


def split_name(name: str) -> tuple[str, str]:
    """Schema and table of a name in the configuration; the schema is `public` if it is not given."""
    schema, _, table = name.rpartition(".")
    return schema or "public", table


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """A table's name in the configuration as SQL."""
    return ".".join(quoted(part) for part in split_name(name))


def conninfo(node: NodeConfig, settings: Mapping[str, str], **extra: str) -> str:
    """The libpq connection string of `node` with our settings pinned.

    Raises:
        ConfigError: libpq cannot read the DSN. The DSN itself is not repeated, it may hold a password.
    """
    try:
        given = conninfo_to_dict(node.dsn)
    except psycopg.Error:
        message = "the dsn is not a PostgreSQL connection string"
        hint = "postgresql://user@host:5432/database"
        raise ConfigError(message, node=node.name, hint=hint) from None
    options = [str(given.pop("options", "") or "")]
    pinned = {name: value.replace(" ", "\\ ") for name, value in {**SETTINGS, **settings}.items()}
    options += [f"-c {name}={value}" for name, value in pinned.items()]
    parameters = {**_CONNECTION, **given, "client_encoding": "UTF8", **extra}
    return make_conninfo("", **parameters, options=" ".join(options).strip())


class Session:
    """One connection to one node, made on first use and again after it broke. For one thread.

    Args:
        node: where to connect.
        settings: server settings on top of `SETTINGS`.
        extra: connection parameters, e.g. `replication`.
    """

    def __init__(self, node: NodeConfig, settings: Mapping[str, str] | None = None, **extra: str) -> None:
        self.node = node
        self._settings = dict(settings or {})
        self._extra = extra
        self._connection: Connection | None = None

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection, in autocommit mode; errors leave as this project's own.

        Raises:
            SyncError: whatever kind `errors.classify` finds; the connection is dropped if it broke.
        """
        try:
            yield self._open()
        except psycopg.Error as error:
            if self._connection is not None and self._connection.closed:
                self.close()
            raise classify(error, self.node.name) from error

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                conninfo(self.node, self._settings, **self._extra), autocommit=True
            )
        return self._connection

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
