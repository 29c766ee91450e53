"""Connections with pinned settings, whatever the server's or the account's defaults are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT
from pymysql.converters import conversions

from replication.engines.mysql.config import MysqlConfig, SslMode
from replication.engines.mysql.errors import classify

SQL_MODE = ",".join(
    [
        "STRICT_ALL_TABLES",
        "NO_ZERO_DATE",
        "NO_ZERO_IN_DATE",
        "ERROR_FOR_DIVISION_BY_ZERO",
        "NO_ENGINE_SUBSTITUTION",
        "NO_AUTO_VALUE_ON_ZERO",
    ]
)
"""Strict, so that a value that does not fit is refused and never clamped; and a key of 0 stays 0."""
SETTINGS = {
    "autocommit": "1",  # the driver believes the greeting, which does not know of --autocommit=0
    "sql_mode": f"'{SQL_MODE}'",
    "time_zone": "'+00:00'",
    "transaction_isolation": "'READ-COMMITTED'",
    "net_read_timeout": "600",
    "net_write_timeout": "600",
    "max_execution_time": "0",
    "sql_safe_updates": "0",
    "sql_select_limit": "DEFAULT",
    "innodb_lock_wait_timeout": "10",
}
_PACKET = 1 << 30
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))


def connect(config: MysqlConfig, **overrides: Any) -> Connection:
    """A new connection in autocommit mode.

    Args:
        config: where to.
        overrides: arguments of `pymysql.connect` that win over ours.

    Raises:
        pymysql.MySQLError: the server is away or refuses.
        ConfigError: a TLS file cannot be read.
    """
    settings = ", ".join(f"SESSION {name} = {value}" for name, value in SETTINGS.items())
    arguments: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "unix_socket": config.socket or None,
        "user": config.user,
        "password": config.password.encode(),
        "database": config.database or None,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": config.connect_timeout,
        "read_timeout": config.connect_timeout,  # while it logs in, see below
        "max_allowed_packet": _PACKET,
        "client_flag": CLIENT.FOUND_ROWS,
        "program_name": "sync_worker",
        "conv": conversions,
        "ssl": config.ssl_context(),
        "ssl_disabled": config.ssl_mode is SslMode.DISABLED,
        "init_command": f"SET {settings}",
        **overrides,
    }
    connection = Connection(**arguments)
    _settle(connection, overrides.get("read_timeout"))
    return connection


def _settle(connection: Any, read_timeout: float | None) -> None:
    """Statements may take long; that the server is gone is found by keep-alives."""
    connection._read_timeout = read_timeout
    connection._sock.settimeout(read_timeout)
    connection._current_timeout = read_timeout
    if connection._sock.family == socket.AF_UNIX:
        return
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Session:
    """One connection to one node, made on first use and again after it broke. For one thread.

    Args:
        config: where to connect.
        settings: session variables to set on top of `SETTINGS`, name to SQL value.
        overrides: arguments of `pymysql.connect`.
    """

    def __init__(self, config: MysqlConfig, settings: dict[str, str] | None = None, **overrides: Any) -> None:
        self.config = config
        self._settings = settings or {}
        self._overrides = overrides
        self._connection: Connection | None = None

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection, in autocommit mode; errors leave as this project's own.

        Raises:
            SyncError: whatever kind `errors.classify` finds; the connection is dropped if it broke.
        """
        try:
            yield self._open()
        except pymysql.MySQLError as error:
            if self._connection is not None and not self._connection.open:
                self.close()
            raise classify(error, self.config.node) from error

    def _open(self) -> Connection:
        if self._connection is None or not self._connection.open:
            self._connection = connect(self.config, **self._overrides)
            if self._settings:
                pairs = ", ".join(f"{name} = {value}" for name, value in self._settings.items())
                self._connection.query(f"SET {pairs}")
        return self._connection

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            connection.close()
