"""Settings that every test shares, and what every test leaves as it was."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest
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


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that runs in the test's process sets up the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
