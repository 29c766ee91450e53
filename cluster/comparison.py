"""Comparing the tables of a group's nodes, with progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from actors.remote import Handle
from cluster.node_reader import NodeReader
from cluster.settling import PATIENCE_SECONDS, TRIES, GroupSettling
from cluster.verify_progress import ProgressFile, Reached
from cluster.verify_report import TableResult
from replication.engine import Engine
from replication.schema import Table
from replication.summing import CHUNK_ROWS
from replication.verify import QuietTime, Settling, Verifier

QUIET_TRIES = 3


@dataclass(frozen=True, slots=True)
class Manner:
    """How to compare.

    Attributes:
        limit: show so many differences of each table.
        keep: keep so many of each table; `limit` by default.
        quiet_time: without a group, seconds before rows that differ are read again.
        tries: how many times these are read again.
        group: looks the parts of the running group up, which tells changes on their way from differences.
        patience: seconds that the group gets to let them arrive.
        sums, chunk_rows: see `Verifier`.
    """

    limit: int = 20
    keep: int = 0
    quiet_time: float = 1.0
    tries: int | None = None
    group: Callable[[], Mapping[str, Handle]] | None = None
    patience: float = PATIENCE_SECONDS
    sums: bool = True
    chunk_rows: int = CHUNK_ROWS

    def settling(self, readers: Sequence[NodeReader]) -> Settling:
        """What says whether rows that differ count."""
        if self.group is None:
            return QuietTime(lambda attempt: time.sleep(self.quiet_time), self.tries or QUIET_TRIES)
        return GroupSettling(self.group, readers, self.tries or TRIES, self.patience)


def compare(
    engines: Sequence[Engine], tables: Sequence[Table], manner: Manner, book: ProgressFile | None = None
) -> list[TableResult]:
    """Compare every table, with a progress bar on standard error if that is a terminal.

    Args:
        engines: the nodes; differences are told from the first one's view.
        tables: what to compare.
        manner: how.
        book: says from where to go on, and is told how far it is.
    """
    with ExitStack() as stack:
        readers = [NodeReader(engine) for engine in engines]
        for reader in readers:
            stack.callback(reader.close)
        bar = stack.enter_context(_progress_bar())
        settling = manner.settling(readers)
        results = []
        for table in tables:
            total = max(reader.estimate(table) for reader in readers)
            told = partial(bar.advance, bar.add_task(table.name, total=total or None))
            results.append(_compare_table(table, readers, manner, settling, told, book))
        return results


def _compare_table(
    table: Table,
    readers: Sequence[NodeReader],
    manner: Manner,
    settling: Settling,
    told: Callable[[int], object],
    book: ProgressFile | None,
) -> TableResult:
    before = book.of(table.name) if book else Reached()
    result = TableResult(table, limit=manner.limit, counts=before.counts, rows=before.rows)
    keep = max(manner.keep, manner.limit)

    def reached(key: bytes | None, *, finished: bool = False) -> None:
        result.rows = {r.node: before.rows.get(r.node, 0) + verifier.rows[r.node] for r in readers}
        result.chunks = before.chunks.plus(verifier.chunks)
        if book:
            kept = [(d.key, d.kind) for d in result.kept if d.key]
            book.save(table.name, Reached(key, finished, result.rows, result.counts, result.chunks, kept))

    verifier = Verifier(
        readers,
        settling,
        told,
        sums=manner.sums,
        chunk_rows=manner.chunk_rows,
        due=book.due if book else lambda: False,
        reached=reached,
    )
    told(max(before.rows.values(), default=0))
    result.counts.subtract(kind for _, kind in before.kept)
    for difference in verifier.look_again(table, [key for key, _ in before.kept]):
        result.add(difference, keep)
    if not before.finished:
        for difference in verifier.compare(table, before.after):
            result.add(difference, keep)
    reached(before.after, finished=True)
    return result


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
