"""Comparing the tables of a group's nodes, with progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors.remote import Handle
from cluster.node_reader import NodeReader
from cluster.settling import PATIENCE_SECONDS, TRIES, GroupSettling
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


def compare(engines: Sequence[Engine], tables: Sequence[Table], manner: Manner) -> list[TableResult]:
    """Compare every table, with a progress bar on standard error if that is a terminal.

    Args:
        engines: the nodes; differences are told from the first one's view.
        tables: what to compare.
        manner: how.
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
            task = bar.add_task(table.name, total=total or None)
            result = TableResult(table, limit=manner.limit)
            told = partial(bar.advance, task)
            verifier = Verifier(readers, settling, told, sums=manner.sums, chunk_rows=manner.chunk_rows)
            for reader in readers:
                reader.begin()
            for difference in verifier.compare(table):
                result.add(difference, max(manner.keep, manner.limit))
            result.chunks = verifier.chunks
            result.rows = {reader.node: reader.rows for reader in readers}
            results.append(result)
        return results


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
