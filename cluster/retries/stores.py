"""Which retry store a configuration means."""

from __future__ import annotations

from cluster.config import GroupConfig
from cluster.retries.local import LocalStore
from replication.engine import Finding
from replication.errors import Transient
from replication.retries import RetryStore


def open_store(config: GroupConfig) -> RetryStore:
    """The local store, or RabbitMQ with the local store behind it."""
    local, rabbitmq = LocalStore(config.audit_path), config.rabbitmq
    if rabbitmq is None:
        return local
    from cluster.retries.fallback import WithFallback
    from cluster.retries.rabbitmq import RabbitStore

    return WithFallback(lambda: RabbitStore(rabbitmq, config.group, config.retries), local)


def findings(config: GroupConfig) -> list[Finding]:
    """Whether the broker can be reached. A group starts without it, too, so nothing of it is an error."""
    if config.rabbitmq is None:
        return []
    from cluster.retries.rabbitmq import RabbitStore

    try:
        RabbitStore(config.rabbitmq, config.group, config.retries).close()
    except Transient as away:
        remedy = (
            "start it, or correct rabbitmq.url; until then rows that are sent again wait in a local file, and"
            " move to it when it is there"
        )
        return [Finding("warning", "rabbitmq", away.message, remedy)]
    return []
