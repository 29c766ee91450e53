"""Who runs the group: at most one `up` at a time, and another one that stands by takes over.

Every node keeps a lease. Whoever would run the group needs all of them; whoever runs it goes on for as long
as it has one, so that a node that restarts or is away ends nothing. The markers' epochs would keep two at
once from doing harm, but each would replace the other for ever.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

from cluster.waiting import Waiting
from replication.engine import Engine, Lease
from replication.errors import SyncError, Terminal, Transient

log = logging.getLogger(__name__)
RENEW_SECONDS = 1.5
TRY_SECONDS = 0.5


@contextmanager
def at_rest(group: str, engines: Mapping[str, Engine], hint: str) -> Iterator[None]:
    """Hold the right to run the group while it must not run.

    Raises:
        Terminal: somebody runs it; `hint` says what to do.
    """
    with closing(GroupLease(group, engines)) as lease:
        if other := lease.taken():
            message = f"{other} runs the group, or has run it until a few seconds ago"
            raise Terminal(message, hint=hint)
        yield


def holder_name() -> str:
    """What others are told of this process."""
    return f"{socket.gethostname()[:32]}:{os.getpid()}"


class GroupLease:
    """The leases of all nodes.

    Args:
        group: the group's name.
        engines: node name to engine.
    """

    def __init__(self, group: str, engines: Mapping[str, Engine]) -> None:
        self._group = group
        self._leases = {n: engines[n].lease(holder_name()) for n in sorted(engines)}
        self._others: dict[str, str | None] = {}
        """By node who holds its lease: None is this process."""
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def acquire(self, waiting: Waiting) -> bool:
        """Wait until the group is ours, and every node there; say who has it, or which is away, meanwhile.

        Returns:
            False when it was told to stop before.

        Raises:
            GaveUp: it was told to stop while a node was away.
            Terminal: a node cannot be asked.
        """
        told = ""
        for node, lease in self._leases.items():  # everybody in this order, so two never wait for each other
            while (other := self._ask(node, lease, waiting)) is not None:
                if other != told:
                    log.info("standing_by", extra={"group": self._group, "node": node, "holder": other})
                    told = other
                if waiting.stopping.wait(TRY_SECONDS):
                    return False
                self._renew_before(node)
            self._others[node] = None
        for node, lease in self._leases.items():
            name = f"lease-{node}"
            thread = threading.Thread(target=self._renew, args=(node, lease), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        if told:
            log.info("takes_over", extra={"group": self._group, "from": told})
        return True

    def taken(self) -> str | None:
        """Take the group now; None when it is ours, else who has it."""
        for lease in self._leases.values():
            if (other := lease.hold()) is not None:
                return other
        return None

    @property
    def lost(self) -> str | None:
        """Who has taken the group over; None while it is ours."""
        holders = list(self._others.values())
        if None in holders:
            return None
        return next((h for h in holders if h), None)

    def close(self) -> None:
        """Give everything up."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        for lease in self._leases.values():
            with suppress(SyncError):
                lease.close()

    def _ask(self, node: str, lease: Lease, waiting: Waiting) -> str | None:
        """`Lease.hold`, once the node is there."""
        while True:
            try:
                holder = lease.hold()
            except Transient as away:
                waiting.wait(waiting.away("lease", away), lambda: self._renew_before(node))
            else:
                waiting.over()
                return holder

    def _renew_before(self, node: str) -> None:
        """Keep what was taken before `node`, while waiting for it."""
        for earlier, lease in self._leases.items():
            if earlier == node:
                return
            with suppress(Transient):
                lease.hold()

    def _renew(self, node: str, lease: Lease) -> None:
        while not self._closing.wait(RENEW_SECONDS):
            try:
                self._others[node] = lease.hold()
            except Transient as away:
                self._others[node] = ""  # nobody knows
                log.debug("lease_unknown", extra={"node": node, "error": str(away)})
            except Terminal as error:
                self._others[node] = ""
                log.warning("lease_unknown", extra={"node": node, "error": str(error)})
