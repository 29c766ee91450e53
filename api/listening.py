"""The socket that a replica of the interface listens at, and the server behind it.

    client ─▶ api.host:api.port ─▶ the kernel chooses a replica ─▶ uvicorn ─▶ the application

All replicas of a group listen at the same address (`SO_REUSEPORT`), so a request takes no way through
another process, and what a client of the stream does not read holds up its own messages alone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import uvicorn

from cluster.config_api import ApiConfig
from replication.errors import Terminal

START_SECONDS = 60.0
STOP_SECONDS = 5.0
CHECK_SECONDS = 10.0
KEPT_SECONDS = 75
"""An idle connection; longer than balancers keep theirs, which would send requests into one that ends."""
PONG_SECONDS = 120.0
"""A client of the stream may be so long without reading anything."""
LARGEST_MESSAGE = 1 << 16
"""Bytes of a message that a client of the stream may send: none is expected."""


class Listening:
    """An application that answers, on a thread of its own, until `close`.

    Args:
        app: the ASGI application.
        api: where it listens, and with which certificate.

    Raises:
        Terminal: it cannot listen there.
    """

    def __init__(self, app: Any, api: ApiConfig) -> None:
        for name in ("uvicorn", "websockets"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they have a line for each client
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who comes through a proxy has its address: see docs/api.md
                ws="websockets-sansio",  # the one that waits for a client that reads slowly
                ws_max_size=LARGEST_MESSAGE,
                ws_ping_timeout=PONG_SECONDS,
                timeout_keep_alive=KEPT_SECONDS,
                timeout_graceful_shutdown=int(STOP_SECONDS),
                ssl_certfile=str(api.tls.certificate) if api.tls else None,
                ssl_keyfile=str(api.tls.key) if api.tls else None,
            )
        )
        self._socket = bound(api.host, api.port, shared=True)
        self._loop = (self._server.config.get_loop_factory() or asyncio.new_event_loop)()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                message = f"{api.host}:{api.port}: the HTTP server does not begin"
                raise Terminal(message, hint="the line of the log before this one says why")
            self._thread.join(0.01)

    def check(self) -> None:
        """Raise unless it could answer now."""
        if not self._thread.is_alive():
            message = "the HTTP server has ended"
            raise Terminal(message, hint="it is begun again by itself; the log says what ended it")
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(CHECK_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        """Answer no new request, give those that are being answered a moment, and end."""
        self._server.should_exit = True
        self._thread.join(2 * STOP_SECONDS)
        self._socket.close()


def bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket at an address.

    Args:
        host: the address.
        port: its port.
        shared: other replicas listen there, too; else nobody does.

    Raises:
        Terminal: it is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
        if not shared:
            found.listen()  # two may be bound, as long as neither listens
    except OSError as error:
        found.close()
        message = f"{host}:{port}: {error.strerror}"
        hint = "another group or program listens there: give this one another api.port, or no api at all"
        raise Terminal(message, hint=hint) from error
    return found
