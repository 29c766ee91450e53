"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.fixtures.certificates",
    "tests.fixtures.gate",
    "tests.fixtures.shop",
    "tests.fixtures.mongodb",
    "tests.fixtures.postgres",
    "tests.fixtures.mysql",
    "tests.fixtures.rabbitmq",
    "tests.fixtures.redis",
    "tests.fixtures.kafka",
    "tests.fixtures.two_nodes",
    "tests.fixtures.sql_engines",
]

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
