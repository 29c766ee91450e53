"""The sections `retries` and `rabbitmq` of the configuration."""

from __future__ import annotations

from cluster.config_address import Scheme, read_server
from cluster.config_reader import Value
from cluster.retries.address import RabbitConfig
from replication.retries import DEFAULT_PLAN, RetryPlan

_SCHEME = Scheme("RabbitMQ", "amqp://", "amqps://", "amqp://user:password@host:5672/")


def read_retries(value: Value) -> RetryPlan:
    """When a row that a node refuses is sent again."""
    fields, default = value.record(("tries", "first_seconds", "max_seconds")), DEFAULT_PLAN
    tries = fields["tries"].integer(0, 1_000) if "tries" in fields else None
    first = fields["first_seconds"].number(0.1, 86_400) if "first_seconds" in fields else None
    longest = fields["max_seconds"].number(0.1, 86_400) if "max_seconds" in fields else None
    plan = RetryPlan(
        default.tries if tries is None else tries,
        first or default.first_seconds,
        longest or max(default.max_seconds, first or 0.0),
    )
    if plan.first_seconds > plan.max_seconds:
        value.complain(
            f"first_seconds ({plan.first_seconds:g}) is more than max_seconds ({plan.max_seconds:g})",
            "the first pause is the shortest",
        )
    return plan


def read_rabbitmq(value: Value) -> RabbitConfig:
    """Where the broker is."""
    url, paths = read_server(value, _SCHEME)
    return RabbitConfig(url, **paths)
