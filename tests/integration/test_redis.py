"""Redis comes and goes, hangs, speaks TLS, wants a password."""

from __future__ import annotations

import io
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.config import load
from cluster.logs import configure_logging, secrets_of
from cluster.servers.process import free_port
from cluster.sharing.address import RedisConfig
from cluster.sharing.fallback import WithFallback
from cluster.sharing.local import LocalStore
from cluster.sharing.redis import RedisAway, RedisStore
from tests.fixtures.redis import RedisServer, local_server
from tests.fixtures.until import until

PASSWORD = "s3same-and-lily"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One to be killed."""
    with local_server() as found:
        yield found


@pytest.fixture
def store(server: RedisServer) -> Iterator[WithFallback]:
    connect = lambda: RedisStore(RedisConfig(server.url), "shop")  # noqa: E731
    with closing(WithFallback("redis", connect, LocalStore())) as found:
        yield found


def test_an_outage_is_seen_without_a_request_and_is_over_by_itself(
    store: WithFallback, server: RedisServer
) -> None:
    store.put("s", "a", b"in redis", 600)
    server.kill()
    until(lambda: store.health().away_since)
    assert "ConnectionError" in store.health().error
    assert store.get("s", "a") is None
    store.put("s", "b", b"here", 600)
    assert store.get("s", "b") == b"here"
    assert store.hit("subject", "alice", 2) == 0.0
    server.start()
    until(lambda: not store.health().away_since)
    store.put("s", "c", b"in redis again", 600)
    with closing(RedisStore(RedisConfig(server.url), "shop")) as other:
        assert other.all("s") == {"c": b"in redis again"}


def test_a_server_that_hangs_holds_nobody_up_for_long(store: WithFallback, server: RedisServer) -> None:
    server.process.child.send_signal(signal.SIGSTOP)
    try:
        assert store.hit("subject", "alice", 5) == 0.0, "answered from here, after the first wait"
        assert store.health().away_since
        began = time.monotonic()
        for number in range(1_000):
            assert store.hit("subject", str(number), 5) == 0.0
        assert time.monotonic() - began < 300, "a wait for each would be two thousand seconds"
    finally:
        server.process.child.send_signal(signal.SIGCONT)
    until(lambda: not store.health().away_since)


def test_over_tls_the_certificate_and_the_name_are_verified(certificates: Path) -> None:
    with local_server(PASSWORD, certificates) as server:
        good = RedisConfig(server.url, certificates / "ca.pem")
        with closing(RedisStore(good, "shop")) as store:
            store.put("s", "a", b"1", 60)
            assert store.get("s", "a") == b"1"
        other_name = server.url.replace("127.0.0.1", "localhost")
        for config in (
            RedisConfig(server.url),
            RedisConfig(other_name, certificates / "ca.pem"),
        ):
            with pytest.raises(RedisAway, match=r"(?i)certificate"):
                RedisStore(config, "shop")
        wrong = RedisConfig(server.url.replace(PASSWORD, "wrong"), certificates / "ca.pem")
        with pytest.raises(RedisAway, match="AuthenticationError") as refused:
            RedisStore(wrong, "shop")
        assert PASSWORD not in str(refused.value)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged, down to debug level."""
    root, out = logging.getLogger(), io.StringIO()
    before, level = list(root.handlers), root.level
    configure_logging("debug", secrets_of([f"redis://:{PASSWORD}@host"]), stream=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)


def test_the_password_is_in_no_log(tmp_path: Path, logged: io.StringIO) -> None:
    file = tmp_path / "sync.yaml"
    file.write_text(
        'group: shop\nnodes:\n  a: {engine: memory, dsn: "memory://a"}\n  b: {engine: memory, dsn: "memory://b"}\n'
        f'tables:\n  orders: {{key: [id]}}\nredis: {{url: "redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"}}\n'
    )
    config = load(file)
    assert PASSWORD not in repr(config)
    assert PASSWORD in secrets_of(config.addresses)
    redis = config.redis
    assert redis is not None
    with closing(WithFallback("redis", lambda: RedisStore(redis, "shop"), LocalStore())) as store:
        until(lambda: '"breaker_open"' in logged.getvalue())
        assert PASSWORD not in store.health().error
    assert PASSWORD not in logged.getvalue()
