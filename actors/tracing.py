"""Traces, where they are configured: what a group's batches went through, from a log to every other node.

    capture NODE ─▶ resolve NODE ─▶ apply NODE, for each other node

A span stands for a batch, never for a row. A part asks `open_tracing` once and wraps what it does; where
nothing is configured it wraps nothing, and no line of OpenTelemetry is loaded. What goes on from a batch
knows its span by text that travels with it: `Changes.trace`, and `ApplyBatch.traces`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from actors.capture import Sink
from actors.measured import Measured
from actors.needs import Target
from replication.batch import Applied, ApplyBatch
from replication.engine import Source

PATH = "/v1/traces"
"""What comes behind the address of a collector, for OTLP over HTTP."""
Apply = Callable[[ApplyBatch], Applied]


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where spans are sent, by OTLP over HTTP.

    Attributes:
        endpoint: base address of the collector; `/v1/traces` comes behind it.
        sample: the share of traces that is kept, from 0 to 1; decided where a log is read.
        headers: sent with every request, for collectors that ask who it is.
        ca: file with the certificates that sign the collector's; None for the system's.
    """

    endpoint: str
    sample: float = 0.01
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: Path | None = None

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that no log may show."""
        values = self.headers.values()
        return frozenset(values) | {value.partition(" ")[2] for value in values} - {""}  # of `Bearer TOKEN`


class ShardTracing(Protocol):
    """What a resolver's surroundings are wrapped with."""

    def sink(self, sink: Sink) -> Sink:
        """The resolver: it goes on with the traces of what it is fed."""

    def targets(self, targets: Mapping[str, Target]) -> dict[str, Target]:
        """Its appliers: their batches carry the traces of what it was fed."""


class Tracing(Protocol):
    """What a part wraps its work with; thread-safe."""

    def source(self, node: str, source: Source) -> Source:
        """The log of a node; its changes carry a trace."""

    def shard(self, number: int) -> ShardTracing:
        """What one resolver wraps."""

    def apply(self, apply: Apply, engine: str) -> Apply:
        """An applier that goes on with the traces of its batches."""

    def measured(self) -> Measured:
        """How many spans there were, and what became of them."""

    def close(self) -> None:
        """Send what waits, within a moment."""


def open_tracing(config: TracingConfig | None, group: str, part: str) -> Tracing | None:
    """What a part traces with; None where nothing is configured.

    Args:
        config: where spans are sent.
        group: the group's name.
        part: the part's name, as `applier my/0`.
    """
    if config is None:
        return None
    from actors.spans import Spans

    return Spans(config, group, part)
