"""The fixtures of the HTTP interface's tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.pipeline import Pipeline
from api.backend import Backend
from cluster.audit_log import open_keys
from cluster.commands.common import engines_of
from cluster.config import load
from cluster.topology import create_missing_tables, open_catalogs, read_topology
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.engines.memory import drop_database, open_database
from tests.fixtures.api_bed import ORDERS, Bed, Keys, write_config
from tests.fixtures.parts import parts_of


@pytest.fixture
def more_api() -> str:
    """Further settings of the interface, for tests that need others."""
    return "rate: {subject: 1000000, address: 1000000}"  # tests ask until something has happened


@pytest.fixture
def more_audit() -> str:
    """Further settings of the audit log, with a comma in front."""
    return ""


@pytest.fixture
def beside() -> str:
    """Sections of the configuration beside `api`, for tests that need some."""
    return ""


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Backend]:
    """A group that does not run, and has no `api.auth`."""
    backend = Backend(load(write_config(tmp_path, auth=False)), dict)
    yield backend
    backend.close()


@pytest.fixture
def bed(
    tmp_path: Path, more_api: str, more_audit: str, beside: str, request: pytest.FixtureRequest
) -> Iterator[Bed]:
    keys = Keys(tmp_path)
    policy = getattr(request, "param", "last_write_wins")
    config = load(write_config(tmp_path, more_api, policy, audit=more_audit, beside=beside))
    names = {n.name: n.dsn.removeprefix("memory://") for n in config.nodes}
    databases = {n: open_database(name) for n, name in names.items()}
    databases["a"].create_table(ORDERS)
    with open_catalogs(config) as catalogs:
        topology = read_topology(config, catalogs)
        create_missing_tables(config, catalogs, topology)
    often = Rolling(head_seconds=0)  # a signed head with every flush
    opening = open_keys(config.audit_path, config.audit)
    writer = AuditWriter(
        config.audit_path, "shop", lambda: time.time_ns() // 1000, rolling=often, keys=opening
    )
    pipeline = Pipeline("shop", engines_of(config), topology.tables, writer)
    try:
        backend = Backend(config, lambda: parts_of(pipeline))
        yield Bed(config, pipeline, backend, keys, databases)
        backend.close()
        assert pipeline.error is None
    finally:
        pipeline.stop()
        for name in names.values():
            drop_database(name)
