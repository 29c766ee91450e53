"""What the demo shows while writers are at work: a table on a terminal, a line each second elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from cluster.demo.probes import Probe
from cluster.demo.writers import Writer
from replication.audit.reader import Follower


class AuditCounts:
    """Counts what is added to the audit log.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.records = 0
        self.conflicts: Counter[tuple[str, str]] = Counter()
        """By kind and winner."""
        self._follower = Follower(path)
        self._follower.last(0)

    def update(self) -> None:
        """Count what is new."""
        for record in self._follower.new():
            self.records += 1
            if record["stream"] == "conflicts":
                self.conflicts[record["kind"], record["winner"]] += 1


class View:
    """The state of the run, and its rates since the last look.

    Args:
        writers: one for each end.
        probes: one for each direction.
        audit: counts of the audit log.
        seconds: how long the run takes.
    """

    def __init__(
        self, writers: Sequence[Writer], probes: Sequence[Probe], audit: AuditCounts, seconds: float
    ) -> None:
        self._writers = writers
        self._probes = probes
        self._audit = audit
        self._seconds = seconds
        self._started = self._looked = time.monotonic()
        self._last = [0] * (len(writers) + 1)
        self._rates = [0.0] * len(self._last)

    def update(self) -> None:
        """Look again."""
        self._audit.update()
        now = time.monotonic()
        counts = [*(w.done for w in self._writers), self._audit.records]
        elapsed = max(now - self._looked, 1e-3)
        self._rates = [(n - before) / elapsed for n, before in zip(counts, self._last, strict=True)]
        self._last, self._looked = counts, now

    def grid(self) -> Grid:
        """For a terminal."""
        grid = Grid(
            title=f"{self._elapsed:.0f} of {self._seconds:.0f} s", show_header=False, title_justify="left"
        )
        for writer, rate in zip(self._writers, self._rates, strict=False):
            grid.add_row(f"changes at {writer.node}", f"{rate:,.0f}/s", _counts(writer.counts))
        for probe in self._probes:
            grid.add_row(f"lag {probe.name}", *_lag(probe))
        grid.add_row("audit records", f"{self._rates[-1]:,.0f}/s", f"{self._audit.records:,}")
        grid.add_row("conflicts", f"{self._audit.conflicts.total():,}", conflict_text(self._audit.conflicts))
        return grid

    def line(self) -> str:
        """For a file or a pipe."""
        written = ", ".join(
            f"{w.node} {rate:,.0f}/s" for w, rate in zip(self._writers, self._rates, strict=False)
        )
        return (
            f"{self._elapsed:4.0f} s  changes {written}; lag {_range(self._probes)}; "
            f"audit {self._rates[-1]:,.0f}/s; {self._audit.conflicts.total():,} conflicts"
        )

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def conflict_text(conflicts: Counter[tuple[str, str]]) -> str:
    """Conflicts by kind, and who won them how often."""
    kinds: dict[str, list[str]] = {}
    for (kind, winner), count in sorted(conflicts.items()):
        kinds.setdefault(kind, []).append(f"{winner} {count:,}")
    return "; ".join(f"{kind}: {', '.join(winners)}" for kind, winners in kinds.items())


def lag_text(probe: Probe) -> str:
    """The lag of one direction in a line."""
    return f"{probe.name}: {', '.join(_lag(probe))}, {len(probe.seconds):,} probes"


def _lag(probe: Probe) -> tuple[str, str]:
    median, high = probe.lag(0.5), probe.lag(0.99)
    waiting = f" (waiting for {probe.under_way:.0f} s)" if probe.under_way > 1 else ""
    if median is None or high is None:
        return "p50 –", f"p99 –{waiting}"
    return f"p50 {median * 1000:,.0f} ms", f"p99 {high * 1000:,.0f} ms{waiting}"


def _range(probes: Sequence[Probe]) -> str:
    """The lag of all directions in a few words."""
    medians = [m * 1000 for p in probes if (m := p.lag(0.5)) is not None]
    highs = [(h * 1000, p.name) for p in probes if (h := p.lag(0.99)) is not None]
    if not medians:
        return "–"
    high, name = max(highs)
    return f"p50 {min(medians):,.0f}–{max(medians):,.0f} ms, p99 up to {high:,.0f} ms ({name})"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
