"""The parts of the copy, each with something taken away: what the property must notice."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pyarrow as pa

from actors.backfill import Backfill
from actors.reading import Read
from replication.backfill import ChunkWindow
from replication.change import Changes, Echo, Watermark
from replication.copying import CopyProgress, Span


class DeafToChanges(ChunkWindow):
    def on_changes(self, event: Changes) -> None:
        pass


class DeafToEchoes(ChunkWindow):
    def on_echo(self, event: Echo) -> None:
        pass


class DeafToBareEchoes(ChunkWindow):
    def on_echo(self, event: Echo) -> None:
        self._note(event.rows)


class DeafToTruncate(ChunkWindow):
    def on_truncate(self, table: str) -> None:
        pass


class RemembersWhatIsLost(ChunkWindow):
    def reset(self) -> None:
        pass


class AnyLowOpens(ChunkWindow):
    """Takes the high watermark of a chunk without having seen its low one."""

    def on_watermark(self, event: Watermark) -> object:
        if event.ident.endswith("/high"):
            super().on_watermark(Watermark(event.ident.replace("/high", "/low"), event.end))
        return super().on_watermark(event)


class OneWindow(ChunkWindow):
    """Notes what changed in the newest window of the table only."""

    def _add(self, table: str, keys: pa.Array) -> None:
        windows = [ident for ident in self._open if ident.table == table]
        if windows:
            self._open[windows[-1]].changed.append(keys)


class StopsAtTheLimit(Backfill):
    """Takes a range for read although there were more rows in it than asked for."""

    def _take_read(self) -> None:
        for reading in [r for r in self._reading if r.done() and r.exception() is None]:
            if self._reading[reading].span.until is not None:
                read, assignment = reading.result(), self._reading.pop(reading)
                whole: Future[Read] = Future()
                whole.set_result(replace(read, rest=None))
                self._reading[whole] = assignment
        super()._take_read()


class Hasty(CopyProgress):
    """Takes everything before a durable range for durable."""

    def with_done(self, span: Span, rows: int, high: int) -> CopyProgress:
        last, finished = max(span.until or b"", self.last_key or b""), self.finished or span.until is None
        return Hasty(self.done_rows + rows, last, finished, high)


class InAnyOrder(Backfill):
    def _keep(self, progress: CopyProgress) -> None:
        super()._keep(progress)
        self.progress = Hasty(*(getattr(self.progress, name) for name in CopyProgress.__slots__))


class NeverWaits(Backfill):
    def _is_durable(self, chunk: object, released: int) -> bool:
        return chunk.order is not None  # type: ignore[attr-defined]
