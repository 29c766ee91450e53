"""Reading the log of a paused node again after a restart: as far as it had been read before the pause.

Without that a shard could not go on, and the other nodes with it. What was written at the node since stays
in its log until the node is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replication.change import Changes, LogEvent, Progress
from replication.engine import Source
from replication.position import Position, order_of

Open = Callable[[Position], Source]


class Rereading:
    """Polls a source, and holds back what is behind the place.

    Args:
        open_source: connects a source that resumes after a position.
        source: the source at work.
        start: where it was opened.
    """

    def __init__(self, open_source: Open, source: Source, start: Position) -> None:
        self._open = open_source
        self.source = source
        self._reached = start
        self._one_by_one = False

    def poll(self, most: int, wait: float, until: int | None) -> list[LogEvent]:
        """See `Source.poll`.

        Args:
            most: about how many changes.
            wait: seconds to wait for the first one.
            until: the place; None to read on. Once it is reached, what is still missing is the echo of a
                batch of ours: what comes before it in the log was written before the pause, too.
        """
        there = until is not None and self._reached.order >= until
        read = self.source.poll(1 if until is not None and (there or self._one_by_one) else most, wait)
        if until is not None and not there:
            read = self._held_back(read, until)
        if read:
            self._reached = read[-1].end
        return read

    def _held_back(self, read: Sequence[LogEvent], until: int) -> list[LogEvent]:
        """The events up to the place. The source goes on from there, with the ones that are left out."""
        kept = [e for e in read if e.end.order <= until]
        if len(kept) == len(read):
            return kept
        beyond, reached = read[len(kept)], kept[-1].end if kept else self._reached
        if isinstance(beyond, Changes) and _first(beyond) <= until:
            if self._one_by_one:  # the log does not give less at a time
                kept.append(beyond)
                reached = beyond.end
            self._one_by_one = True
        elif reached.order < until:  # nothing that concerns us is between
            reached = Position(until, reached.token)
            kept.append(Progress(reached))
        echoes = self.source.decode_echoes
        self.source.close()
        self.source = self._open(reached)
        self.source.decode_echoes = echoes
        return kept


def _first(changes: Changes) -> int:
    """The order of the first change."""
    return min(
        order_of(t.rows.column("_hi")[0].as_py(), t.rows.column("_lo")[0].as_py()) for t in changes.tables
    )
