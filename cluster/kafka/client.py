"""Kafka by librdkafka: an idempotent producer whose messages never give up and never overtake each other.

A message is tried until the broker has it, however long that takes: librdkafka connects again by itself, and
the broker drops what it has already. One that the broker refuses for good ends the producer before anything
that follows it can arrive (`enable.gapless.guarantee`), so whoever sends again from there sends in order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from actors.publisher import BrokerAway
from cluster.kafka.address import KafkaConfig
from replication.engine import Finding
from replication.envelope import Message

quiet = logging.getLogger("sync_worker.librdkafka")
quiet.setLevel(logging.CRITICAL + 1)  # what fails is said once, by us
ANSWER_SECONDS, TRY_SECONDS = 10.0, 2.0
LINGER_MS = 5
FIXES = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise kafka.max_message_bytes, and max.message.bytes of the topic",
    KafkaError._AUTHENTICATION: "correct kafka.sasl, or what the brokers know of the user",
    KafkaError._ALL_BROKERS_DOWN: "if they run, set kafka.tls and kafka.sasl as they ask for it",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow the user to write to the topic",
}
BY_DEFAULT = -1
"""As many partitions or copies as the cluster has as its default."""


def settings(config: KafkaConfig) -> dict[str, Any]:
    """What librdkafka connects with."""
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "sync-worker",
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 5_000,
        "security.protocol": ("SASL_" if config.mechanism else "") + ("SSL" if config.tls else "PLAINTEXT"),
    }
    if config.tls:
        found |= {
            "enable.ssl.certificate.verification": True,
            "ssl.endpoint.identification.algorithm": "https",
        }
        paths = {
            "ssl.ca.location": config.ca,
            "ssl.certificate.location": config.cert,
            "ssl.key.location": config.key,
        }
        found |= {name: str(path) for name, path in paths.items() if path}
    if config.mechanism:
        found |= {"sasl.mechanism": config.mechanism, "sasl.username": config.username}
        found |= {"sasl.password": config.password}
    return found


@contextmanager
def reached() -> Iterator[None]:
    """What goes wrong on the way to the broker, as an error of ours."""
    try:
        yield
    except KafkaException as error:
        raise away(error.args[0]) from error


def away(error: KafkaError) -> BrokerAway:
    """What librdkafka says, as an error of ours."""
    return BrokerAway(f"kafka: {said(error)}", hint=FIXES.get(error.code(), ""))


def said(error: KafkaError) -> str:
    """Its name and what librdkafka says of it."""
    return f"{error.name().strip('_')}: {error.str()}"


class KafkaBroker:
    """See `actors.publisher.Broker`.

    Args:
        config: where the brokers are.

    Raises:
        BrokerAway: a file of certificates cannot be read.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._missing = 0
        self._refused: KafkaError | None = None
        self._trouble = ""
        with reached():
            self._producer = Producer(
                {
                    **settings(config),
                    "enable.idempotence": True,
                    "enable.gapless.guarantee": True,
                    "message.timeout.ms": 0,
                    "linger.ms": LINGER_MS,
                    "partitioner": "murmur2_random",
                    "compression.type": config.compression,
                    "message.max.bytes": config.max_message_bytes,
                    "error_cb": self._failed,
                },
                logger=quiet,
            )

    def prepare(self, topics: Sequence[str]) -> None:
        """See `Broker`."""
        admin = Topics(self._config)
        admin.create(admin.missing(topics))

    def send(self, found: Sequence[Message]) -> None:
        """See `Broker`."""
        try:
            for message in found:
                self._produce(message)
        except KafkaException as error:
            raise self._reason(error.args[0]) from error

    def wait(self, seconds: float) -> int:
        """See `Broker`."""
        deadline = time.monotonic() + seconds
        try:
            self._producer.poll(0)
            while self._missing and not self._refused and (left := deadline - time.monotonic()) > 0:
                self._producer.poll(left)
        except KafkaException as error:
            raise self._reason(error.args[0]) from error
        if self._refused is not None:
            raise self._reason(self._refused)
        return self._missing

    def trouble(self) -> str:
        """See `Broker`."""
        return self._trouble

    def close(self) -> None:
        """See `Broker`."""
        self._producer.purge()
        self._producer.poll(0)

    def _produce(self, message: Message) -> None:
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    on_delivery=self._delivered,
                    headers=message.headers,
                )
            except BufferError:  # its queue is full
                self._producer.poll(0.1)
            else:
                self._missing += 1
                return

    def _reason(self, error: KafkaError) -> BrokerAway:
        """Why it took no more. Where that ended the producer, the report of the message tells."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            with suppress(KafkaException):
                self._producer.flush(TRY_SECONDS)
        return away(self._refused or error)

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        self._missing -= 1
        if error is None:
            self._trouble = ""
        elif self._refused is None or self._refused.fatal():
            self._refused = error

    def _failed(self, error: KafkaError) -> None:
        if error.fatal() and self._refused is None:
            self._refused = error
        if not self._trouble or error.code() != KafkaError._ALL_BROKERS_DOWN:  # which tells no reason
            self._trouble = said(error)


class Topics:
    """The topics of a cluster.

    Args:
        config: where the brokers are.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._trouble: KafkaError | None = None
        with reached():
            options: dict[str, Any] = {**settings(config), "error_cb": self._failed}
            self._admin = AdminClient(options, logger=quiet)

    def missing(self, topics: Sequence[str]) -> list[str]:
        """Those of some topics that are not there.

        Raises:
            BrokerAway: no broker answers.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                there = self._admin.list_topics(timeout=TRY_SECONDS).topics
            except KafkaException as error:
                self._admin.poll(0)
                if self._trouble is not None or time.monotonic() > deadline:
                    raise away(self._trouble or error.args[0]) from error
            else:
                return [topic for topic in topics if topic not in there]

    def create(self, topics: Sequence[str]) -> None:
        """Create topics.

        Raises:
            BrokerAway: one cannot be made.
        """
        partitions = self._config.partitions or BY_DEFAULT
        made = [NewTopic(t, num_partitions=partitions, replication_factor=BY_DEFAULT) for t in topics]
        for topic, done in (self._admin.create_topics(made) if made else {}).items():
            try:
                done.result(ANSWER_SECONDS)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                failed, hint = away(error.args[0]), "create it, or allow the user to"
                message = f"{failed.message} (topic {topic})"
                raise BrokerAway(message, hint=hint) from error

    def _failed(self, error: KafkaError) -> None:
        if self._trouble is None or error.code() != KafkaError._ALL_BROKERS_DOWN:  # which tells no reason
            self._trouble = error


def findings(config: KafkaConfig | None) -> list[Finding]:
    """Whether the brokers can be reached. A group starts without them, so nothing of it is an error."""
    if config is None:
        return []
    try:
        Topics(config).missing([])
    except BrokerAway as failed:
        fix = failed.hint or "start it, or correct kafka.brokers, kafka.tls and kafka.sasl"
        remedy = f"{fix}; until then changes wait in the audit log, and are published when it is there"
        return [Finding("warning", "kafka", failed.message, remedy)]
    return []
