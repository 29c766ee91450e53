"""The retry store in RabbitMQ: a queue for each delay, one for what is due, one for dead letters.

    GROUP.retry.30000 ─┐ after 30 s
    GROUP.retry.60000 ─┼────────────▶ GROUP.due ─▶ we try ─▶ a longer delay, or GROUP.dead
    …                 ─┘ the broker dead-letters what has expired

Queues and messages are durable, and what is published counts once the broker has confirmed it. A message that
was delivered is acknowledged when what follows from it is durable; until then the broker keeps it for a
successor. A message expires only at the head of its queue, so it comes at most one delay of its queue late.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import pika
from pika.exceptions import AMQPError

from cluster.retries.address import RabbitConfig
from replication.errors import Transient
from replication.retries import DeadLetter, Deferred, RetryPlan, StoreHealth

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what fails is said once, by us
AT_ONCE = 1_000
"""So many messages are taken at a time."""
TIMEOUT_SECONDS = 10.0
HEARTBEAT_SECONDS = 60
PREFIX = "sync-worker"


class BrokerAway(Transient):
    """RabbitMQ cannot be reached, or does not let us in."""


def parameters(config: RabbitConfig) -> Any:
    """What pika connects with; over TLS the broker's certificate and its name are verified.

    Raises:
        BrokerAway: a certificate cannot be read.
    """
    found = pika.URLParameters(config.url)
    found.socket_timeout = found.stack_timeout = found.blocked_connection_timeout = TIMEOUT_SECONDS
    found.heartbeat = HEARTBEAT_SECONDS
    found.client_properties = {"connection_name": PREFIX}
    if config.url.startswith("amqps://"):
        try:
            context = ssl.create_default_context(cafile=config.ca)
            if config.cert:
                context.load_cert_chain(config.cert, config.key)
        except OSError as error:
            message = f"rabbitmq: a certificate cannot be read: {error}"
            raise BrokerAway(message) from error
        found.ssl_options = pika.SSLOptions(context, found.host)
    return found


@contextmanager
def reached() -> Iterator[None]:
    """What goes wrong on the way to the broker, as an error of ours."""
    try:
        yield
    except (AMQPError, OSError, EOFError) as error:
        message = f"rabbitmq: {_reason(error)}"
        raise BrokerAway(message) from error


def _reason(error: BaseException) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"{kind}: {text}" if text else kind


class RabbitStore:
    """See `RetryStore`. Connected while it exists; used by one thread.

    Args:
        config: where the broker is.
        group: the group's name; its queues bear it.
        plan: there is a queue for each of its pauses.

    Raises:
        BrokerAway: it cannot be reached.
    """

    def __init__(self, config: RabbitConfig, group: str, plan: RetryPlan) -> None:
        self._name = f"{PREFIX}.{group}"
        self._delays = [int(1000 * pause) for pause in plan.pauses()]
        self._tags: dict[tuple[str, int], list[int]] = {}
        with reached():
            self._connection = pika.BlockingConnection(parameters(config))
            self._channel: Any = self._connection.channel()
            self._channel.confirm_delivery()
            for queue in (self._due, self._dead):
                self._channel.queue_declare(queue, durable=True)
            for delay in self._delays:
                self._channel.queue_declare(self._wait(delay), durable=True, arguments=self._waits(delay))

    @property
    def _due(self) -> str:
        return f"{self._name}.due"

    @property
    def _dead(self) -> str:
        return f"{self._name}.dead"

    def _wait(self, delay: int) -> str:
        return f"{self._name}.retry.{delay}"

    def _waits(self, delay: int) -> dict[str, object]:
        return {
            "x-message-ttl": delay,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._due,
        }

    def recall(self, now: float) -> list[Deferred]:
        """See `RetryQueue`. Queues that cannot be looked into are emptied into new messages."""
        found: list[Deferred] = []
        with reached():
            self._requeue()
            for queue in (*map(self._wait, self._delays), self._due):
                for _ in range(self._count(queue)):
                    method, _, body = self._channel.basic_get(queue)
                    if method is None:
                        break
                    entry = _entry(body)
                    self._put(entry, now)
                    self._channel.basic_ack(method.delivery_tag)
                    found.append(entry)
        return found

    def defer(self, entries: Sequence[Deferred], now: float) -> None:
        """See `RetryQueue`."""
        with reached():
            for entry in entries:
                self._put(entry, now)

    def due(self, now: float) -> list[Deferred]:
        """See `RetryQueue`."""
        entries: list[Deferred] = []
        with reached():
            self._connection.process_data_events(0)  # heartbeats
            while len(entries) < AT_ONCE:
                method, _, body = self._channel.basic_get(self._due)
                if method is None:
                    break
                entry = _entry(body)
                self._tags.setdefault((entry.ident, entry.tries), []).append(method.delivery_tag)
                entries.append(entry)
        return entries

    def confirm(self, entries: Sequence[Deferred]) -> None:
        """See `RetryQueue`."""
        with reached():
            for entry in entries:
                for tag in self._tags.pop((entry.ident, entry.tries), ()):
                    self._channel.basic_ack(tag)
            self._connection.process_data_events(0)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters`."""
        with reached():
            for letter in letters:
                self._publish(self._dead, asdict(letter))

    def buried(self) -> list[DeadLetter]:
        """See `DeadLetters`."""
        return list(self._look_through(()).values())

    def take(self, idents: Collection[str]) -> None:
        """See `DeadLetters`."""
        if idents:
            self._look_through(idents)

    def health(self) -> StoreHealth:
        """See `RetryStore`."""
        return StoreHealth("rabbitmq", 1)

    def close(self) -> None:
        """See `RetryStore`."""
        with suppress(AMQPError, OSError):
            self._connection.close()

    def _look_through(self, unwanted: Collection[str]) -> dict[str, DeadLetter]:
        """Look at every dead letter, remove those that are unwanted, put the rest back as it was."""
        found: dict[str, DeadLetter] = {}
        with reached():
            look: Any = self._connection.channel()
            while (got := look.basic_get(self._dead))[0] is not None:
                letter = DeadLetter(**json.loads(got[2]))
                if letter.ident in unwanted:
                    look.basic_ack(got[0].delivery_tag)
                    continue
                before = found.get(letter.ident)
                if before is None or before.since <= letter.since:
                    found[letter.ident] = letter
            look.close()
        return found

    def _requeue(self) -> None:
        """Give back what was delivered and not confirmed."""
        if self._tags:
            for tags in self._tags.values():
                for tag in tags:
                    self._channel.basic_nack(tag, requeue=True)
            self._tags.clear()

    def _count(self, queue: str) -> int:
        count: int = self._channel.queue_declare(queue, passive=True).method.message_count
        return count

    def _put(self, entry: Deferred, now: float) -> None:
        left = int(1000 * (entry.due - now))
        if left <= 0:
            self._publish(self._due, asdict(entry))
            return
        delay = next((d for d in self._delays if d >= left), self._delays[-1])
        self._publish(self._wait(delay), asdict(entry), expiration=str(min(left, delay)))

    def _publish(self, queue: str, body: dict[str, object], expiration: str | None = None) -> None:
        """Returns once the broker has it on disk."""
        properties = pika.BasicProperties(
            delivery_mode=2, content_type="application/json", expiration=expiration
        )
        self._channel.basic_publish("", queue, json.dumps(body).encode(), properties, mandatory=True)


def _entry(body: bytes) -> Deferred:
    return Deferred(**json.loads(body))
