"""The section `redis` of the configuration."""

from __future__ import annotations

from cluster.config_address import Scheme, read_server
from cluster.config_reader import Value
from cluster.sharing.address import RedisConfig

# An option in the address could switch off that its certificate is verified.
_SCHEME = Scheme("Redis", "redis://", "rediss://", "redis://user:password@host:6379/0", options=False)


def read_redis(value: Value) -> RedisConfig:
    """Where Redis is."""
    url, paths = read_server(value, _SCHEME)
    return RedisConfig(url, **paths)
