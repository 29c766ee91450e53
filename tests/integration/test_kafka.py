"""What the audit log holds reaches a real broker: in order, through outages and kills."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Message

from actors.guard import Guard
from actors.publisher import BrokerAway, Publisher, Work
from cluster.kafka.address import KafkaConfig
from cluster.kafka.client import KafkaBroker, findings
from replication.audit.writer import AuditWriter
from replication.change import Op
from tests.fixtures.kafka import Cluster, behind_proxy, behind_tls
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.until import until
from tests.unit.audit_records import changes, clock
from tests.unit.test_publisher import TABLES

KEYS = 7


class Log:
    """An audit log whose changes are of a few rows again and again."""

    def __init__(self, path: Path, group: str) -> None:
        self.path, self.group = path, group
        self.audit = AuditWriter(path, group, clock())
        self.order = 0

    def record(self, count: int, op: Op = Op.UPDATE) -> None:
        orders = range(self.order + 1, self.order + 1 + count)
        rows = changes(orders, op)
        keys = [(o % KEYS + 2**63).to_bytes(8, "big") for o in orders]
        column = rows.schema.get_field_index("_key")
        self.audit.add_changes(
            "pg", 0, "orders", rows.set_column(column, rows.schema.field(column), pa.array(keys, pa.binary()))
        )
        self.audit.flush()
        self.order += count

    def publisher(self, address: str) -> Publisher:
        return self.publisher_to(KafkaConfig((address,), partitions=3))

    def publisher_to(self, config: KafkaConfig) -> Publisher:
        work = Work(self.group, self.path, TABLES[:1], lambda: KafkaBroker(config))
        return Publisher(work, Guard("kafka", "publisher", 0.5), patience=0.5)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "audit", f"g{time.time_ns()}")
    yield made
    made.audit.close()


def sequences(found: Sequence[Message]) -> list[int]:
    return [int(dict(m.headers())["sync-worker.sequence"]) for m in found]


def by_partition(found: Sequence[Message]) -> dict[int, list[int]]:
    parts: dict[int, list[int]] = defaultdict(list)
    for message, sequence in zip(found, sequences(found), strict=True):
        parts[message.partition()].append(sequence)
    return parts


def test_every_change_arrives_once_and_those_of_a_key_in_order(log: Log, kafka: Cluster) -> None:
    log.record(3_000)
    log.record(1, Op.DELETE)
    publisher = log.publisher(kafka.address)
    while publisher.step():
        pass
    publisher.let_go()
    topic = f"{log.group}.orders"
    found = kafka.read(topic)
    assert sorted(sequences(found)) == [*range(0, 6_002, 2), 6_001]
    assert all(part == sorted(part) for part in by_partition(found).values())
    places = {m.key(): m.partition() for m in found}
    assert all(places[m.key()] == m.partition() for m in found), "a key has one partition"
    assert len(places) == KEYS
    assert kafka.topics()[topic] == 3
    gone = [m for m in found if m.key() == json.dumps({"id": 3_001 % KEYS}, separators=(",", ":")).encode()][
        -2:
    ]
    assert [None if m.value() is None else json.loads(m.value())["op"] for m in gone] == ["d", None]


def test_an_outage_is_seen_and_everything_follows_once_it_is_over(log: Log) -> None:
    with behind_proxy() as (cluster, proxy):
        publisher = log.publisher(cluster.address)
        publisher.start()
        log.record(50)
        until(lambda: publisher.status().published == 50)
        proxy.refuse()
        proxy.cut()
        for _ in range(20):
            log.record(100)
        until(lambda: publisher.status().since != "", publisher.status)
        during = publisher.status()
        assert (during.state, during.waiting, during.published) == ("open", {"orders": 2_000}, 50)
        assert during.error.startswith("kafka: ")
        proxy.accept()
        until(lambda: publisher.status().published == 2_050, publisher.status)
        assert publisher.status().since == ""
        publisher.close()
        found = cluster.read(f"{log.group}.orders")
        assert sorted(sequences(found)) == list(range(0, 4_100, 2)), "nothing is missing, nothing came twice"
        assert all(part == sorted(part) for part in by_partition(found).values())


def test_connections_that_are_cut_under_way_lose_nothing_and_change_no_order(log: Log) -> None:
    with behind_proxy() as (cluster, proxy):
        publisher = log.publisher(cluster.address)
        publisher.start()
        for total in (1_000, 2_000, 3_000):
            log.record(1_000)
            proxy.cut()
            until(lambda total=total: publisher.status().published == total, publisher.status)
        publisher.close()
        found = cluster.read(f"{log.group}.orders")
        assert sorted(sequences(found)) == list(range(0, 6_000, 2))
        assert all(part == sorted(part) for part in by_partition(found).values())


def publish_until_killed(path: str, group: str, address: str) -> None:
    """A publisher in a process of its own; each line is how much it has published."""
    config = KafkaConfig((address,), partitions=3)
    work = Work(group, Path(path), TABLES[:1], lambda: KafkaBroker(config))
    publisher, told = Publisher(work, Guard("kafka", "publisher", 0.5)), 0
    while True:
        publisher.step()
        if (done := publisher.status().published) != told:
            told = done
            print(done, flush=True)


def test_a_publisher_that_is_killed_repeats_some_and_loses_nothing(log: Log, kafka: Cluster) -> None:
    line = [sys.executable, "-m", "tests.integration.test_kafka", str(log.path), log.group, kafka.address]
    for _ in range(2):
        log.record(8_000)
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()  # some of them are there, and more are on their way
            process.kill()
    publisher = log.publisher(kafka.address)
    while publisher.step():
        pass
    publisher.let_go()
    found = kafka.read(f"{log.group}.orders")
    assert set(sequences(found)) == set(range(0, 32_000, 2)), "nothing is missing"
    for part in by_partition(found).values():
        latest, kept = -1, []
        for sequence in part:  # what a consumer does that wants each once
            if sequence > latest:
                latest = sequence
                kept.append(sequence)
        assert set(kept) == set(part), "no repeat hides what was not there before"


def test_a_broker_that_is_not_there_is_named_by_check_and_by_the_publisher(log: Log, kafka: Cluster) -> None:
    with FaultProxy("127.0.0.1", 1) as nowhere:
        nowhere.refuse()
        address = f"127.0.0.1:{nowhere.port}"
        warnings = findings(KafkaConfig((address,)))
        assert [(f.level, f.subject) for f in warnings] == [("warning", "kafka")]
        assert "refused" in warnings[0].message
        log.record(1)
        with pytest.raises(BrokerAway, match="refused"):
            log.publisher(address).step()
    assert findings(KafkaConfig((kafka.address,))) == []
    assert findings(None) == []


def test_a_message_that_is_too_large_is_named_with_its_fix(log: Log, kafka: Cluster) -> None:
    config = KafkaConfig((kafka.address,), max_message_bytes=1_000)
    rows = changes([1])
    for name, value in (("note", "x" * 2_000), ("_key", (1 + 2**63).to_bytes(8, "big"))):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array([value]))
    log.audit.add_changes("pg", 0, "orders", rows)
    log.audit.flush()
    work = Work(log.group, log.path, TABLES[:1], lambda: KafkaBroker(config))
    publisher = Publisher(work, Guard("kafka", "publisher", 0.5))
    with pytest.raises(BrokerAway, match=r"raise kafka\.max_message_bytes"):
        publisher.step()
    publisher.let_go()


def test_over_tls_the_broker_is_verified(log: Log, certificates: Path) -> None:
    log.record(3)
    with behind_tls(certificates / "server.pem", certificates / "server.key") as cluster:
        strangers = KafkaConfig((cluster.address,), tls=True)  # signed by nobody whom the system knows
        other_name = KafkaConfig((cluster.address.replace("127.0.0.1", "localhost"),), tls=True)
        other_name = replace(other_name, ca=certificates / "ca.pem")
        for config in (strangers, other_name):
            (warning,) = findings(config)
            assert "certificate verify failed" in warning.message
        known = KafkaConfig((cluster.address,), tls=True, ca=certificates / "ca.pem")
        assert findings(known) == []
        work = Work(log.group, log.path, TABLES[:1], lambda: KafkaBroker(known))
        publisher = Publisher(work, Guard("kafka", "publisher", 0.5))
        assert publisher.step()
        publisher.let_go()
        assert publisher.status().published == 3


if __name__ == "__main__":
    publish_until_killed(*sys.argv[1:])
