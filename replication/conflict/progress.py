"""How far a shard has read each log, what each log had absorbed, and from where to re-read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from replication.conflict.rows import Arrival, at_least
from replication.marker import Marker, Vector
from replication.position import Position

Kept = tuple[dict[str, Position], dict[str, Vector], dict[str, int]]


class Progress:
    """The vectors of a shard.

    Attributes:
        position: for each node, the log position processed.
        absorbed: for each node n, the orders in the other logs that n has seen as of `position[n]`.
        applied: for each node, the cut that it had committed last when this shard started.
        audited: number of the last arrival that the audit log has on record.
        released: for each node, where a successor would re-read from, given what is committed now.
    """

    def __init__(self, nodes: Sequence[str], markers: Mapping[str, Marker]) -> None:
        self.nodes = list(nodes)
        newest = max(markers.values(), key=lambda m: m.seq)
        self.position: dict[str, Position] = {n: newest.resume.get(n, Position(0)) for n in nodes}
        self.absorbed: dict[str, Vector] = {
            n: {m: newest.absorbed.get(n, {}).get(m, 0) for m in nodes if m != n} for n in nodes
        }
        self.echoed: dict[str, int] = {n: newest.echoed.get(n, 0) for n in nodes}
        self.applied: dict[str, Vector] = {n: {m: markers[n].cut.get(m, 0) for m in nodes} for n in nodes}
        self.released: dict[str, Position] = dict(self.position)
        self._released_by = newest.seq
        weighed = {m: at_least(self.applied[m], markers[m].weighed) for m in nodes}
        self._replay_until = {n: max(weighed[m][n] for m in nodes) for n in nodes}
        self._unread = {n: markers[n].seq for n in nodes if markers[n].seq > self.echoed[n]}
        self._arrivals: dict[str, deque[Arrival]] = {n: deque() for n in nodes}
        self._parts: dict[str, Arrival] = {}
        self._count = 0
        self._frozen: Kept | None = None
        self.audited = 0
        self.replaying = True
        self._see_if_replayed()

    def arrive(self, node: str) -> Arrival:
        """A stretch of `node`'s log begins at its current position."""
        self._count += 1
        return self._arrive(node, self._count)

    def keep(self, node: str) -> Arrival:
        """Keep `node`'s log from its current position on until the arrival is no longer `live`."""
        arrival = self._arrive(node, 0)
        arrival.live = 1
        return arrival

    def absorb(self, node: str, marker: Marker) -> None:
        """`node`'s log has shown the batch of `marker`.

        What a batch that left others behind says of its own keys is in no vector. So whoever needs the log
        from after it reads it from before the first of such batches, until one has shown that took all.
        """
        if marker.weighed and node not in self._parts:
            self._parts[node] = self.keep(node)
        elif not marker.weighed and (part := self._parts.pop(node, None)):
            part.live = 0
        old = self.absorbed[node]
        self.absorbed[node] = {m: max(seen, marker.cut.get(m, 0)) for m, seen in old.items()}
        self.echoed[node] = max(self.echoed[node], marker.seq)
        if node in self._unread and marker.seq >= self._unread[node]:
            del self._unread[node]

    @property
    def partly(self) -> list[str]:
        """Nodes whose logs are kept because the last batch that they have shown left others behind."""
        return list(self._parts)

    def freeze(self) -> None:
        """Let a successor read the logs again from where it would have to now, whatever is finished later."""
        self._frozen = self.vectors()[1:]

    @property
    def all_audited(self) -> bool:
        """Whether every arrival is on record."""
        return self.audited >= self._count

    def advance(self, node: str, end: Position) -> None:
        """`node`'s log has been processed up to `end`; an older position changes nothing."""
        if end.order > self.position[node].order:
            self.position[node] = end
        if self.replaying:
            self._see_if_replayed()

    def committed(self, seq: int, resume: Mapping[str, Position]) -> None:
        """A node's log has shown the batch `seq`, whose marker names `resume`."""
        if seq > self._released_by:
            self._released_by = seq
            self.released = dict(resume)

    def vectors(self) -> tuple[dict[str, int], dict[str, Position], dict[str, Vector], dict[str, int]]:
        """Cut, resume, and what each log had absorbed and echoed at its resume position."""
        cut = {n: p.order for n, p in self.position.items()}
        if self._frozen is not None:
            return cut, *self._frozen
        resume: dict[str, Position] = {}
        absorbed: dict[str, Vector] = {}
        echoed: dict[str, int] = {}
        for n in self.nodes:
            arrivals = self._arrivals[n]
            while arrivals and not arrivals[0].live and arrivals[0].number <= self.audited:
                arrivals.popleft()
            if arrivals:
                resume[n], absorbed[n], echoed[n] = (
                    arrivals[0].start,
                    arrivals[0].absorbed,
                    arrivals[0].echoed,
                )
            else:
                resume[n], absorbed[n], echoed[n] = self.position[n], self.absorbed[n], self.echoed[n]
        return cut, resume, absorbed, echoed

    def _arrive(self, node: str, number: int) -> Arrival:
        arrival = Arrival(number, self.position[node], self.absorbed[node], self.echoed[node])
        if part := self._parts.get(node):  # what its writes had seen is known from there on only
            arrival = replace(part, number=number, live=0)
        self._arrivals[node].append(arrival)
        return arrival

    def to_replay(self, node: str) -> int | None:
        """Up to where `node`'s log has to be read again, at least; None if that is done."""
        until = self._replay_until[node]
        return until if node in self._unread or self.position[node].order < until else None

    def _see_if_replayed(self) -> None:
        self.replaying = any(self.to_replay(n) is not None for n in self.nodes)
