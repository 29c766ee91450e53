"""The shared store in Redis, and how to connect to it.

Every key begins with `sync-worker:GROUP:`, and every one of them expires. A shelf is one key for each value,
and a sorted set of their names by the time at which they expire.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from cluster.sharing.address import RedisConfig
from cluster.sharing.local import Counts
from cluster.sharing.store import SharedHealth
from replication.errors import Transient

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 2.0
"""A request waits for at most so long, once; then everything goes on without it for a while."""
MARGIN_SECONDS = 60.0
"""Clocks of machines are no further apart; names stay on a shelf's list for that much longer."""


class RedisAway(Transient):
    """Redis cannot be reached, or does not let us in."""


def connect(config: RedisConfig) -> redis.Redis:
    """A client; over TLS the server's certificate and its name are verified. It connects when it is used."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),  # who is away is asked again by us
        "client_name": "sync-worker",
    }
    if config.url.startswith("rediss://"):
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        files = {"ssl_ca_certs": config.ca, "ssl_certfile": config.cert, "ssl_keyfile": config.key}
        options |= {name: str(path) for name, path in files.items() if path}
    return redis.Redis.from_url(config.url, **options)


@contextmanager
def reached() -> Iterator[None]:
    """What goes wrong on the way to Redis, as an error of ours."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        text = " ".join(str(error).split())
        message = f"{type(error).__name__}{f': {text}' if text else ''}"
        raise RedisAway(message) from error


def prefix(group: str) -> str:
    """What the keys and channels of a group begin with."""
    return f"sync-worker:{group}:"


class RedisStore:
    """See `SharedStore`. Connected while it exists.

    Args:
        config: where Redis is.
        group: the group's name; keys bear it.

    Raises:
        RedisAway: it cannot be reached.
    """

    def __init__(self, config: RedisConfig, group: str) -> None:
        self._prefix = prefix(group)
        self._client = connect(config)
        with reached():
            self._client.ping()
            pool: Any = self._client.connection_pool
            # The address is only looked at for its scheme: the pool is connected already.
            storage = RedisStorage("redis://", connection_pool=pool, key_prefix=f"{self._prefix}rate")
        self._counts = Counts(storage)

    def hit(self, kind: str, who: str, most: int) -> float:
        """See `Rates`."""
        with reached():
            return self._counts.hit(kind, who, most)

    def put(self, shelf: str, name: str, value: bytes, seconds: float) -> None:
        """See `Board`."""
        now, names = time.time(), self._names(shelf)
        with reached(), self._client.pipeline() as work:
            work.set(self._key(shelf, name), value, px=max(1, int(1000 * seconds)))
            work.zadd(names, {name: now + seconds})
            work.zremrangebyscore(names, 0, now - MARGIN_SECONDS)
            last = work.zrange(names, -1, -1, withscores=True)
            assert last is not None
            answers = work.execute()
            self._client.expireat(names, int(answers[3][0][1] + 2 * MARGIN_SECONDS))

    def get(self, shelf: str, name: str) -> bytes | None:
        """See `Board`."""
        with reached():
            found: Any = self._client.get(self._key(shelf, name))
        return found if found is None else bytes(found)

    def all(self, shelf: str) -> dict[str, bytes]:
        """See `Board`."""
        with reached():
            listed: Any = self._client.zrange(self._names(shelf), 0, -1)
            names = [name.decode() for name in listed]
            values: Any = self._client.mget([self._key(shelf, n) for n in names]) if names else []
        return {n: bytes(v) for n, v in zip(names, values, strict=True) if v is not None}

    def health(self) -> SharedHealth:
        """See `SharedStore`."""
        return SharedHealth("redis")

    def close(self) -> None:
        """See `SharedStore`."""
        with suppress(redis.RedisError, OSError):
            self._client.close()

    def _names(self, shelf: str) -> str:
        return f"{self._prefix}names:{shelf}"

    def _key(self, shelf: str, name: str) -> str:
        return f"{self._prefix}value:{shelf}:{name}"
