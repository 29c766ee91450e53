"""The sections `retries`, `rabbitmq` and `redis`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import GroupConfig, InvalidConfig, load
from cluster.retries.address import RabbitConfig
from cluster.sharing.address import RedisConfig
from replication.retries import RetryPlan

MINIMAL = """\
group: shop
nodes:
  pg: {engine: postgres, dsn: "postgresql://127.0.0.1/shop"}
  mongo: {engine: mongodb, dsn: "mongodb://127.0.0.1/shop"}
tables:
  orders: {key: [id]}
"""


def read(folder: Path, more: str, **environ: str) -> GroupConfig:
    path = folder / "sync.yaml"
    path.write_text(MINIMAL + more)
    return load(path, environ)


def test_without_them_rows_wait_in_a_file_and_are_sent_again_six_times(tmp_path: Path) -> None:
    config = read(tmp_path, "")
    assert (config.rabbitmq, config.retries) == (None, RetryPlan(6, 30.0, 3600.0))


def test_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    text = (
        'rabbitmq: {url: "amqps://sync:${PW}@mq:5671/%2F", ca: ca.pem}\n'
        "retries: {tries: 0, first_seconds: 1.5, max_seconds: 20}\n"
    )
    config = read(tmp_path, text, PW="secret")
    assert config.rabbitmq == RabbitConfig("amqps://sync:secret@mq:5671/%2F", tmp_path / "ca.pem")
    assert config.retries == RetryPlan(0, 1.5, 20.0)
    assert "secret" not in repr(config)


def test_redis_is_read(tmp_path: Path) -> None:
    for name in ("ca.pem", "own.pem", "own.key"):
        (tmp_path / name).touch()
    text = 'redis: {url: "rediss://u:${PW}@r:6380/1", ca: ca.pem, cert: own.pem, key: own.key}\n'
    config = read(tmp_path, text, PW="secret")
    files = (tmp_path / "ca.pem", tmp_path / "own.pem", tmp_path / "own.key")
    assert config.redis == RedisConfig("rediss://u:secret@r:6380/1", *files)
    assert "secret" not in repr(config)
    assert "rediss://u:secret@r:6380/1" in config.addresses
    assert read(tmp_path, "").redis is None


def test_an_address_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://mq\n")
    config = read(tmp_path, "rabbitmq: {url: {file: url}}\n")
    assert config.rabbitmq == RabbitConfig("amqp://mq")


def test_a_first_pause_beyond_the_longest_one_is_the_longest(tmp_path: Path) -> None:
    assert read(tmp_path, "retries: {first_seconds: 7200}\n").retries.max_seconds == 7200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rabbitmq: {}\n", "rabbitmq: 'url' is missing"),
        (
            'rabbitmq: {url: "http://user:secret@mq"}\n',
            "rabbitmq.url: not an address of RabbitMQ | it begins with amqp:// or, for TLS, amqps://",
        ),
        ('rabbitmq: {url: "amqp://"}\n', "rabbitmq.url: the address names no host, or no port that is one"),
        ('rabbitmq: {url: "amqp://mq:secret"}\n', "rabbitmq.url: the address names no host, or no port"),
        ('rabbitmq: {url: "amqps://mq", ca: no.pem}\n', "rabbitmq.ca: no file no.pem | name a PEM file"),
        (
            'rabbitmq: {url: "amqp://mq", ca: sync.yaml}\n',
            "rabbitmq.ca: a certificate without TLS | begin the url with amqps://",
        ),
        ('rabbitmq: {url: "amqps://mq", key: sync.yaml}\n', "rabbitmq: key without cert"),
        ("redis: {}\n", "redis: 'url' is missing"),
        (
            'redis: {url: "amqp://user:secret@r"}\n',
            "redis.url: not an address of Redis | it begins with redis:// or, for TLS, rediss://",
        ),
        (
            'redis: {url: "rediss://r/0?ssl_cert_reqs=none"}\n',
            "redis.url: the address has options | leave off what follows ?",
        ),
        ('redis: {url: "redis://r", ca: sync.yaml}\n', "redis.ca: a certificate without TLS"),
        ("retries: {tries: -1}\n", "retries.tries: -1 is out of range | from 0 to 1000"),
        (
            "retries: {first_seconds: 5, max_seconds: 2}\n",
            "retries: first_seconds (5) is more than max_seconds (2) | the first pause is the shortest",
        ),
        ("retries: {times: 3}\n", "retries.times: unknown key | did you mean 'tries'?"),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read(tmp_path, text)
    problems = [f"{p.path}: {p.message} | {p.hint}" for p in caught.value.problems]
    assert any(p.startswith(expected) for p in problems), problems
    assert "secret" not in str(caught.value)
