"""A MySQL server, for the demo and for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pymysql.connections import Connection

from cluster.servers.mysql_programs import find_program
from cluster.servers.process import OwnServer, ServerFailed, ServerProcess, free_port
from replication.engines.mysql.config import parse, quoted
from replication.engines.mysql.connection import connect
from replication.schema import NodeConfig

OPTIONS = (
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-row-metadata=FULL",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--local-infile=ON",
    "--max-connections=300",
)
"""What makes a server's binlog one to replicate from."""
_LOOPBACK = ("--bind-address=127.0.0.1", "--mysqlx=OFF", "--secure-file-priv=NULL", "--skip-name-resolve")
_ACCOUNT = "RENAME USER root@localhost TO root@127.0.0.1;\n"
"""Names are not resolved, so that no machine's resolver matters."""


class MysqlAddress:
    """A server that is already there.

    Args:
        dsn: the address of an account that may create databases.
    """

    def __init__(self, dsn: str) -> None:
        self.admin_dsn = dsn

    def dsn(self, database: str = "") -> str:
        """The address of one database."""
        return urlunsplit(urlsplit(self.admin_dsn)._replace(path=f"/{database}"))

    def connect(self, database: str = "") -> Connection:
        """A connection to administer with."""
        config = parse(NodeConfig("mysql", "mysql", self.admin_dsn), database=False)
        return connect(replace(config, database=database))

    def create_database(self, name: str) -> str:
        """Create an empty database in utf8mb4.

        Returns:
            its address.
        """
        self._run(f"CREATE DATABASE {quoted(name)} CHARACTER SET utf8mb4")
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database; no error if it is not there."""
        self._run(f"DROP DATABASE IF EXISTS {quoted(name)}")

    def _run(self, statement: str) -> None:
        with self.connect() as c:
            c.query(statement)


class MysqlServer(MysqlAddress, OwnServer):
    """A server process of our own on loopback, with row-based binlog and GTIDs.

    Its account is `root` and needs no password. The data stays in `path` until the caller removes it.

    Args:
        path: folder for data and log; created if missing.
        port: TCP port; a free one by default, the same over restarts.
        options: further command line options; they win over `OPTIONS`.
        env: variables, e.g. `TZ` for a server in another time zone.

    Raises:
        NoMysql: this machine has no server program and cannot fetch one.
    """

    def __init__(
        self,
        path: Path,
        *,
        port: int | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.port = port or free_port()
        super().__init__(f"mysql://root@127.0.0.1:{self.port}/")
        self._program = find_program()
        command = [
            *self._base(),
            *(f"--port={self.port}", f"--socket={path / 'mysql.sock'}", f"--pid-file={path / 'mysql.pid'}"),
            *_LOOPBACK,
            *OPTIONS,
            *options,
        ]
        self.process = ServerProcess("mysql", command, path / "mysql.log", self._serves, env=env)

    @property
    def pid(self) -> int:
        """The process id; only while running."""
        return self.process.pid

    @property
    def data(self) -> Path:
        """The data folder; the server's own certificates are in it, `ca.pem` for one."""
        return self.path / "data"

    def start(self) -> None:
        """Initialise the data folder if it is empty, start, and wait until it serves.

        Raises:
            ServerFailed: it cannot be initialised or does not serve; the message says why.
        """
        if not (self.data / "mysql.ibd").exists():
            self.initialise()
        self.process.start()

    def stop(self) -> None:
        """Shut down in order; safe to call twice."""
        self.process.stop(timeout=60.0)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def _base(self) -> list[str]:
        account = ["--user=root"] if os.geteuid() == 0 else []  # as root it refuses to run otherwise
        return [
            *self._program.command,
            "--no-defaults",
            *account,
            f"--datadir={self.data}",
            *self._program.options,
        ]

    def initialise(self) -> None:
        """Make the data folder; `start` does so if it is empty.

        Raises:
            ServerFailed: it cannot be made; the message says why.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        script = self.path / "initialise.sql"
        script.write_text(_ACCOUNT)
        command = [*self._base(), "--initialize-insecure", f"--init-file={script}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            message = f"mysqld --initialize-insecure failed in {self.data}:\n{done.stderr[-2000:]}"
            raise ServerFailed(message)

    def _serves(self) -> bool:
        with self.connect():
            return True
