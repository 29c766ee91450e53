"""Telling differences from changes on their way, by what the running group has read of the nodes' logs.

Of rows that differ, each try asks the shards to note which of them change, waits until nothing of them is on
its way, and lets every node show what its log has (a watermark, see `Snapshot.write_watermark`). Then they
are read on all nodes, and one more watermark in each log says that the shards have read everything that the
reading can have seen. A row that no log has shown a change of since the first step was at rest while it was
read: what differs of it then is no change on its way. The others are tried again.

Nothing here holds the group up, and a group that is made anew meanwhile only costs a try.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from actors.remote import Handle
from actors.watching import Watched
from replication.copying import copies
from replication.errors import Transient
from replication.schema import Table
from replication.sharding import shards_of

log = logging.getLogger(__name__)
TRIES = 10
PATIENCE_SECONDS = 60.0
"""So long a try waits for changes on their way, and as long for the logs."""
POLL_SECONDS = 0.02
AGAIN_SECONDS = 5.0
"""After so long another watermark is written: a part that was made anew may never show the first one."""
ANSWER_SECONDS = 30.0
_PAUSES = (0.0, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Before each try; rows that change all the time are caught at rest at different moments."""


class Marking(Protocol):
    """A node, as watermarks are written to it."""

    @property
    def node(self) -> str:
        """The node's name."""

    def write_watermark(self, ident: str) -> None:
        """See `Snapshot.write_watermark`."""


class _Unsettled(Exception):
    """A try is in vain."""


class GroupSettling:
    """Implements `replication.verify.Settling`.

    Args:
        parts: looks the running group's parts up, by name.
        nodes: those that are compared.
        tries: see `Settling`.
        patience: seconds, see `PATIENCE_SECONDS`.
    """

    def __init__(
        self,
        parts: Callable[[], Mapping[str, Handle]],
        nodes: Sequence[Marking],
        tries: int = TRIES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.tries = max(tries, 1)
        self._parts = parts
        self._nodes = nodes
        self._patience = patience
        self._keys: frozenset[bytes] = frozenset()
        self._table: Table | None = None
        self._ident = ""
        self._watching = self._gave_up = False

    def settle(self, table: Table, keys: Sequence[bytes], attempt: int) -> None:
        """See `Settling`: rest comes, or the try is known to be in vain."""
        time.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
        self._table, self._keys, self._ident = table, frozenset(keys), f"verify {uuid.uuid4().hex}"
        self._watching = not self._gave_up and self._tried(self._begin)

    def doubtful(self) -> Collection[bytes]:
        """See `Settling`."""
        touched: set[bytes] = set()
        if not self._watching or not self._tried(lambda: self._end(touched)):
            return self._keys
        return touched

    def _begin(self) -> None:
        assert self._table is not None
        table = self._table
        self._until(lambda: self._watch(table))
        self._until(lambda: not self._copying(table) and not any(w.on_their_way for w in self._watched()))
        for node in self._nodes:
            node.write_watermark(f"{self._ident} low")

    def _watch(self, table: Table) -> bool:
        """Begin the watch on every shard."""
        resolvers = self._resolvers()
        keys = sorted(self._keys)
        owner = shards_of(keys, len(keys), len(resolvers))
        for shard, resolver in enumerate(resolvers):
            mine = [keys[i] for i in np.flatnonzero(owner == shard)]
            resolver.call("watch", self._ident, table.name, mine).result(ANSWER_SECONDS)
        return True

    def _end(self, touched: set[bytes]) -> None:
        """Wait until the shards have read what has been read of the nodes, and let go of the watch."""
        marks = _Marks(self._ident, self._nodes)

        def passed() -> bool:
            if not marks.passed(self._parts()):
                return False
            watched = self._watched()
            touched.update(*(w.touched for w in watched))
            return all(w.position[n] >= order for w in watched for n, order in marks.reached.items())

        self._until(passed)
        for resolver in self._resolvers():
            resolver.call("unwatch", self._ident)

    def _watched(self) -> list[Watched]:
        found: list[Watched] = []
        for resolver in self._resolvers():
            watched = resolver.call("watched", self._ident).result(ANSWER_SECONDS)
            if watched is None:
                message = "the group began anew"
                raise _Unsettled(message)
            found.append(watched)
        return found

    def _copying(self, table: Table) -> bool:
        """Whether an initial copy of the table is at work: what it has not reached yet is no difference."""
        parts = self._parts()
        for _, node in copies([table.mapping], [n.node for n in self._nodes]):
            statuses = parts[f"copy {node}"].call("status").result(ANSWER_SECONDS)
            if any(s.table == table.name and not s.finished for s in statuses):
                return True
        return False

    def _resolvers(self) -> list[Handle]:
        """All of them, by shard.

        Raises:
            KeyError: the group is being made; its captures are made once all resolvers are there.
        """
        parts = self._parts()
        for node in self._nodes:
            parts[f"capture {node.node}"]
        found = [n for n in parts if n.startswith("resolver ")]
        return [parts[n] for n in sorted(found, key=lambda name: int(name.split()[1]))]

    def _until(self, done: Callable[[], bool]) -> None:
        """Ask again and again; a part that is being made anew is waited for."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if done():
                    return
            except (Transient, TimeoutError, KeyError) as error:
                log.debug("verify_waits", extra={"error": str(error)})
            if time.monotonic() > deadline:
                self._gave_up = True
                message = f"not within {self._patience:.0f} s"
                raise _Unsettled(message)
            time.sleep(POLL_SECONDS)

    def _tried(self, step: Callable[[], None]) -> bool:
        """Do a step of a try; whether it came to its end."""
        try:
            step()
        except (_Unsettled, Transient, TimeoutError, KeyError) as error:
            log.debug("verify_unsettled", extra={"error": str(error)})
            return False
        return True


class _Marks:
    """Watermarks written after a reading, until every node's log has shown one."""

    def __init__(self, ident: str, nodes: Sequence[Marking]) -> None:
        self.reached: dict[str, int] = {}
        self._ident = ident
        self._nodes = nodes
        self._written: list[str] = []
        self._at = 0.0

    def passed(self, parts: Mapping[str, Handle]) -> bool:
        """Whether every log has shown one; `reached` says where."""
        left = [n for n in self._nodes if n.node not in self.reached]
        if left and (not self._written or time.monotonic() - self._at > AGAIN_SECONDS):
            self._at = time.monotonic()
            self._written.append(f"{self._ident} high {len(self._written)}")
            for node in left:
                node.write_watermark(self._written[-1])
        for node in left:
            for mark in self._written:
                order = parts[f"capture {node.node}"].call("passed", mark).result(ANSWER_SECONDS)
                if order is not None:
                    self.reached[node.node] = order
        return len(self.reached) == len(self._nodes)
