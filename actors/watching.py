"""Keys that a comparison of the nodes has an eye on, in one shard: who reads a row on several nodes can tell
a difference from a change on its way only if nothing of the row was on its way meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from replication.change import Changes, LogEvent, Unreadable

MOST = 16
"""Watches of one shard at a time; whoever was killed has left one behind, and the oldest goes."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What has become of the keys since the watch began.

    Attributes:
        on_their_way: whether a change read before has not reached every node.
        touched: those for which the logs have shown a change.
        position: for each node, how far its log has been read.
    """

    on_their_way: bool
    touched: frozenset[bytes]
    position: Mapping[str, int]


@dataclass(slots=True)
class _Watch:
    table: str
    keys: frozenset[bytes]
    touched: set[bytes] = field(default_factory=set)


class Watches:
    """The watches of a shard. They end with the incarnation."""

    def __init__(self) -> None:
        self._open: dict[str, _Watch] = {}

    def begin(self, ident: str, table: str, keys: Collection[bytes]) -> None:
        """Note from now on which of these keys change."""
        while len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        self._open[ident] = _Watch(table, frozenset(keys))

    def end(self, ident: str) -> None:
        """Forget a watch."""
        self._open.pop(ident, None)

    def get(self, ident: str) -> tuple[str, Sequence[bytes], frozenset[bytes]] | None:
        """A watch's table, its keys that have not been touched, and those that have; None for no watch."""
        watch = self._open.get(ident)
        if watch is None:
            return None
        return watch.table, list(watch.keys - watch.touched), frozenset(watch.touched)

    def note(self, event: LogEvent) -> None:
        """A log has shown something."""
        for watch in self._open.values():
            if isinstance(event, Changes):
                for changes in event.tables:
                    if changes.table == watch.table:
                        watch.touched |= watch.keys.intersection(changes.rows.column("_key").to_pylist())
            elif isinstance(event, Unreadable) and event.table == watch.table:
                watch.touched |= watch.keys & {event.key}
