"""Settings that every test shares."""

from __future__ import annotations

import os
import sys

from hypothesis import HealthCheck, settings

# The suite starts hundreds of processes; without what Python has compiled, each of them compiles anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest_plugins = [
    "tests.fixtures.certificates",
    "tests.fixtures.gate",
    "tests.fixtures.order",
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
