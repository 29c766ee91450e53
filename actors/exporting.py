"""Sending spans to a collector, so that one which is away costs nothing but the spans.

Spans wait in a queue of bounded size and are sent by a thread of its own. What the collector does not take
in time is lost, counted, and said once in the log, as is that it takes spans again.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from actors.measured import Key, Measured
from actors.tracing import PATH, TracingConfig

log = logging.getLogger(__name__)
SERVICE = "sync-worker"
SEND_SECONDS = 5.0
"""So long one request may take, with all that is tried again."""
DELAY_MILLIS = 1_000
CLOSE_SECONDS = 2.0
"""At the end, so long for what waits."""
MADE, SENT, LOST = "made", "sent", "lost"


class Exporting:
    """The way of one process's spans to the collector.

    Args:
        config: where they are sent.
        group: the group's name.
        part: whose spans they are.
    """

    def __init__(self, config: TracingConfig, group: str, part: str) -> None:
        self._part = part
        self._counts = _Counts(config.endpoint)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we say it, and once
        exporter = OTLPSpanExporter(
            config.endpoint.rstrip("/") + PATH,
            certificate_file=str(config.ca) if config.ca else None,
            headers=dict(config.headers),
            timeout=SEND_SECONDS,
        )
        about = {"service.name": SERVICE, "service.namespace": group, "service.instance.id": part}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample)),
            resource=Resource.create(about),
            shutdown_on_exit=False,  # that would wait for a collector that is away
        )
        self._provider.add_span_processor(_Counting(self._counts))
        told = _Telling(exporter, self._counts)
        self._provider.add_span_processor(BatchSpanProcessor(told, schedule_delay_millis=DELAY_MILLIS))
        self.tracer = self._provider.get_tracer(SERVICE)

    def measured(self) -> Measured:
        """See `Tracing.measured`."""
        counters: dict[Key, float] = {
            ("trace_spans", outcome, self._part): count for outcome, count in self._counts.all().items()
        }
        return Measured(counters)

    def close(self) -> None:
        """See `Tracing.close`."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


class _Counts:
    """How many spans there were, and whether the collector takes them."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter({MADE: 0, SENT: 0, LOST: 0})
        self._away = False

    def add(self, outcome: str, count: int) -> None:
        with self._lock:
            self._counts[outcome] += count

    def all(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def tell(self, *, away: bool) -> None:
        """Say it in the log when it changes."""
        if away == self._away:
            return
        self._away = away
        if away:
            hint = "the sync goes on without traces; see that a collector takes OTLP over HTTP there"
            log.warning("traces_not_sent", extra={"endpoint": self._endpoint, "hint": hint})
        else:
            log.info("traces_sent_again", extra={"endpoint": self._endpoint})


class _Counting(SpanProcessor):
    """Counts spans that end, also those that the queue has no room for."""

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._counts.add(MADE, 1)


class _Telling(SpanExporter):
    """Counts what the collector took, and says when it does not."""

    def __init__(self, exporter: SpanExporter, counts: _Counts) -> None:
        self._exporter, self._counts = exporter, counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        found = self._exporter.export(spans)
        is_sent = found is SpanExportResult.SUCCESS
        self._counts.add(SENT if is_sent else LOST, len(spans))
        self._counts.tell(away=not is_sent)
        return found

    def shutdown(self) -> None:
        self._exporter.shutdown()
