"""Apache Kafka itself: whom it lets in, and that a kill of it loses nothing.

Where `SYNC_TEST_KAFKA_LIBS` names the folder with its jars; the tests of `test_kafka` run with it there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from actors.publisher import BrokerAway
from cluster.kafka.address import KafkaConfig
from cluster.kafka.client import Topics, findings
from cluster.servers.apache_kafka import ApacheKafka
from tests.fixtures.kafka import Cluster, apache_jars
from tests.fixtures.until import until
from tests.integration.test_kafka import Log, by_partition, log, sequences

__all__ = ["log"]
USER = ("sync", "k4fka-on-the-shore")


@pytest.fixture(scope="module")
def jars() -> Path:
    found = apache_jars()
    if found is None:
        pytest.skip("SYNC_TEST_KAFKA_LIBS names no folder with the jars of Apache Kafka")
    return found


@pytest.fixture(scope="module")
def guarded(
    jars: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApacheKafka]:
    """A node that speaks TLS and asks for a password."""
    with ApacheKafka(tmp_path_factory.mktemp("kafka"), jars, tls=certificates, user=USER) as server:
        yield server


@pytest.fixture
def admitted(guarded: ApacheKafka, certificates: Path) -> KafkaConfig:
    """How it is reached."""
    config = KafkaConfig((guarded.address,), tls=True, ca=certificates / "ca.pem", partitions=3)
    return replace(config, mechanism="SCRAM-SHA-512", username=USER[0], password=USER[1])


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_who_has_the_password_publishes(
    log: Log, guarded: ApacheKafka, admitted: KafkaConfig, mechanism: str
) -> None:
    config = replace(admitted, mechanism=mechanism)
    assert findings(config) == []
    log.record(100)
    publisher = log.publisher_to(config)
    while publisher.step():
        pass
    publisher.let_go()
    assert sorted(sequences(Cluster(guarded.inner).read(f"{log.group}.orders"))) == list(range(0, 200, 2))


def test_who_has_another_password_is_told_what_to_correct(log: Log, admitted: KafkaConfig) -> None:
    log.record(1)
    other = replace(admitted, password="guessed")
    for wrong in (other, replace(other, mechanism="PLAIN"), replace(admitted, username="nobody")):
        (warning,) = findings(wrong)
        assert "AUTHENTICATION" in warning.message
        assert warning.remedy.startswith("correct kafka.sasl, ")
        assert wrong.password not in warning.message
        publisher = log.publisher_to(wrong)
        with pytest.raises(BrokerAway, match=r"AUTHENTICATION.*\(correct kafka\.sasl, "):
            publisher.step()
        publisher.let_go()


def test_who_gives_no_password_is_told_that_one_may_be_asked_for(admitted: KafkaConfig) -> None:
    (warning,) = findings(replace(admitted, mechanism="", username="", password=""))
    assert "set kafka.tls and kafka.sasl" in warning.remedy


def test_who_may_not_write_to_a_topic_is_told_so_and_publishes_once_it_is_allowed(
    log: Log, guarded: ApacheKafka, admitted: KafkaConfig
) -> None:
    topic = f"{log.group}.orders"
    Topics(KafkaConfig((guarded.inner,), partitions=1)).create([topic])
    allow(guarded, topic, AclOperation.DESCRIBE)
    publisher = log.publisher_to(admitted)
    publisher.start()
    log.record(3)
    until(lambda: "TOPIC_AUTHORIZATION_FAILED" in publisher.status().error, publisher.status)
    assert "(allow the user to write to the topic)" in publisher.status().error
    allow(guarded, topic, AclOperation.WRITE)
    until(lambda: publisher.status().published == 3, publisher.status)
    publisher.close()
    assert sequences(Cluster(guarded.inner).read(topic)) == [0, 2, 4]


def allow(guarded: ApacheKafka, topic: str, what: AclOperation) -> None:
    """A rule for a topic; what no rule of it allows is forbidden from then on."""
    who, how = (f"User:{USER[0]}", "*"), AclPermissionType.ALLOW
    rule = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, *who, what, how)
    rules = AdminClient({"bootstrap.servers": guarded.inner})
    for made in rules.create_acls([rule]).values():
        made.result(60)


def test_a_message_that_is_larger_than_its_topic_allows_is_named_with_its_fix(
    log: Log, guarded: ApacheKafka, admitted: KafkaConfig
) -> None:
    topic = NewTopic(f"{log.group}.orders", 1, config={"max.message.bytes": "100"})
    topics = AdminClient({"bootstrap.servers": guarded.inner})
    for made in topics.create_topics([topic]).values():
        made.result(60)
    log.record(1)
    publisher = log.publisher_to(admitted)
    with pytest.raises(BrokerAway, match=r"raise kafka\.max_message_bytes, and max\.message\.bytes"):
        publisher.step()
    publisher.let_go()


def test_a_broker_that_is_killed_under_way_loses_nothing_and_changes_no_order(
    log: Log, jars: Path, tmp_path: Path
) -> None:
    with ApacheKafka(tmp_path / "kafka", jars) as server:
        publisher = log.publisher(server.address)
        publisher.start()
        for total in (11_000, 22_000):
            before = publisher.status().published
            log.record(10_000)
            until(lambda before=before: publisher.status().published > before, publisher.status)
            server.stop()  # `kill -9`, while more is on its way
            log.record(1_000)
            until(lambda: publisher.status().since != "", publisher.status)
            server.start()
            until(lambda total=total: publisher.status().published == total, publisher.status)
        publisher.close()
        found = Cluster(server.address).read(f"{log.group}.orders")
        assert sorted(sequences(found)) == list(range(0, 44_000, 2)), "nothing is missing, nothing came twice"
        assert all(part == sorted(part) for part in by_partition(found).values())
