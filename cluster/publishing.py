"""The publisher as a part of a group, in a process of its own; see `cluster.processes`."""

from __future__ import annotations

import os
from functools import partial

from actors.guard import Guard
from actors.measured import Measured
from actors.publisher import Broker, Publisher, PublisherStatus, Work
from cluster.audit_log import open_keys
from cluster.locks import PUBLISHER_LOCK_FILE, alone
from cluster.plan import GroupPlan

LOCK_SECONDS = 10.0
"""So long a predecessor that is ending is waited for."""


class PublisherProcess:
    """Publishes what the audit log holds. No error ends it, nor the group: it tries again."""

    def __init__(self, plan: GroupPlan) -> None:
        plan.log()
        self._publisher = Publisher(work_of(plan), Guard("kafka", "publisher", plan.limits.retry_max))
        self._publisher.start()

    def health(self) -> int:
        """The process id."""
        return os.getpid()

    def publishing(self) -> PublisherStatus:
        """See `Publisher.status`."""
        return self._publisher.status()

    def measured(self) -> Measured:
        """See `Publisher.measured`."""
        return self._publisher.measured()

    def close(self) -> None:
        """See `Publisher.close`."""
        self._publisher.close()


def work_of(plan: GroupPlan) -> Work:
    """What is published of a group, and where."""
    kafka = plan.kafka
    assert kafka is not None

    def connect() -> Broker:
        from cluster.kafka.client import KafkaBroker

        return KafkaBroker(kafka)

    return Work(
        plan.group,
        plan.audit_path,
        [table.schema for table in plan.tables],
        connect,
        partial(open_keys, plan.audit_path, plan.audit),
        partial(alone, plan.audit_path, PUBLISHER_LOCK_FILE, LOCK_SECONDS),
        kafka.yield_seconds,
    )
