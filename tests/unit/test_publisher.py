"""The publisher over an audit log on disk, with a broker that does as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from actors.guard import Guard
from actors.publisher import BrokerAway, Publisher, Work
from replication.audit.published import read_published
from replication.audit.writer import AuditWriter
from replication.envelope import LOG, SEQUENCE, Message
from replication.errors import Terminal
from replication.schema import Column, TableSchema
from replication.types import CanonicalType, Kind
from tests.unit.audit_records import SMALL, changes, clock

TABLE = (Column("id", CanonicalType(Kind.INT64)), Column("note", CanonicalType(Kind.TEXT)))
TABLES = [TableSchema(name, TABLE, ("id",)) for name in ("orders", "items")]


class MemoryBroker:
    """A broker in this process; of what it is handed it takes what `takes` says."""

    def __init__(self, topics: dict[str, list[Message]], takes: Callable[[Message], bool]) -> None:
        self.topics, self.takes = topics, takes
        self.refused = False
        self.closed = False

    def prepare(self, topics: list[str]) -> None:
        for topic in topics:
            self.topics.setdefault(topic, [])

    def send(self, found: list[Message]) -> None:
        for message in found:
            self.refused = self.refused or not self.takes(message)
            if not self.refused:
                self.topics[message.topic].append(message)

    def wait(self, seconds: float) -> int:
        if self.refused:
            message = "it does not take that"
            raise BrokerAway(message)
        return 0

    def trouble(self) -> str:
        return ""

    def close(self) -> None:
        self.closed = True


class Desk:
    """An audit log, and whoever publishes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.audit = AuditWriter(path, "g", clock(), rolling=SMALL)
        self.topics: dict[str, list[Message]] = {}
        self.takes: Callable[[Message], bool] = lambda _: True
        self.brokers: list[MemoryBroker] = []

    def record(self, *orders: int, table: str = "orders") -> None:
        rows = changes(list(orders))
        keys = [(o + 2**63).to_bytes(8, "big") for o in orders]
        rows = rows.set_column(
            rows.schema.get_field_index("_key"), rows.schema.field("_key"), pa.array(keys, pa.binary())
        )
        self.audit.add_changes("pg", 0, table, rows)
        self.audit.flush()

    def publisher(self) -> Publisher:
        def connect() -> MemoryBroker:
            self.brokers.append(MemoryBroker(self.topics, lambda m: self.takes(m)))
            return self.brokers[-1]

        return Publisher(Work("g", self.path, TABLES, connect), Guard("kafka", "publisher", 0.01))

    def ids(self, table: str = "orders") -> list[int]:
        return [json.loads(m.key)["id"] for m in self.topics.get(f"g.{table}", [])]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.audit.close()


def test_it_publishes_what_is_there_and_what_comes_and_then_nothing_twice(desk: Desk) -> None:
    desk.record(1, 2)
    publisher = desk.publisher()
    assert publisher.step()
    assert not publisher.step()
    desk.record(3)
    desk.record(7, table="items")
    desk.record(8, table="unmapped")
    assert publisher.status().waiting == {"orders": 1, "items": 1}
    assert publisher.step()
    assert (desk.ids(), desk.ids("items")) == ([1, 2, 3], [7])
    assert set(desk.topics) == {"g.orders", "g.items"}
    status = publisher.status()
    assert (status.published, status.waiting, status.state) == (4, {"orders": 0, "items": 0}, "closed")
    measured = publisher.measured()
    assert measured.counters["kafka_records", "orders"] == 3
    assert measured.gauges["kafka_up",] == 1
    publisher.save()
    assert not desk.publisher().step()


def test_one_that_is_made_again_repeats_at_most_what_it_had_not_kept(desk: Desk) -> None:
    desk.record(1, 2)
    first = desk.publisher()
    first.step()
    first.save()
    desk.record(3, 4)
    first.step()  # confirmed, and killed before that is kept
    desk.record(5)
    while (second := desk.publisher()).step():
        second.save()
    assert desk.ids() == [1, 2, 3, 4, 3, 4, 5]
    sent = desk.topics["g.orders"]
    assert [int(m.headers[SEQUENCE]) // 2 for m in sent] == [0, 1, 2, 3, 2, 3, 4]
    assert len({m.headers[LOG] for m in sent}) == 1


def test_what_is_refused_is_sent_again_with_all_that_follows_and_nothing_overtakes_it(desk: Desk) -> None:
    desk.record(*range(1, 6))
    publisher = desk.publisher()
    desk.takes = lambda m: json.loads(m.key)["id"] != 3
    for _ in range(2):
        with pytest.raises(BrokerAway):
            publisher.step()
        publisher.let_go()
    assert desk.ids() == [1, 2, 1, 2]
    assert publisher.status().waiting["orders"] == 5
    assert publisher.status().behind_seconds > 0
    desk.takes = lambda _: True
    assert publisher.step()
    assert desk.ids() == [1, 2, 1, 2, 1, 2, 3, 4, 5]
    assert all(broker.closed for broker in desk.brokers[:-1])
    assert publisher.status().behind_seconds == 0


def test_its_thread_goes_on_after_trouble_and_publishes_what_is_left_at_the_end(desk: Desk) -> None:
    tried, done = threading.Event(), threading.Event()

    def refuses(_: Message) -> bool:
        tried.set()
        return False

    desk.takes = refuses
    desk.record(1)
    publisher = desk.publisher()
    publisher.start()
    assert tried.wait(60)
    desk.takes = lambda m: json.loads(m.key)["id"] != 2 or done.set() is None
    desk.record(2)
    assert done.wait(60)
    desk.record(3)
    publisher.close()
    assert [i for n, i in enumerate(desk.ids()) if i not in desk.ids()[:n]] == [1, 2, 3]
    assert read_published(desk.path).places == {"changes/orders": 3}
    assert publisher.status().since == ""


def test_a_damaged_file_stops_it_with_a_reason_and_not_the_group(desk: Desk) -> None:
    (desk.path / "kafka.json").write_text("?")
    desk.record(1)
    publisher = desk.publisher()
    with pytest.raises(Terminal, match="remove it"):
        publisher.step()
    assert publisher.status().waiting["orders"] == 1


def test_records_that_were_removed_before_are_counted(desk: Desk) -> None:
    for order in range(1, 61):
        desk.record(order)
    removed = desk.audit.prune(2**60)["changes/orders"]
    publisher = desk.publisher()
    while publisher.step():
        pass
    assert publisher.status().missed == removed > 0
    assert desk.ids() == list(range(removed + 1, 61))
