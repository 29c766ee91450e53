"""Calls from one part to another over a connection of their own: those that every change goes through.

A call through Ray costs several times what it costs to write to a socket and to be woken by it, and there are
hundreds in a second (ADR 18). Ray still says where a part is, makes it again, and carries every other call:
whoever may ask a part over Ray learns its address and its key from it.

A frame is its length, 8 bytes, big-endian, then a pickle. A request is `(number, method, arguments)`, an
answer `(number, succeeded, value or error)`; answers come in any order. Before the first frame both ends
prove that they have the key, as `multiprocessing.connection` does.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from replication.errors import NodeUnavailable

_LENGTH = struct.Struct(">Q")
_SECONDS = struct.Struct("ll")
GREET_SECONDS = 5
"""For a connection to be made, and for the proof of its key."""
SILENT_SECONDS = 20
"""After so long without a sign of life from the other machine a connection is lost."""
AGAIN_SECONDS = 0.05
UNREACHABLE_SECONDS = 30.0
"""A part that answers through Ray and cannot be connected to for so long is given up."""
UNREACHABLE = "the parts call each other at ports that the system chooses: open them between your machines"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a part listens.

    Attributes:
        host: of its machine, as Ray knows it.
        port: the port.
        key: proves that a caller may call.
    """

    host: str
    port: int
    key: bytes = field(repr=False)


class Listening:
    """Answers the calls that come in over connections, each connection's in a thread of its own.

    Args:
        host: the address to listen at.
        methods: by name. Of one connection they are called one after the other; where one gives a future,
            the next call does not wait for it.
    """

    def __init__(self, host: str, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._methods = methods
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self.address = Address(host, self._socket.getsockname()[1], secrets.token_bytes(32))
        threading.Thread(target=self._accept, name="listening", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that there are end with their callers."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), name="answering", daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with closing(connected), suppress(EOFError, OSError, AuthenticationError):
            _greet(connected, self.address.key, asks_first=True)
            answers = _Outbox(connected)
            while True:
                number, method, args = pickle.loads(_receive(connected))
                self._answer(answers, number, method, args)

    def _answer(self, answers: _Outbox, number: int, method: str, args: tuple[Any, ...]) -> None:
        try:
            value = self._methods[method](*args)
        except Exception as error:  # noqa: BLE001  it is the caller's
            answers.put(_failure(number, error))
            return
        if not isinstance(value, Future):
            answers.put(_success(number, value))
            return

        def answered(done: Future[Any]) -> None:
            error = done.exception()
            answers.put(_failure(number, error) if error else _success(number, done.result()))

        value.add_done_callback(answered)


class Channel:
    """A part in another process, in the shape of `actors.remote.Handle`.

    Args:
        name: the part's name.
        locate: where it listens; blocks while it is being made again.
        repeats: calls that were on their way when it was lost are made again, in their order.
    """

    def __init__(self, name: str, locate: Callable[[], Address], *, repeats: bool) -> None:
        self._name, self._locate, self._repeats = name, locate, repeats
        self._waiting: dict[int, tuple[str, tuple[Any, ...], Future[Any]]] = {}
        self._number = 0
        self._requests: _Outbox | None = None
        self._wanted = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"to {name}", daemon=True)
        self._thread.start()

    def call(self, method: str, *args: Any) -> Future[Any]:
        """See `Handle`. It does not wait for the other end to read."""
        done: Future[Any] = Future()
        with self._wanted:
            self._number += 1
            request = _pickled((self._number, method, args))  # before it waits: some cannot be sent at all
            self._waiting[self._number] = method, args, done
            if self._requests is None:
                self._wanted.notify()
            else:
                self._requests.put(request)
        return done

    def close(self) -> None:
        """Call no more; what waits for an answer fails."""
        with self._wanted:
            self._closed = True
            if self._requests is not None:
                self._requests.end()
            self._wanted.notify()
        self._thread.join()
        self._fail(f"{self._name} is called no more")

    def _run(self) -> None:
        while not self._closed:
            with self._wanted:
                while not (self._waiting or self._closed):
                    self._wanted.wait()
            try:
                connected = self._reach()
            except Exception as error:  # noqa: BLE001  it is the callers'
                self._fail_with(error)
                continue
            with closing(connected):
                self._converse(connected)
            if not self._repeats:
                self._fail(f"an actor was lost: {self._name}")
            time.sleep(AGAIN_SECONDS)  # what breaks every connection is not to be asked without a pause

    def _reach(self) -> socket.socket:
        """Connect to the part, which may have just ended without Ray's knowing it yet."""
        deadline = time.monotonic() + UNREACHABLE_SECONDS
        while True:
            address = self._locate()
            try:
                return _connect(address)
            except (OSError, EOFError, AuthenticationError) as error:
                if self._closed or time.monotonic() > deadline:
                    message = f"no connection to {self._name} at {address.host}:{address.port}: {error}"
                    raise NodeUnavailable(message, hint=UNREACHABLE) from error
            time.sleep(AGAIN_SECONDS)

    def _converse(self, connected: socket.socket) -> None:
        """Ask what waits and what comes, and take answers, until the connection is lost."""
        with self._wanted:
            if self._closed:
                return
            self._requests = _Outbox(connected)
            for number, (method, args, _) in self._waiting.items():
                self._requests.put(_pickled((number, method, args)))
        with suppress(EOFError, OSError):
            while True:
                number, succeeded, value = pickle.loads(_receive(connected))
                *_, done = self._waiting.pop(number)
                if succeeded:
                    done.set_result(value)
                else:
                    done.set_exception(value)
        with self._wanted:
            self._requests = None

    def _fail(self, message: str) -> None:
        self._fail_with(NodeUnavailable(message))

    def _fail_with(self, error: BaseException) -> None:
        with self._wanted:
            failed, self._waiting = self._waiting, {}
        for *_, done in failed.values():
            done.set_exception(error)


class _Outbox:
    """What is sent to a socket: at once where it takes it, else from a thread, so that nobody waits."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lock = threading.Lock()
        self._left: deque[memoryview] = deque()

    def put(self, message: bytes) -> None:
        """Send a message after those before it. A connection that is lost shows where it is read."""
        with self._lock:
            rest = memoryview(message)
            if self._left:
                self._left.append(rest)
                return
            with suppress(OSError):
                with suppress(BlockingIOError):
                    rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
                if rest:
                    self._left.append(rest)
                    threading.Thread(target=self._send_left, name="sending", daemon=True).start()

    def end(self) -> None:
        """Break the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send_left(self) -> None:
        with suppress(OSError):
            while True:
                self._socket.sendall(self._left[0])
                with self._lock:
                    self._left.popleft()
                    if not self._left:
                        return


def _connect(address: Address) -> socket.socket:
    connected = socket.create_connection((address.host, address.port), GREET_SECONDS)
    try:
        connected.settimeout(None)
        _greet(connected, address.key, asks_first=False)
    except BaseException:
        connected.close()
        raise
    return connected


def _greet(connected: socket.socket, key: bytes, *, asks_first: bool) -> None:
    """Prove and be proven that the key is known. The order is fixed, or both would wait.

    Raises:
        AuthenticationError: the other end does not know it.
        OSError: it says nothing.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 5),
        ("TCP_USER_TIMEOUT", SILENT_SECONDS * 1000),
    ):
        if hasattr(socket, option):  # Linux has them all
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SECONDS.pack(GREET_SECONDS, 0))
    with Connection(os.dup(connected.fileno())) as proving:
        for step in (
            (deliver_challenge, answer_challenge) if asks_first else (answer_challenge, deliver_challenge)
        ):
            step(proving, key)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SECONDS.pack(0, 0))


def _receive(connected: socket.socket) -> bytearray:
    """The next message.

    Raises:
        EOFError: the other end has closed the connection.
    """
    (size,) = _LENGTH.unpack(_receive_exactly(connected, _LENGTH.size))
    return _receive_exactly(connected, size)


def _receive_exactly(connected: socket.socket, size: int) -> bytearray:
    taken, into = 0, bytearray(size)
    view = memoryview(into)
    while taken < size:
        got = connected.recv_into(view[taken:], size - taken, socket.MSG_WAITALL)
        if not got:
            raise EOFError
        taken += got
    return into


def _pickled(message: tuple[Any, ...]) -> bytes:
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _success(number: int, value: Any) -> bytes:
    try:
        return _pickled((number, True, value))
    except Exception as error:  # noqa: BLE001  a value that cannot be sent
        return _failure(number, error)


def _failure(number: int, error: BaseException) -> bytes:
    """An error as it was raised, where it can be made again elsewhere; with where it came from."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        message = _pickled((number, False, error))
        pickle.loads(memoryview(message)[_LENGTH.size :])
    except Exception:  # noqa: BLE001  some classes cannot be made from what they hold
        return _pickled((number, False, RuntimeError(f"{type(error).__name__}: {error}")))
    return message
