"""How far Kafka is behind: in the status, in /health and in the metrics, over HTTP and on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.guard import Guard
from actors.publisher import BrokerAway, Publisher, Work
from api.metrics import FAMILIES
from cluster.commands.status import _print_kafka
from cluster.group_state import state_of
from replication.envelope import Message
from replication.errors import NodeUnavailable
from tests.fixtures.api_bed import ORDERS, Bed
from tests.fixtures.parts import LocalHandle
from tests.unit.test_publisher import MemoryBroker

AHEAD = 60.0
"""Seconds by which its clock is ahead, so that what it waits for is old."""


class Outlet:
    """A publisher of the bed's audit log, and whether its broker takes anything."""

    def __init__(self, bed: Bed) -> None:
        self.there = True
        topics: dict[str, list[Message]] = {}
        work = Work(
            "shop", bed.config.audit_path, [ORDERS], lambda: MemoryBroker(topics, lambda _: self.there)
        )
        self.publisher = Publisher(work, Guard("kafka", "publisher", 0.01), lambda: time.time() + AHEAD)
        parts = bed.backend.parts
        self.handle = LocalHandle(publishing=self.publisher.status, measured=self.publisher.measured)
        bed.backend.parts = lambda: {**parts(), "publisher": self.handle}

    def step(self) -> None:
        try:
            self.publisher.step()
        except BrokerAway as error:
            self.publisher._guard.failed(error)
            self.publisher.let_go()


@pytest.fixture
def outlet(bed: Bed) -> Iterator[Outlet]:
    made = Outlet(bed)
    yield made
    made.publisher.let_go()


def samples(bed: Bed) -> dict[str, tuple[float, frozenset[str]]]:
    text = bed.client("viewer").get("/metrics").text
    return {
        s.name: (s.value, frozenset(s.labels))
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name.startswith("kafka_")
    }


def test_an_outage_is_visible_everywhere_and_so_is_its_end(
    bed: Bed, outlet: Outlet, capsys: pytest.CaptureFixture[str]
) -> None:
    client = bed.client("viewer")
    bed.write("a", 1, "one")
    bed.wait_row("b", 1, "one")
    outlet.step()
    assert client.get("/sync/status").json()["kafka"]["waiting"] == {"orders": 0}
    labels = {f.name + "_total" * (f.kind == "counter"): frozenset(f.labels) for f in FAMILIES}
    found = samples(bed)
    assert {name: seen for name, (_, seen) in found.items()} == {
        name: seen for name, seen in labels.items() if name.startswith("kafka_")
    }
    assert (found["kafka_records_total"][0], found["kafka_up"][0]) == (1, 1)

    outlet.there = False
    bed.write("a", 2, "two")
    bed.wait_row("b", 2, "two")
    outlet.step()
    status = client.get("/sync/status").json()["kafka"]
    assert (status["state"], status["waiting"], status["published"]) == ("open", {"orders": 1}, 1)
    assert "kafka_away" in {t["what"] for t in client.get("/health").json()["troubles"]}
    found = samples(bed)
    assert (found["kafka_lag_records"][0], found["kafka_up"][0]) == (1, 0)
    assert found["kafka_lag_seconds"][0] >= AHEAD
    _print_kafka(outlet.publisher.status())
    out = capsys.readouterr().out
    assert "Kafka: 1 records published; waiting orders 1" in out
    assert "Kafka is away since" in out
    assert "it does not take that" in out

    outlet.there = True
    outlet.step()
    assert "kafka_away" not in {t["what"] for t in client.get("/health").json()["troubles"]}
    _print_kafka(outlet.publisher.status())
    assert capsys.readouterr().out == "\nKafka: 2 records published; none waits\n"


def test_a_publisher_that_is_being_made_again_keeps_nobody_from_an_answer(bed: Bed, outlet: Outlet) -> None:
    def lost() -> None:
        message = "an actor was lost"
        raise NodeUnavailable(message)

    outlet.handle.methods["publishing"] = lost
    state = state_of(bed.backend.parts())
    assert state is not None
    assert state.kafka is None
    assert bed.client("viewer").get("/sync/status").status_code == 200
