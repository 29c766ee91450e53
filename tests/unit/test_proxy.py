"""The fault proxy does what it says, and only that."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.proxy import FaultProxy

LARGE = bytes(range(256)) * 40_000


class EchoServer:
    """Sends back what it receives, each connection in a thread of its own."""

    def __init__(self) -> None:
        self.resets = threading.Semaphore(0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.serve)]
        self.threads[0].start()

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.echo, args=(peer,))
            self.threads.append(thread)
            thread.start()

    def echo(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except ConnectionResetError:
                self.resets.release()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    echo = EchoServer()
    yield echo
    echo.close()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.port) as p:
        yield p


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return data


def exchange(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return receive(sock, len(data))


def test_it_forwards_both_ways_and_ends_as_its_ends_do(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert exchange(sock, b"hello") == b"hello"
        sock.sendall(b"last")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 100) == b"last"


def test_a_slow_reader_holds_the_sender_and_loses_nothing(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        sender = threading.Thread(target=sock.sendall, args=(LARGE,))
        sender.start()
        assert receive(sock, len(LARGE)) == LARGE
        sender.join()


def test_cut_resets_both_ends_and_the_next_connection_works(proxy: FaultProxy, server: EchoServer) -> None:
    with connect(proxy) as sock:
        assert exchange(sock, b"a") == b"a"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert server.resets.acquire(timeout=10)
    with connect(proxy) as sock:
        assert exchange(sock, b"b") == b"b"
    assert proxy.connections == 2


def test_pause_is_a_black_hole_until_resume(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert exchange(sock, b"a") == b"a"
        proxy.pause()
        sock.sendall(b"b")
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        proxy.resume()
        assert receive(sock, 1) == b"b"


def test_cut_works_while_paused(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert exchange(sock, b"a") == b"a"
        proxy.pause()
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_refuse_turns_new_connections_away_and_keeps_open_ones(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert exchange(sock, b"a") == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert exchange(sock, b"b") == b"b"
        proxy.accept()
        with connect(proxy) as other:
            assert exchange(other, b"c") == b"c"


def test_a_target_that_is_away_resets_the_client() -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    port = nobody.getsockname()[1]
    nobody.close()
    with (
        FaultProxy("127.0.0.1", port) as proxy,
        pytest.raises(ConnectionResetError),
        connect(proxy) as sock,
    ):
        sock.recv(1)


def test_close_frees_the_port_and_ends_the_thread(server: EchoServer) -> None:
    proxy = FaultProxy("127.0.0.1", server.port)
    with connect(proxy) as sock:
        assert exchange(sock, b"a") == b"a"
        proxy.close()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert not any(t.name == f"proxy-{proxy.port}" for t in threading.enumerate())
    with pytest.raises(OSError) as refused:
        connect(proxy)
    assert refused.value.errno == errno.ECONNREFUSED


def test_everything_arrives_later_and_in_order(proxy: FaultProxy) -> None:
    proxy.delay(0.05)
    with connect(proxy) as client:
        began = time.monotonic()
        assert exchange(client, b"there and back") == b"there and back"
        assert time.monotonic() - began >= 0.1
        sender = threading.Thread(target=client.sendall, args=(LARGE,))
        sender.start()
        assert receive(client, len(LARGE)) == LARGE
        sender.join()
        proxy.delay(0)
        assert exchange(client, b"soon") == b"soon"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
