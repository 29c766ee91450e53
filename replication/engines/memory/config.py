"""The address of a memory database: `memory://name`, where a user and password may stand before the name."""

from __future__ import annotations

from urllib.parse import urlsplit

from replication.errors import ConfigError


def database_name(dsn: str, node: str = "") -> str:
    """The database that `dsn` names.

    Raises:
        ConfigError: it is not a memory address.
    """
    parts = urlsplit(dsn)
    name = parts.netloc.rpartition("@")[2]
    if parts.scheme != "memory" or not name:
        message = "the dsn of a memory node is memory://NAME"
        raise ConfigError(message, node=node)
    return name
