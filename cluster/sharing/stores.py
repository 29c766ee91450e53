"""Which shared store a configuration means."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from actors.remote import Handle
from cluster.config import GroupConfig
from cluster.sharing.fallback import WithFallback
from cluster.sharing.local import LocalStore
from cluster.sharing.on_ray import OnRay
from cluster.sharing.store import SharedHealth, SharedStore
from replication.engine import Finding
from replication.errors import Transient


def open_store(config: GroupConfig, actor: Callable[[], Handle] | None = None) -> SharedStore:
    """The store of a replica: Redis if there is one, else the actor if there is one, else its own memory.

    Args:
        config: the group.
        actor: looks the actor up that holds a store for several replicas.
    """
    near: SharedStore = LocalStore()
    if actor is not None:
        near = WithFallback("ray", lambda: OnRay(actor()), near)
    if (redis := config.redis) is None:
        return near
    from cluster.sharing.redis import RedisStore

    return WithFallback("redis", lambda: RedisStore(redis, config.group), near)


def seen_from_here(config: GroupConfig) -> SharedHealth | None:
    """Whether Redis answers this process now; None for a group without it."""
    if config.redis is None:
        return None
    if (away := _away(config)) is None:
        return SharedHealth("redis")
    return SharedHealth("redis", datetime.now(UTC).isoformat(timespec="seconds"), away)


def findings(config: GroupConfig) -> list[Finding]:
    """Whether Redis can be reached. The interface begins without it, too, so nothing of it is an error."""
    if config.redis is None:
        return []
    found = []
    if config.api is None:
        message = "Redis is for the HTTP interface, and the group has none"
        found.append(Finding("warning", "redis", message, "add api, or remove redis"))
    if (away := _away(config)) is not None:
        remedy = (
            "start it, or correct redis.url; until then each replica counts requests and reads the audit log"
            " by itself"
        )
        found.append(Finding("warning", "redis", away, remedy))
    return found


def _away(config: GroupConfig) -> str | None:
    from cluster.sharing.redis import RedisStore

    assert config.redis is not None
    try:
        RedisStore(config.redis, config.group).close()
    except Transient as away:
        return away.message
    return None
