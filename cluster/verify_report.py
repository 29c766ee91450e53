"""What `verify` prints of what it found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from replication.difference import Difference, DifferenceKind
from replication.key import decode_key
from replication.schema import Table
from replication.verify import Chunks

_WIDTH = 60
_LEAD = 20
_SELDOM = frozenset({DifferenceKind.UNREADABLE, DifferenceKind.CHANGING})
"""Kinds that are named only where there are such."""


@dataclass(slots=True)
class TableResult:
    """What was found in one table; `kept` holds the first differences, and `shown` those to print."""

    table: Table
    rows: dict[str, int] = field(default_factory=dict)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    kept: list[Difference] = field(default_factory=list)
    limit: int = 20
    chunks: Chunks = field(default_factory=Chunks)

    @property
    def shown(self) -> list[Difference]:
        """The differences to print."""
        return self.kept[: self.limit]

    @property
    def differing(self) -> int:
        """How many rows differ for certain."""
        return self.counts.total() - self.counts[DifferenceKind.CHANGING]

    def add(self, difference: Difference, keep: int) -> None:
        """Count a difference, and keep it while there are fewer than `keep`, with values if it is printed."""
        self.counts[difference.kind] += 1
        if len(self.kept) < self.limit:
            self.kept.append(difference)
        elif len(self.kept) < keep:
            held = {node: None if v is None else () for node, v in difference.values.items()}
            self.kept.append(replace(difference, columns=(), values=held))


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
    kinds = [k for k in DifferenceKind if told[k] or k not in _SELDOM]
    grid = Grid("table", *(f"rows in {node}" for node in nodes), *kinds)
    for column in grid.columns[1:]:
        column.justify = "right"
    for result in results:
        numbers = [*result.rows.values(), *(result.counts[kind] for kind in kinds)]
        grid.add_row(result.table.name, *(f"{n:,}" for n in numbers))
    console.print(grid)
    found = sum(r.differing for r in results)
    verdict = f"{found:,} rows differ" if found else "all nodes hold the same rows"
    if changing := told[DifferenceKind.CHANGING]:
        verdict += f", and {changing:,} kept changing while they were compared"
    rows = sum(max(r.rows.values(), default=0) for r in results)
    console.print(f"{verdict}; compared {rows:,} rows in {seconds:.1f} s")
    if summed := sum(r.chunks.summed for r in results):
        again = sum(r.chunks.read for r in results)
        read = sum(r.chunks.rows for r in results)
        parts = f"{summed:,} parts by checksum alone, {again:,} of which checksums differ"
        console.print(f"compared {parts}; read {read:,} rows")


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
                "chunks": {"by_checksum": r.chunks.summed, "differing": r.chunks.read},
                "rows_read": r.chunks.rows,
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
