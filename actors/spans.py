"""The spans of a batch; see `tracing`. Only loaded where traces are configured.

What a batch to apply goes back to is known by its marker's cut: the changes that the resolver had been fed
up to there. The first of them whose trace is kept is its parent, and others are linked, since one batch takes
everything that waits. Where a batch takes a part only, those of the rest are counted to it, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from actors.capture import Ack, Sink
from actors.exporting import Exporting
from actors.needs import Target
from actors.tracing import Apply, TracingConfig
from replication.batch import Applied, ApplyBatch
from replication.change import Changes, LogEvent
from replication.engine import Source
from replication.position import Position, split_order

MOST_WAITING = 128
"""So many traces are remembered of changes that no batch to a node has taken; a span has as many links."""
SYSTEMS = {"postgres": "postgresql", "mysql": "mysql", "mongodb": "mongodb"}
"""Engines as OpenTelemetry calls them."""
_LONGEST = 60.0
"""Seconds after which it is taken that nothing of a change had to be sent to a node."""


class Spans:
    """See `Tracing`.

    Args:
        config: where they are sent.
        group: the group's name.
        part: whose they are.
    """

    def __init__(self, config: TracingConfig, group: str, part: str) -> None:
        self._exporting = Exporting(config, group, part)
        self._tracer = self._exporting.tracer
        self.measured, self.close = self._exporting.measured, self._exporting.close

    def source(self, node: str, source: Source) -> Source:
        """See `Tracing.source`."""
        return _TracedSource(node, source, self)

    def shard(self, number: int) -> ShardSpans:
        """See `Tracing.shard`."""
        return ShardSpans(number, self)

    def apply(self, apply: Apply, engine: str) -> Apply:
        """See `Tracing.apply`."""

        def traced(batch: ApplyBatch) -> Applied:
            return self._apply(apply, batch, engine) if batch.traces else apply(batch)

        return traced

    def begin(
        self,
        name: str,
        kind: SpanKind,
        traces: Sequence[str],
        start: int,
        about: Mapping[str, AttributeValue],
    ) -> Span:
        """A span that goes on from some others: the first is its parent.

        Args:
            name: its name.
            kind: its kind.
            traces: the others; none for the first of a trace.
            start: when it began, nanoseconds since 1970.
            about: its attributes.
        """
        contexts = [_context_of(text) for text in traces]
        parent = set_span_in_context(NonRecordingSpan(contexts[0])) if contexts else Context()
        return self._tracer.start_span(
            name, parent, kind, {f"sync.{key}": value for key, value in about.items()},
            [Link(context) for context in contexts[1:]], start,
        )  # fmt: skip

    def _apply(self, apply: Apply, batch: ApplyBatch, engine: str) -> Applied:
        tables = [t.table for t in batch.tables]
        marker = batch.marker
        about: dict[str, AttributeValue] = {"node": batch.node, "tables": tables, "rows": batch.rows}
        about |= {"shard": marker.shard, "epoch": marker.epoch, "seq": marker.seq}
        span = self.begin(f"apply {batch.node}", SpanKind.CLIENT, batch.traces, time.time_ns(), about)
        span.set_attribute("db.system.name", SYSTEMS.get(engine, engine))
        try:
            applied = apply(batch)
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))  # its text may quote a row
            raise
        else:
            span.set_attribute("sync.outcome", str(applied.outcome))
            span.set_attribute("sync.held_rows", len(applied.held))
            span.set_attribute("sync.write_conflicts", applied.conflicts)
            return applied
        finally:
            span.end()


class ShardSpans:
    """See `tracing.ShardTracing`.

    Args:
        number: the shard's.
        spans: of this process.
    """

    def __init__(self, number: int, spans: Spans) -> None:
        self._number, self._spans = number, spans
        self._waiting = _Waiting()

    def sink(self, sink: Sink) -> Sink:
        """See `tracing.ShardTracing.sink`."""
        return _TracedSink(sink, self._number, self._spans, self._waiting)

    def targets(self, targets: Mapping[str, Target]) -> dict[str, Target]:
        """See `tracing.ShardTracing.targets`."""
        self._waiting.begin(targets)
        return {node: _TracedTarget(target, self._waiting) for node, target in targets.items()}


class _TracedSource:
    """A log whose changes carry a trace, if it is kept."""

    def __init__(self, node: str, source: Source, spans: Spans) -> None:
        self._node, self._source, self._spans = node, source, spans

    @property
    def decode_echoes(self) -> bool:
        return self._source.decode_echoes

    @decode_echoes.setter
    def decode_echoes(self, wanted: bool) -> None:
        self._source.decode_echoes = wanted

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """Read on. What it waited for the first change is no part of the span: waiting takes no processor."""
        used = time.thread_time_ns()
        events = self._source.poll(max_rows, wait)
        used = time.thread_time_ns() - used
        changes = [e for e in events if isinstance(e, Changes) and e.rows]
        if not changes:
            return events
        now = time.time_ns()
        span = self._spans.begin(
            f"capture {self._node}", SpanKind.CONSUMER, (), now - used, {"node": self._node}
        )
        if not span.is_recording():
            return events
        trace = _text_of(span)
        span.set_attribute("sync.rows", sum(c.rows for c in changes))
        span.set_attribute("sync.tables", _tables_of(changes))
        span.set_attribute("sync.position", _position_of(changes))
        committed = min(t.rows.column("_ts")[0].as_py() for c in changes for t in c.tables if t.rows.num_rows)
        span.set_attribute("sync.behind_ms", (now // 1000 - committed) / 1000)
        span.end(now)
        return [replace(e, trace=trace) if isinstance(e, Changes) else e for e in events]

    def confirm(self, position: Position) -> None:
        self._source.confirm(position)

    def close(self) -> None:
        self._source.close()


class _TracedSink:
    """A resolver that goes on with the traces of what it is fed."""

    def __init__(self, sink: Sink, shard: int, spans: Spans, waiting: _Waiting) -> None:
        self._sink, self._shard, self._spans, self._waiting = sink, shard, spans, waiting

    def on_their_way(self, table: str) -> list[bytes]:
        return self._sink.on_their_way(table)

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        changes = [e for e in events if isinstance(e, Changes) and e.trace]
        if not changes:
            return self._sink.feed(node, events, epoch)
        now = time.time_ns()
        spans = []
        for trace in dict.fromkeys(c.trace for c in changes):
            own = [c for c in changes if c.trace == trace]
            about: dict[str, AttributeValue] = {
                "node": node,
                "shard": self._shard,
                "rows": sum(c.rows for c in own),
            }
            about |= {"tables": _tables_of(own), "position": _position_of(own)}
            span = self._spans.begin(f"resolve {node}", SpanKind.INTERNAL, (trace,), now, about)
            self._waiting.add(node, own[-1].end.order, _text_of(span))
            spans.append(span)
        try:
            return self._sink.feed(node, events, epoch)
        except Exception as error:
            for span in spans:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            for span in spans:
                span.end()


class _TracedTarget:
    """An applier whose batches carry the traces of what they hold."""

    def __init__(self, target: Target, waiting: _Waiting) -> None:
        self._target, self._waiting = target, waiting

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        traces = self._waiting.take(batch) if batch.rows else ()
        return self._target.submit(replace(batch, traces=traces) if traces else batch)


@dataclass(frozen=True, slots=True)
class _Fed:
    node: str
    order: int
    trace: str
    at: float


class _Waiting:
    """The traces of changes that a resolver was fed, until a batch to each node takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, deque[_Fed]] = {}

    def begin(self, nodes: Iterable[str]) -> None:
        self._of |= {node: deque(maxlen=MOST_WAITING) for node in nodes}

    def add(self, node: str, order: int, trace: str) -> None:
        fed = _Fed(node, order, trace, time.monotonic())
        with self._lock:
            for target, waiting in self._of.items():
                if target != node:
                    waiting.append(fed)

    def take(self, batch: ApplyBatch) -> tuple[str, ...]:
        waiting = self._of[batch.node]
        if not waiting:
            return ()
        oldest, cut = time.monotonic() - _LONGEST, batch.marker.cut
        reached = []
        with self._lock:
            for _ in range(len(waiting)):
                fed = waiting.popleft()
                if fed.order > cut.get(fed.node, 0):
                    waiting.append(fed)
                elif fed.at >= oldest:
                    reached.append(fed.trace)
        return tuple(reached)


def _tables_of(changes: Sequence[Changes]) -> list[str]:
    return sorted({t.table for c in changes for t in c.tables})


def _position_of(changes: Sequence[Changes]) -> str:
    """The place of the last change, as the audit log and Kafka have it."""
    hi, lo = split_order(changes[-1].end.order)
    return f"{hi}:{lo}"


def _text_of(span: Span) -> str:
    """A span's context as W3C Trace Context writes it."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context_of(text: str) -> SpanContext:
    _, trace, span, flags = text.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
