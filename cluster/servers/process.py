"""One server process: started on loopback, watched until it answers, stopped by its process id."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self


class ServerFailed(RuntimeError):
    """A server did not start; the message ends with the last lines of its log."""


PORTS = range(20_000, 32_768)
"""Of servers: below those that systems give to connections, one of which would be there when a server is
started again; above those of Ray's workers."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    while True:
        with socket.socket() as s, suppress(OSError):
            port = random.choice(PORTS)
            s.bind(("127.0.0.1", port))
            return port


class OwnServer(ABC):
    """A server that is ours to start and to stop; as a context manager it runs inside the block."""

    @abstractmethod
    def start(self) -> None:
        """Start and wait until it serves."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order; safe to call twice."""

    def restart(self) -> None:
        """Stop, then start on the same data and port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ServerProcess:
    """A child process in a session of its own.

    Args:
        name: for messages.
        command: program and arguments.
        log: file that takes its standard output and error.
        ready: answers whether the server serves; called until it does, exceptions count as not yet.
        env: variables on top of ours.
        user: name of the unprivileged user to run as, when we are root.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.ready = ready
        self.env = {**os.environ, **(env or {})}
        self.user = user
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; only while running."""
        assert self.child is not None, f"{self.name} is not running"
        return self.child.pid

    def start(self, timeout: float = 60.0) -> None:
        """Start and wait until it serves.

        Raises:
            ServerFailed: it ended, or did not serve within `timeout` seconds.
        """
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.env,
                user=self.user,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise ServerFailed(self._report(f"ended with code {self.child.returncode}"))
            if self._answers():
                return
            time.sleep(0.05)
        self.kill()
        raise ServerFailed(self._report(f"did not serve within {timeout:.0f} s"))

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> None:
        """Signal it and wait; kill it if it takes longer than `timeout` seconds. Safe to call twice."""
        if self.child is None or self.child.poll() is not None:
            return
        self.child.send_signal(sig)
        try:
            self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """`kill -9`, and its whole session with it."""
        if self.child is None or self.child.poll() is not None:
            return
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _answers(self) -> bool:
        try:
            return self.ready()
        except Exception:  # noqa: BLE001  any failure of a probe means: not yet
            return False

    def _report(self, what: str) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"{self.name} {what}; {self.log} ends:", *tail])
