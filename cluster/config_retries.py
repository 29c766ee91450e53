"""The sections `retries` and `rabbitmq` of the configuration."""

from __future__ import annotations

from urllib.parse import urlsplit

from cluster.config_reader import Value
from cluster.retries.address import RabbitConfig
from replication.retries import DEFAULT_PLAN, RetryPlan

_SCHEMES = ("amqp://", "amqps://")


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
    """Where the broker is; relative paths are relative to the configuration's folder."""
    fields = value.record(("url", "ca", "cert", "key"), ("url",))
    url = _read_url(fields["url"]) if "url" in fields else None
    paths = {}
    for name in ("ca", "cert", "key"):
        text = fields[name].text() if name in fields else None
        if text is None:
            continue
        paths[name] = value.report.folder / text
        if not paths[name].is_file():
            fields[name].complain(f"no file {text}", "name a PEM file")
        if url and not url.startswith("amqps://"):
            fields[name].complain("a certificate without TLS", "begin the url with amqps://")
    if ("key" in fields) != ("cert" in fields):
        given, lacking = ("key", "cert") if "key" in fields else ("cert", "key")
        value.complain(f"{given} without {lacking}", f"give {lacking}, too, or neither")
    return RabbitConfig(url or "", **paths)


def _read_url(value: Value) -> str | None:
    url = value.secret("an address")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not url.startswith(_SCHEMES):
        value.complain("not an address of RabbitMQ", "it begins with amqp:// or, for TLS, amqps://")
    elif not host:
        value.complain(
            "the address names no host, or no port that is one", "write amqp://user:password@host:5672/"
        )
    return url
