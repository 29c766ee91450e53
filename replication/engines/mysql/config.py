"""Where the database is, how to reach it, and what our own tables in it are called.

    mysql://user:password@host:port/database?ssl-mode=VERIFY_IDENTITY&ssl-ca=/path/ca.pem

Percent-escapes stand for themselves in every part. Options, named as in MySQL's own connection strings:

    ssl-mode          DISABLED, PREFERRED (default), REQUIRED, VERIFY_CA or VERIFY_IDENTITY
    ssl-ca            certificates to trust; with it the mode is VERIFY_CA unless given
    ssl-cert, ssl-key the client's own certificate and key
    connect-timeout   seconds, 10 by default
    socket            path of a Unix socket, in place of host and port
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit

from replication.errors import ConfigError
from replication.schema import NodeConfig, TableMapping

OWN = "sync_worker_"
"""Our tables' common prefix; nothing with it is ever replicated."""
MARKER = OWN + "marker"
WATERMARK = OWN + "watermark"
STATE = OWN + "state"
NO_SHARD = -1
"""The marker row with this number comes first where epochs are raised: that transaction is not an echo."""

DEFAULT_PORT = 3306
_OPTIONS = {"ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "connect-timeout", "socket"}
_EXAMPLE = "mysql://user@host:3306/database"


class SslMode(StrEnum):
    """How much TLS is asked for, as MySQL's own clients name it."""

    DISABLED = "DISABLED"
    PREFERRED = "PREFERRED"
    REQUIRED = "REQUIRED"
    VERIFY_CA = "VERIFY_CA"
    VERIFY_IDENTITY = "VERIFY_IDENTITY"


@dataclass(frozen=True, slots=True)
class MysqlConfig:
    """One MySQL database. It pickles; the password is in no `repr`.

    Attributes:
        node: the node's name, for messages.
        host: name or address.
        port: TCP port.
        user: account.
        password: in plain text.
        database: the database whose tables are mapped; empty for none.
        ssl_mode: see `SslMode`.
        ssl_ca, ssl_cert, ssl_key: paths of PEM files, or empty.
        connect_timeout: seconds until a server that does not answer counts as away.
        socket: path of a Unix socket, or empty.
    """

    node: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    user: str = "root"
    password: str = field(default="", repr=False)
    database: str = ""
    ssl_mode: SslMode = SslMode.PREFERRED
    ssl_ca: str = ""
    ssl_cert: str = ""
    ssl_key: str = ""
    connect_timeout: int = 10
    socket: str = ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """What TLS is done with; None where it is off, or tried without demanding it.

        Raises:
            ConfigError: a file is missing or is not a certificate or key.
        """
        if self.ssl_mode in (SslMode.DISABLED, SslMode.PREFERRED):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca or None)
            if self.ssl_cert:
                context.load_cert_chain(self.ssl_cert, self.ssl_key or None)
        except (OSError, ssl.SSLError) as error:
            message = f"the TLS files cannot be read: {error}"
            raise ConfigError(
                message, node=self.node, hint="ssl-ca, ssl-cert and ssl-key name PEM files"
            ) from None
        # Certificates that the server makes for itself are not strict X.509.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = self.ssl_mode is SslMode.VERIFY_IDENTITY
        if self.ssl_mode is SslMode.REQUIRED:
            context.verify_mode = ssl.CERT_NONE
        return context


def parse(node: NodeConfig, *, database: bool = True) -> MysqlConfig:
    """Read a node's DSN.

    Args:
        node: whose `dsn` is read.
        database: the DSN must name a database.

    Raises:
        ConfigError: it is not a MySQL address. The DSN is not repeated, it may hold a password.
    """
    try:
        parts = urlsplit(node.dsn)
        port = parts.port or DEFAULT_PORT
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _wrong(node, "the dsn is not a MySQL address") from None
    if parts.scheme not in ("mysql", "mysql+pymysql") or parts.fragment:
        raise _wrong(node, "the dsn is not a MySQL address")
    if unknown := sorted(set(options) - _OPTIONS):
        raise _wrong(
            node,
            f"the dsn has unknown options: {', '.join(unknown)}",
            f"known: {', '.join(sorted(_OPTIONS))}",
        )
    name = unquote(parts.path.removeprefix("/"))
    if database and not name:
        raise _wrong(node, "the dsn names no database")
    return MysqlConfig(
        node.name,
        parts.hostname or "127.0.0.1",
        port,
        unquote(parts.username or "root"),
        unquote(parts.password or ""),
        name,
        _ssl_mode(node, options),
        options.get("ssl-ca", ""),
        options.get("ssl-cert", ""),
        options.get("ssl-key", ""),
        _seconds(node, options.get("connect-timeout", "10")),
        options.get("socket", ""),
    )


def table_name(node: NodeConfig, mapping: TableMapping) -> str:
    """The table's name on this node, in the database that the DSN names."""
    return mapping.names[node.name]


def quoted(name: str) -> str:
    """An SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def _ssl_mode(node: NodeConfig, options: Mapping[str, str]) -> SslMode:
    given = options.get("ssl-mode")
    if given is None:
        return SslMode.VERIFY_CA if options.get("ssl-ca") else SslMode.PREFERRED
    try:
        return SslMode(given.upper().replace("-", "_"))
    except ValueError:
        raise _wrong(node, f"ssl-mode {given!r} is unknown", f"one of {', '.join(SslMode)}") from None


def _seconds(node: NodeConfig, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise _wrong(node, f"connect-timeout {text!r} is not a number of seconds", "e.g. connect-timeout=10")
    return int(text)


def _wrong(node: NodeConfig, message: str, hint: str = _EXAMPLE) -> ConfigError:
    return ConfigError(message, node=node.name, hint=hint)
