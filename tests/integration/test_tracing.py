"""Traces from a log to every other node, through a whole pipeline, to a collector (OTLP over HTTP)."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.pipeline import Limits, Pipeline
from actors.tracing import TracingConfig, open_tracing
from cluster.servers.process import free_port
from cluster.tracing import findings
from replication.audit.reader import read
from replication.audit.writer import AuditWriter
from replication.engines import load_engine
from replication.engines.memory import MemoryDatabase, drop_database, open_database
from replication.schema import NodeConfig, Table, TableMapping
from tests.fixtures.api_bed import ORDERS
from tests.fixtures.collector import Collector, Taken, collector
from tests.fixtures.until import until

NODES = ("a", "b", "c")


@dataclass
class Traced:
    """Three nodes, and what is measured of their traces."""

    databases: dict[str, MemoryDatabase]
    pipeline: Pipeline
    folder: Path

    def write(self, node: str, *keys: int) -> None:
        """One transaction of an application."""
        with self.databases[node].transaction() as transaction:
            for key in keys:
                transaction.insert("orders", {"id": key, "name": f"n{key}"})

    def wait_rows(self, count: int) -> None:
        """Wait until every node has so many rows."""
        until(lambda: all(len(d.rows("orders")) == count for d in self.databases.values()))
        assert self.pipeline.error is None


@contextmanager
def traced(folder: Path, config: TracingConfig | None, shards: int = 1) -> Iterator[Traced]:
    """A pipeline at work; stopped at the end."""
    names = {n: f"{n}{uuid.uuid4().hex[:8]}" for n in NODES}
    databases = {n: open_database(name) for n, name in names.items()}
    for database in databases.values():
        database.create_table(ORDERS)
    nodes = [NodeConfig(n, "memory", f"memory://{name}", p) for p, (n, name) in enumerate(names.items())]
    engines = {n.name: load_engine(n, "shop") for n in nodes}
    table = Table(TableMapping("orders", ("id",), dict.fromkeys(NODES, "orders")), ORDERS)
    writer = AuditWriter(folder / "audit", "shop", lambda: time.time_ns() // 1000, shards=shards, traced=True)
    tracing = open_tracing(config, "shop", "all of it")
    pipeline = Pipeline("shop", engines, [table], writer, shards, Limits(heartbeat=0.2), tracing=tracing)
    try:
        yield Traced(databases, pipeline, folder / "audit")
    finally:
        pipeline.stop()
        for name in names.values():
            drop_database(name)


def lost(pipeline: Pipeline) -> float:
    """How many spans the collector did not take."""
    assert pipeline._tracing is not None
    return pipeline._tracing.measured().counters["trace_spans", "lost", "all of it"]


def test_a_change_is_followed_from_its_log_to_every_other_node(tmp_path: Path) -> None:
    with collector() as collected:
        config = TracingConfig(collected.endpoint, 1.0, {"authorization": "Bearer of-mine"})
        with traced(tmp_path, config) as group:
            began = time.time_ns()
            group.write("a", 1, 2, 3)
            group.wait_rows(3)
            until(lambda: len(collected.spans("apply")) == 2)
            until(lambda: collected.spans("resolve a") and collected.spans("capture a"))
        assert collected.headers["authorization"] == "Bearer of-mine"
    capture, resolve = one(collected, "capture a"), one(collected, "resolve a")
    to_b, to_c = one(collected, "apply b"), one(collected, "apply c")
    assert len(collected.spans()) == 4, "an echo is no change"
    assert {s.trace for s in collected.spans()} == {capture.trace}
    assert (capture.parent, resolve.parent) == ("", capture.ident)
    assert (to_b.parent, to_c.parent) == (resolve.ident, resolve.ident)
    for span in collected.spans():
        assert span.start <= span.end < time.time_ns()
        assert (span.about["sync.rows"], span.about["sync.tables"]) == (3, ["orders"])
        assert (span.resource["service.name"], span.resource["service.namespace"]) == ("sync-worker", "shop")
        assert not span.failed
    assert began < capture.end <= resolve.start <= min(to_b.start, to_c.start)
    assert {s.name: s.about["sync.node"] for s in (capture, resolve, to_b, to_c)} == {
        "capture a": "a", "resolve a": "a", "apply b": "b", "apply c": "c",
    }  # fmt: skip
    assert to_b.about["db.system.name"] == "memory"
    assert to_b.about["sync.outcome"] == "committed"
    assert capture.about["sync.behind_ms"] >= 0
    leads_to_the_audit_log(group.folder, capture, to_b)


def leads_to_the_audit_log(folder: Path, capture: Taken, applied: Taken) -> None:
    """What a span says names the records of the same changes."""
    last = list(read(folder, "changes/orders"))[-1].to_pylist()[-1]
    assert last["_trace"].startswith(f"00-{capture.trace}-{capture.ident}-")
    assert capture.about["sync.position"] == f"{last['_hi']}:{last['_lo']}"
    decisions = [row for batch in read(folder, "decisions") for row in batch.to_pylist()]
    place = [applied.about[f"sync.{name}"] for name in ("node", "shard", "epoch", "seq")]
    found = [d for d in decisions if [d["_node"], d["_shard"], d["_epoch"], d["_seq"]] == place]
    assert len(found) == 3


def one(collected: Collector, name: str) -> Taken:
    found = collected.spans(name)
    assert len(found) == 1, [s.name for s in collected.spans()]
    return found[0]


def test_a_batch_that_takes_several_traces_is_linked_to_all_of_them(tmp_path: Path) -> None:
    with collector() as collected:
        with traced(tmp_path, TracingConfig(collected.endpoint, 1.0)) as group:
            group.pipeline.pause("b")
            for key in range(1, 4):
                group.write("a", key)
                until(lambda key=key: len(collected.spans("resolve a")) == key)
            group.pipeline.pause()
            group.wait_rows(3)
            until(lambda: collected.spans("apply b"))
        applied = one(collected, "apply b")
        fed = [span.ident for span in collected.spans("resolve a")]
        assert [applied.parent, *applied.linked] == fed
        assert applied.about["sync.rows"] == 3


def test_every_shard_goes_on_with_the_trace_of_what_it_owns(tmp_path: Path) -> None:
    with collector() as collected:
        with traced(tmp_path, TracingConfig(collected.endpoint, 1.0), shards=2) as group:
            group.write("a", *range(1, 41))
            group.wait_rows(40)
            until(lambda: sum(s.about["sync.rows"] for s in collected.spans("apply")) == 80)
        capture = one(collected, "capture a")
        resolved = {s.about["sync.shard"]: s for s in collected.spans("resolve a")}
        assert sorted(resolved) == [0, 1]
        assert {s.parent for s in resolved.values()} == {capture.ident}
        assert sum(s.about["sync.rows"] for s in resolved.values()) == 40
        for span in collected.spans("apply"):
            assert span.parent == resolved[span.about["sync.shard"]].ident


def test_check_says_why_a_collector_takes_no_spans() -> None:
    assert findings(None) == []
    with collector() as collected:
        config = TracingConfig(collected.endpoint + "/", headers={"authorization": "Bearer of-mine"})
        assert findings(config) == []
        assert collected.headers["authorization"] == "Bearer of-mine"
        for status, remedy in ((401, "tracing.headers"), (503, "start it")):
            collected.status = status
            (found,) = findings(config)
            assert (found.level, str(status) in found.message) == ("warning", True)
            assert remedy in found.remedy
        (found,) = findings(TracingConfig(collected.endpoint + "/other"))
        assert "before /v1/traces" in found.remedy
    (found,) = findings(config)
    assert "refused" in found.message
    assert "of-mine" not in str(found)


def test_only_the_wanted_share_is_traced(tmp_path: Path) -> None:
    with collector() as collected:
        with traced(tmp_path, TracingConfig(collected.endpoint, 0.0)) as group:
            group.write("a", 1)
            group.wait_rows(1)
            assert group.pipeline._tracing is not None
            made = group.pipeline._tracing.measured().counters["trace_spans", "made", "all of it"]
        assert (made, collected.spans()) == (0, [])


def test_a_collector_that_is_away_stops_nothing_and_is_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    caplog.set_level(logging.INFO, "actors.exporting")

    def said() -> list[str]:
        return [record.message for record in caplog.records if record.name == "actors.exporting"]

    with traced(tmp_path, TracingConfig(f"http://127.0.0.1:{port}", 1.0)) as group:
        group.write("a", 1)
        group.wait_rows(1)
        until(lambda: lost(group.pipeline) >= 4)
        assert said() == ["traces_not_sent"]
        with collector(port) as collected:
            group.write("b", 2)
            group.wait_rows(2)
            until(lambda: len(collected.spans("apply")) == 2)
            until(lambda: said() == ["traces_not_sent", "traces_sent_again"])
        group.write("c", 3)
        group.wait_rows(3)


def test_without_it_nothing_of_opentelemetry_is_loaded() -> None:
    loads = (
        "import sys, actors.pipeline, cluster.config, cluster.processes\n"
        "from actors.tracing import open_tracing\n"
        "assert open_tracing(None, 'g', 'p') is None\n"
        "found = [m for m in sys.modules if m.startswith('opentelemetry')]\n"
        "sys.exit(str(found) if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
