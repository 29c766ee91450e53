"""A Redis server for tests and benchmarks: the one that is installed, or Debian's package."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis

from cluster.servers.debian import NotFetched, Packages, fetched
from cluster.servers.process import OwnServer, ServerProcess, free_port

_NEEDED = ("redis-", "libjemalloc", "liblzf", "libatomic", "libssl")
PACKAGES = Packages("redis", "redis-server", "", lambda name: name.startswith(_NEEDED))


class NoRedis(RuntimeError):
    """This machine has no Redis and cannot fetch one; the message says why in one line."""


class RedisServer(OwnServer):
    """A server process of one's own, on loopback alone.

    Args:
        path: folder for its log.
        password: what it asks for.
        tls: a folder with `ca.pem`, `server.pem` and `server.key`; it speaks nothing but TLS then.

    Raises:
        NoRedis: there is no program.
    """

    def __init__(self, path: Path, password: str = "", tls: Path | None = None) -> None:
        self.port, self.path = free_port(), path
        self._password, self._tls = password, tls
        program, env = _program()
        command = [program, "--bind", "127.0.0.1", "--dir", str(path), "--save", "", "--appendonly", "no"]
        if tls is None:
            command += ["--port", str(self.port)]
        else:
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", f"{tls}/server.pem", "--tls-key-file", f"{tls}/server.key"]
            command += ["--tls-ca-cert-file", f"{tls}/ca.pem"]
        if password:
            command += ["--requirepass", password]
        self.process = ServerProcess("redis", command, path / "server.log", self._serves, env=env)

    @property
    def url(self) -> str:
        """Its address."""
        who = f":{self._password}@" if self._password else ""
        return f"{'rediss' if self._tls else 'redis'}://{who}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers."""
        self.process.start()

    def stop(self) -> None:
        """End it in order; safe to call twice."""
        self.process.stop()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def _serves(self) -> bool:
        more = {"ssl_ca_certs": f"{self._tls}/ca.pem"} if self._tls else {}
        with redis.Redis.from_url(self.url, **more) as client:
            return bool(client.ping())


def _program() -> tuple[str, dict[str, str]]:
    """The program and its environment."""
    if installed := shutil.which("redis-server"):
        return installed, {}
    try:
        root = fetched(PACKAGES)
    except NotFetched as error:
        message = f"no Redis: {error}"
        raise NoRedis(message) from error
    folders = ":".join(str(folder) for folder in (root / "usr" / "lib").glob("*-linux-*"))
    return str(root / "usr" / "bin" / "redis-server"), {"LD_LIBRARY_PATH": folders}
