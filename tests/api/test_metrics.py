"""What is measured: every name that is documented has a value in a group at work, and it is the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.backfill import CopyStatus
from actors.measured import SECONDS, Histogram, Measured, Recent
from actors.shard_status import ShardStatus
from actors.tally import Tally
from api.metrics import FAMILIES, Exposition, _of_state, page
from cluster.group_state import GroupState
from tests.fixtures.api_bed import Bed
from tests.unit.test_resolver import Bed as ResolverBed

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(bed: Bed) -> Values:
    """All samples by name and labels."""
    text = bed.client("viewer").get("/metrics").text
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def named(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def value(found: Values, name: str, **labels: str) -> float:
    return found[named(name, **labels)]


def test_the_document_is_made_from_the_code() -> None:
    assert DOCUMENT.read_text() == page(), "run: make docs"


@pytest.mark.parametrize("bed", ["source_priority"], indirect=True)
def test_everything_that_is_documented_is_measured(bed: Bed) -> None:
    client = bed.client("operator")
    assert client.post("/sync/pause", json={"nodes": ["a", "b"]}).status_code == 200
    bed.write("a", 1, "of a")
    bed.write("b", 1, "of b")
    assert client.post("/sync/resume", json={"nodes": ["a", "b"]}).status_code == 200
    for key in range(2, 12):
        bed.write("a", key, f"n{key}")
    bed.wait_row("b", 11, "n11")
    bed.wait_row("a", 1, "of b")
    assert bed.client(None).get("/sync/status").status_code == 401
    expected = {
        named("sync_changes_total", node="a", table="orders", shard="0"): 11,
        named("sync_changes_total", node="b", table="orders", shard="0"): 1,
        named("sync_conflicts_total", table="orders", kind="insert_insert", shard="0"): 1,
        named("audit_records_total", kind="changes"): 12,
        named("queue_depth", node="a"): 0,
        named("queue_depth", node="b"): 0,
        named("sync_lag_ms", node="b"): 0,
        named("error_ratio", node="b"): 0,
        named("sync_node_up", node="a"): 1,
        named("sync_group_up"): 1,
        named("api_denials_total", reason="no token", replica="0"): 1,
        named("api_requests_total", method="POST", route="/sync/pause", status="200", replica="0"): 1,
    }
    bed.wait_for(lambda: expected.items() <= read(bed).items())
    found = read(bed)
    names = {name for name, _ in found}
    for family in FAMILIES:
        ending = {"counter": "_total", "gauge": "", "histogram": "_count"}[family.kind]
        if family.name.startswith(("sync_copy", "sync_copied", "sync_held", "api_redis", "kafka", "trace")):
            continue  # nothing was copied, refused, published or traced here, and there is no Redis
        if family.name.startswith("audit_archive"):
            continue  # nor an archive
        assert family.name + ending in names, family.name
        labels = {n for name, labels in found if name == family.name + ending for n, _ in labels}
        assert labels == set(family.labels), family.name
    assert value(found, "sync_apply_lag_seconds_count", source="a", node="b", shard="0") >= 10


def test_lag_and_depth_of_a_node_that_is_paused(bed: Bed) -> None:
    client = bed.client("operator")
    client.post("/sync/pause", json={"nodes": ["b"]})
    bed.write("a", 1, "one")
    bed.wait_for(lambda: value(read(bed), "queue_depth", node="b") == 1)
    before = value(read(bed), "sync_lag_ms", node="b")
    bed.wait_for(lambda: value(read(bed), "sync_lag_ms", node="b") > before)
    assert value(read(bed), "sync_node_paused", node="b") == 1
    client.post("/sync/resume", json={"nodes": ["b"]})
    bed.wait_for(lambda: value(read(bed), "sync_lag_ms", node="b") == 0)


def test_errors_are_a_share_of_the_tries(bed: Bed) -> None:
    bed.write("a", 1, "one")
    bed.wait_row("b", 1, "one")
    bed.databases["b"].stop()
    try:
        bed.write("a", 2, "two")
        bed.wait_for(lambda: 0 < value(read(bed), "error_ratio", node="b") <= 1)
        assert value(read(bed), "error_ratio", node="a") == 0
        bed.wait_for(lambda: value(read(bed), "sync_node_up", node="b") == 0)
    finally:
        bed.databases["b"].start()


def test_paths_that_nobody_has_make_no_labels(bed: Bed) -> None:
    client = bed.client("viewer")
    for number in range(3):
        client.get(f"/made/up/{number}")
    assert value(read(bed), "api_requests_total", method="GET", route="other", status="404", replica="0") == 3


def test_the_lag_is_that_of_the_newest_change_the_node_has_answered() -> None:
    now = [1_000_000]
    tally = Tally(0, ["a", "b"], lambda: now[0], lambda: 0.0)
    assert tally.lag_ms("b") == 0
    tally.look("b", 5)
    now[0] += 3_000_000
    assert tally.lag_ms("b") == 3_000
    tally.look("b", 2)
    assert tally.lag_ms("b") == 3_000, "still the same rows"
    tally.look("b", 0)
    now[0] += 9_000_000
    assert tally.lag_ms("b") == 0
    tally.look("b", 1)
    assert tally.lag_ms("b") == 0, "nothing was waiting before"


def test_what_was_lately_is_forgotten() -> None:
    recent = Recent(60.0)
    assert recent.rate(0.0) == 0
    recent.add(30, 100.0)
    assert recent.rate(110.0) == 3, "per second of the time that there was"
    recent.add(30, 150.5)
    assert (recent.total(159.0), recent.rate(160.0)) == (60, 1)
    assert recent.total(170.0) == 30
    assert recent.total(300.0) == 0


def test_several_shards_are_taken_together() -> None:
    def shard(depth: float, lag: float) -> Measured:
        gauges = {("queue_depth", "b"): depth, ("sync_lag_ms", "b"): lag}
        tries = {("_recent_tries", "b"): 10.0, ("_recent_failures", "b"): depth}
        return Measured(gauges=gauges | tries)

    text = Exposition.text_of([shard(1, 20), shard(2, 5)]).decode()
    assert 'queue_depth{node="b"} 3.0' in text
    assert 'sync_lag_ms{node="b"} 20.0' in text
    assert 'error_ratio{node="b"} 0.15' in text


def test_a_histogram_has_every_time_in_its_bucket() -> None:
    times = Histogram()
    for seconds in (0.0005, 0.001, 0.3, 100.0):
        times.add(seconds)
    text = Exposition.text_of([Measured(histograms={("audit_flush_seconds",): times})]).decode()
    for bound, count in (("0.001", 2), ("0.25", 2), ("0.5", 3), (str(SECONDS[-1]), 3), ("+Inf", 4)):
        assert f'audit_flush_seconds_bucket{{le="{bound}"}} {count}.0' in text
    assert "audit_flush_seconds_count 4.0" in text


def test_a_resolver_counts_what_it_takes() -> None:
    bed = ResolverBed()
    bed.write(2)
    bed.write(3)
    assert bed.resolver.measured().counters["sync_changes", "a", "t", "0"] == 2
    assert bed.resolver.measured().gauges["queue_depth", "b"] == 2


def test_a_copy_shows_how_it_is_held() -> None:
    copy = CopyStatus("orders", 900, 3_000, 250.0, False, 2, 500.0, "changes reach b after 6.0 s", 3)
    shard = ShardStatus(0, False, {}, 0, 0, 0)
    text = Exposition.text_of([_of_state(GroupState([shard], {"a": [copy]}, [], None))]).decode()
    for line in (
        'sync_copy_rows{node="a",table="orders"} 900.0',
        'sync_copy_held_rows{node="a",table="orders"} 500.0',
        'sync_copy_readers{node="a",table="orders"} 2.0',
        'sync_copy_slowed_total{node="a",table="orders"} 3.0',
    ):
        assert line in text.splitlines()
