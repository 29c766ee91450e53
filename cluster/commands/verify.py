"""Compare all rows on all nodes, and repair what differs.

Reads every table on every node in key order and compares whole columns. Applications may go on writing: rows
that differ are read again after a quiet time, and count only if they still differ. A value that a node
cannot hold in full, microseconds in MongoDB for one, is the same if it is what that node makes of it.

--repair shows what it would do, asks, sends the right rows through the running group like any change, and
compares again. Which rows are right, the table's policies say: by default the node that wrote a row last, as
far as the audit log knows, else the one with the highest priority. A row that some nodes lack is sent to
them; only with --delete a row is deleted, where the node that decides lacks it.

Examples:
  sync-worker verify --table orders
  sync-worker verify --repair

Exits 0 if all nodes hold the same rows, 1 if they do not, 2 if that could not be found out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from cluster.commands.common import FAILED, OK, add_address, add_json, load_config
from replication.engine import Engine, Snapshot
from replication.engines import load_engine
from replication.errors import ConfigError
from replication.key import decode_key
from replication.paging import ChunkSize, read_all, readable
from replication.schema import Table
from replication.verify import Difference, DifferenceKind, Verifier

if TYPE_CHECKING:
    from cluster.config import GroupConfig

# Larger chunks than the initial copy's: nothing waits for one, and a server may search a whole table for it.
_CHUNK_ROWS = 100_000
_CHUNK_BYTES = 32 << 20
_WIDTH = 60
_LEAD = 20


@dataclass(slots=True)
class TableResult:
    """What was found in one table; `kept` holds the first differences, and `shown` those to print."""

    table: Table
    rows: dict[str, int] = field(default_factory=dict)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    kept: list[Difference] = field(default_factory=list)
    limit: int = 20

    @property
    def shown(self) -> list[Difference]:
        """The differences to print."""
        return self.kept[: self.limit]

    def add(self, difference: Difference, keep: int) -> None:
        """Count a difference, and keep it while there are fewer than `keep`."""
        self.counts[difference.kind] += 1
        if len(self.kept) < keep:
            self.kept.append(difference)


class NodeReader:
    """One node's snapshot, used by a thread of its own that reads the next chunk ahead.

    Args:
        engine: the node's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.node = engine.node.name
        self.engine = engine.node.engine
        self.rows = 0
        """How many rows `chunks` has given since it was called last."""
        self.unreadable: dict[bytes, str] = {}
        """The key and the reason of what was found since then and is no row of the table."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"verify-{self.node}")
        self._snapshot: Future[Snapshot] = self._thread.submit(engine.snapshot)

    def chunks(self, table: Table) -> Iterator[pa.RecordBatch]:
        """All rows in key order; the first chunk is being read when this returns."""
        self.rows = 0
        self.unreadable = {}
        size = ChunkSize(max_rows=_CHUNK_ROWS, max_bytes=_CHUNK_BYTES)
        chunks = read_all(self._snapshot.result(), table, size, self.unreadable.update)
        return self._read_ahead(chunks, self._thread.submit(next, chunks, None))

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """The rows with these keys."""
        for key in keys:
            self.unreadable.pop(key, None)
        read = partial(self._snapshot.result().read_keys, table, keys)
        rows, _ = self._thread.submit(readable, read, self.unreadable.update).result()
        return rows

    def estimate(self, table: Table) -> int:
        """About how many rows the table holds; 0 when unknown."""
        return self._thread.submit(self._snapshot.result().estimate_rows, table).result()

    def close(self) -> None:
        """Disconnect."""
        with self._thread as thread:
            if self._snapshot.exception() is None:
                thread.submit(self._snapshot.result().close)

    def _read_ahead(
        self, chunks: Iterator[pa.RecordBatch], ahead: Future[pa.RecordBatch | None]
    ) -> Iterator[pa.RecordBatch]:
        while (chunk := ahead.result()) is not None:
            ahead = self._thread.submit(next, chunks, None)
            self.rows += chunk.num_rows
            yield chunk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", action="append", metavar="T", help="only this table; may be repeated")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="show so many differences of each table (20)"
    )
    parser.add_argument(
        "--quiet-time",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="wait so long before differing rows are read again (1)",
    )
    parser.add_argument(
        "--tries", type=int, default=3, metavar="N", help="read differing rows again so often (3)"
    )
    parser.add_argument("--repair", action="store_true", help="send the right rows where others are")
    parser.add_argument("--delete", action="store_true", help="with --repair: delete rows, too")
    parser.add_argument("--yes", action="store_true", help="with --repair: do not ask")
    add_address(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, print, repair if asked to, and give the exit code."""
    from cluster.repair import REPAIRED_AT_ONCE, repair
    from cluster.topology import load_tables

    config = load_config(args)
    tables = choose(load_tables(config), args.table)
    keep = max(args.limit, REPAIRED_AT_ONCE) if args.repair else args.limit
    results = _verify(args, config, tables, keep)
    if args.repair and any(r.counts for r in results) and repair(args, config, results):
        again = [r.table for r in results if r.counts]
        results = _verify(args, config, again, args.limit)
    return FAILED if any(r.counts for r in results) else OK


def _verify(
    args: argparse.Namespace, config: GroupConfig, tables: Sequence[Table], keep: int
) -> list[TableResult]:
    engines = [load_engine(node, config.group) for node in config.by_priority()]
    started = time.monotonic()
    results = compare(engines, tables, args.limit, args.tries, args.quiet_time, keep)
    if args.json:
        print(json.dumps(as_json(results), ensure_ascii=False))
    else:
        report(results, time.monotonic() - started, Console(soft_wrap=True, highlight=False))
    return results


def choose(tables: Sequence[Table], names: Sequence[str] | None) -> list[Table]:
    """The tables called `names`; all if there are none.

    Raises:
        ConfigError: one of them is not mapped.
    """
    known = {t.name: t for t in tables}
    for name in names or ():
        if name not in known:
            message = f"no table called {name!r}"
            raise ConfigError(message, hint=f"the configuration maps {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def compare(
    engines: Sequence[Engine],
    tables: Sequence[Table],
    limit: int,
    tries: int,
    quiet_time: float,
    keep: int | None = None,
) -> list[TableResult]:
    """Compare every table, with a progress bar on standard error if that is a terminal.

    Args:
        engines: the nodes; differences are told from the first one's view.
        tables: what to compare.
        limit: show so many differences of each table.
        tries: see `Verifier`.
        quiet_time: seconds to wait before each of these.
        keep: keep so many of each table; `limit` by default.
    """
    with ExitStack() as stack:
        readers = [NodeReader(engine) for engine in engines]
        for reader in readers:
            stack.callback(reader.close)
        bar = stack.enter_context(_progress_bar())
        results = []
        for table in tables:
            total = max(reader.estimate(table) for reader in readers)
            task = bar.add_task(table.name, total=total or None)
            verifier = Verifier(
                readers,
                lambda attempt: time.sleep(quiet_time),
                tries=tries,
                progress=partial(bar.advance, task),
            )
            result = TableResult(table, limit=limit)
            for difference in _with_unreadable(verifier.compare(table), table, readers):
                result.add(difference, limit if keep is None else keep)
            result.rows = {reader.node: reader.rows for reader in readers}
            results.append(result)
        return results


def _with_unreadable(
    differences: Iterator[Difference], table: Table, readers: Sequence[NodeReader]
) -> Iterator[Difference]:
    """The differences, and what is no row of the table, each key once."""
    told = set()
    for difference in differences:
        why = {r.node: r.unreadable[difference.key] for r in readers if difference.key in r.unreadable}
        told.add(difference.key)
        yield replace(difference, kind=DifferenceKind.UNREADABLE, unreadable=why) if why else difference
    for key in sorted({key for r in readers for key in r.unreadable} - told):
        why = {r.node: r.unreadable[key] for r in readers if key in r.unreadable}
        nothing = dict.fromkeys((r.node for r in readers), None) if key else {}
        yield Difference(table.name, key, DifferenceKind.UNREADABLE, (), nothing, why)


def report(results: Sequence[TableResult], seconds: float, console: Console) -> None:
    """Print a line per difference and a table of counts."""
    for result in results:
        for difference in result.shown:
            console.print(describe(difference, result.table), markup=False)
        hidden = result.counts.total() - len(result.shown)
        if hidden:
            console.print(f"{result.table.name}: {hidden:,} more differences; --limit shows more")
    nodes = list(results[0].rows) if results else []
    told = sum((r.counts for r in results), Counter())
    kinds = [k for k in DifferenceKind if told[k] or k is not DifferenceKind.UNREADABLE]
    grid = Grid("table", *(f"rows in {node}" for node in nodes), *kinds)
    for column in grid.columns[1:]:
        column.justify = "right"
    for result in results:
        numbers = [*result.rows.values(), *(result.counts[kind] for kind in kinds)]
        grid.add_row(result.table.name, *(f"{n:,}" for n in numbers))
    console.print(grid)
    found = sum(r.counts.total() for r in results)
    verdict = f"{found:,} rows differ" if found else "all nodes hold the same rows"
    rows = sum(max(r.rows.values(), default=0) for r in results)
    console.print(f"{verdict}; compared {rows:,} rows in {seconds:.1f} s")


def describe(difference: Difference, table: Table) -> str:
    """One readable line: the key, what differs, and each node's value."""
    named = ", ".join(f"{n}={v}" for n, v in _key(difference.key, table).items())
    parts = []
    if difference.excluded:
        parts.append(f"its filter excludes what is in {', '.join(sorted(difference.excluded))}")
    if difference.absent:
        parts.append(f"missing in {', '.join(difference.absent)}")
    parts += [f"cannot be read in {node}: {why}" for node, why in difference.unreadable.items()]
    for i, column in enumerate(difference.columns):
        held = {node: _text(v[i]) for node, v in difference.values.items() if v is not None}
        parts.append(
            f"{column}: " + " | ".join(f"{n} {t}" for n, t in zip(held, _excerpts(held), strict=True))
        )
    return f"{table.name} {named}: {'; '.join(parts)}"


def as_json(results: Sequence[TableResult]) -> dict[str, Any]:
    """The results as `--json` prints them."""
    return {
        "equal": not any(r.counts for r in results),
        "tables": [
            {
                "table": r.table.name,
                "rows": r.rows,
                **{kind.value: r.counts[kind] for kind in DifferenceKind},
                "differences": [_difference_json(d, r.table) for d in r.shown],
            }
            for r in results
        ],
    }


def _difference_json(difference: Difference, table: Table) -> dict[str, Any]:
    return {
        "key": {name: _plain(value) for name, value in _key(difference.key, table).items()},
        "kind": difference.kind.value,
        "unreadable": dict(difference.unreadable),
        "excluded": sorted(difference.excluded),
        "nodes": {
            node: None if values is None else dict(zip(difference.columns, map(_plain, values), strict=True))
            for node, values in difference.values.items()
        },
    }


def _key(key: bytes, table: Table) -> dict[str, Any]:
    names = table.schema.key
    if not key:
        return dict.fromkeys(names, "?")
    try:
        values = decode_key(key, [table.schema.column(n).type.kind for n in names])
    except (OverflowError, ValueError):  # a date that Python has no object for
        return {"key": key.hex()}
    return dict(zip(names, values, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else repr(_plain(value))


def _excerpts(texts: dict[str, str]) -> list[str]:
    """The texts, of long ones the part around the first character that is not the same in all."""
    values = list(texts.values())
    same = next((i for i, chars in enumerate(zip(*values, strict=False)) if len(set(chars)) > 1), 0)
    start = max(same - _LEAD, 0) if max(map(len, values)) > _WIDTH else 0
    return [
        ("…" if start else "") + text[start : start + _WIDTH] + ("…" if len(text) > start + _WIDTH else "")
        for text in values
    ]


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
