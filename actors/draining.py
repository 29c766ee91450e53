"""A group in one process that comes to rest, for another number of shards to begin from; see `resharding`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from actors.guard import GuardStatus
from actors.pipeline import Pipeline
from actors.resolver import Resolver
from replication.breaker import State
from replication.change import Changes, Echo, LogEvent, Unreadable
from replication.conflict.rows import ChangeRows
from replication.position import Position
from replication.resharding import Drain


class DrainingResolver(Resolver):
    """A resolver that can be told to take no more of what applications write."""

    drain: Drain | None = None

    def begin_drain(self) -> None:
        """From now on take echoes only, under `lock`."""
        self.drain = Drain(self.shard)

    @property
    def lock(self) -> ExitStack:
        """Held while it is looked at together with others."""
        stack = ExitStack()
        stack.enter_context(self._lock)
        return stack

    def heartbeat(self) -> None:
        """See `Resolver.heartbeat`; one that comes to rest sends nothing of its own accord."""
        with self._lock:
            if self.drain is None:
                super().heartbeat()

    def _take(self, node: str, event: LogEvent) -> None:
        if self.drain is None:
            super()._take(node, event)
        elif isinstance(event, Changes):
            self.drain.on_changes(node, [ChangeRows(t.table, t.rows) for t in event.tables])
        elif isinstance(event, Unreadable):
            self.drain.on_unreadable(node, event.table, event.key)
        elif isinstance(event, Echo):
            self.drain.on_echo(node, event.marker)


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a group came to rest.

    Attributes:
        places: for each node, up to where every shard has read its log.
        sent: for each node, the last batch of each shard.
    """

    places: Mapping[str, Position]
    sent: Mapping[str, list[int]]


class DrainingPipeline(Pipeline):
    """A `Pipeline` that comes to rest when it is told to."""

    resolver_kind = DrainingResolver

    @property
    def draining(self) -> list[DrainingResolver]:
        """The resolvers."""
        return [r for r in self.resolvers if isinstance(r, DrainingResolver)]

    @property
    def streaming(self) -> bool:
        """Whether every log is connected and read as far as it had been before."""
        connected = all(c.streaming for c in self.captures.values())
        return connected and not any(r.shard.replaying for r in self.resolvers)

    def passed(self, ident: str) -> bool:
        """Whether every log has shown a watermark."""
        return self.streaming and all(c.passed(ident) is not None for c in self.captures.values())

    @property
    def on_the_way(self) -> int:
        """How many rows the nodes that they go to have not committed."""
        found = 0
        for resolver in self.draining:
            with resolver.lock:
                found += sum(resolver.shard.backlog(n) for n in self.captures)
        return found

    def begin_drain(self, most: int | None = None) -> bool:
        """Take no more of what applications write; whether that was possible.

        All shards must have read every log to the same place. A log is handed to them one after the other, so
        at a moment that is not so: try again.

        Args:
            most: only while so few rows are on their way.
        """
        with ExitStack() as stack:
            for resolver in self.draining:
                stack.enter_context(resolver.lock)
            first, *others = [r.shard.progress.position for r in self.draining]
            if not self.streaming or any(position != first for position in others):
                return False
            if most is not None and self.on_the_way > most:
                return False
            for resolver in self.draining:
                resolver.begin_drain()
        return True

    @property
    def spoiled(self) -> str:
        """See `Drain.spoiled`."""
        return next((r.drain.spoiled for r in self.draining if r.drain and r.drain.spoiled), "")

    def rest(self) -> Rest | None:
        """Where all shards are at rest; None before."""
        for resolver in self.draining:
            with resolver.lock:
                if resolver.drain is None or not resolver.drain.at_rest:
                    return None
        shards = [r.shard for r in self.draining]
        places = dict(shards[0].progress.position)
        return Rest(places, {n: [s.sent[n] for s in shards] for n in self.captures})

    def away(self) -> GuardStatus | None:
        """The way to a node that does not answer."""
        parts: Collection[GuardStatus] = [
            *(c.guard() for c in self.captures.values()),
            *(a.guard() for a in self.appliers),
        ]
        return next((g for g in parts if g.state != State.CLOSED), None)
