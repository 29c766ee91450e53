"""`GET /metrics`: what all parts have counted, as Prometheus reads it.

Asked when Prometheus asks: each part gives what it has, within a moment, and one that is being made again is
left out. `FAMILIES` is the one list of what there is; docs/metrics.md is made from it:
`make docs`.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from dataclasses import dataclass

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from actors.measured import SECONDS, Histogram, Key, Measured
from actors.remote import Handle
from cluster.group_state import GroupState, state_of
from cluster.node_states import by_node
from cluster.sharing.store import SharedStore
from replication.breaker import State
from replication.errors import SyncError

ANSWER_SECONDS = 3.0
SHELF, SHOW_SECONDS, SHOWN_SECONDS = "measured", 1.0, 10.0
HEADLINES, REST = "The five", "Behind them"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as Prometheus has it, without what it puts behind (`_total`, `_bucket`).
        kind: `counter`, `gauge` or `histogram`.
        labels: what its values are told apart by.
        help: what it is.
        part: where in the documentation.
        together: how the gauges of several parts become one: `sum` or `max`.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    part: str = REST
    together: str = "sum"


FAMILIES = (
    Family(
        "sync_lag_ms", "gauge", ("node",),
        "How old the oldest change on its way to the node can be, in milliseconds; 0 if none is.",
        HEADLINES, "max",
    ),
    Family(
        "audit_write_tps", "gauge", (),
        "Records that became durable in the audit log, per second of the last minute.", HEADLINES,
    ),
    Family("conflict_rate", "gauge", (), "Conflicts found, per second of the last minute.", HEADLINES),
    Family("queue_depth", "gauge", ("node",), "Rows on their way to the node.", HEADLINES),
    Family(
        "error_ratio", "gauge", ("node",),
        "Of the tries to apply a batch to the node in the last minute, the share that failed: the node was"
        " away, or refused rows.",
        HEADLINES, "max",
    ),
    Family("sync_changes", "counter", ("node", "table", "shard"), "Changes read from the node's log."),
    Family("sync_copied_rows", "counter", ("node", "table", "shard"), "Rows of the node that a copy read."),
    Family(
        "sync_applied_rows", "counter", ("node", "table", "shard"), "Rows that the node has answered."
    ),
    Family(
        "sync_apply_lag_seconds", "histogram", ("source", "node", "shard"),
        "Time from a row's commit at its source to the node's answer; clocks that differ are in it.",
    ),
    Family(
        "sync_apply_seconds", "histogram", ("node", "shard"), "Time that a try to apply a batch took."
    ),
    Family(
        "sync_apply_tries", "counter", ("node", "outcome", "shard"),
        "Tries to apply a batch, by outcome: done, refused (some rows), contention (a write conflict with an"
        " application, tried again), occupied (the node holds a row that was to be copied, tried again"
        " without it), away.",
    ),
    Family("sync_conflicts", "counter", ("table", "kind", "shard"), "Conflicts found, by kind."),
    Family("sync_open_conflicts", "gauge", (), "Rows that await a person's decision (policy manual)."),
    Family("sync_held_rows", "counter", ("node", "table", "shard"), "Rows that were set aside."),
    Family("sync_node_up", "gauge", ("node",), "1 if every part's circuit breaker of the node is closed."),
    Family("sync_node_failures", "gauge", ("node",), "Failed tries in a row to reach the node."),
    Family("sync_node_paused", "gauge", ("node",), "1 if an operator has paused the node."),
    Family("sync_shard_replaying", "gauge", ("shard",), "1 while the shard rebuilds what was on its way."),
    Family("sync_copy_rows", "gauge", ("node", "table"), "Rows of the initial copy that were read."),
    Family("sync_copy_finished", "gauge", ("node", "table"), "1 if the initial copy is durable everywhere."),
    Family(
        "sync_copy_held_rows", "gauge", ("node", "table"),
        "Rows per second that a copy is held to, so that changes are not late; 0 if it is not held.",
    ),
    Family("sync_copy_readers", "gauge", ("node", "table"), "How many readers read for a copy."),
    Family(
        "sync_copy_slowed", "counter", ("node", "table"),
        "How often a copy was slowed down since its process began.",
    ),
    Family("sync_group_up", "gauge", (), "1 if every resolver answers."),
    Family("audit_records", "counter", ("kind",), "Records that became durable, by kind."),
    Family("audit_flush_seconds", "histogram", (), "Time until records that had come were durable."),
    Family("kafka_records", "counter", ("table",), "Records that Kafka has confirmed."),
    Family("kafka_lag_records", "gauge", ("table",), "Records on file that Kafka has not confirmed yet."),
    Family(
        "kafka_lag_seconds", "gauge", (), "How old the oldest record on its way to Kafka is; 0 if none is."
    ),
    Family("audit_archive_up", "gauge", (), "1 if the audit log could be copied to its archive last time."),
    Family("audit_archive_behind_seconds", "gauge", (), "Since when the archive may lack something."),
    Family("kafka_up", "gauge", (), "1 if Kafka took what it was given last."),
    Family(
        "trace_spans", "counter", ("outcome", "part"),
        "Spans of traces, where they are configured: made, sent, or lost as the collector did not take"
        " them; those that are neither wait, or were too many.",
    ),
    Family(
        "api_requests", "counter", ("method", "route", "status", "replica"), "Requests that were answered."
    ),
    Family("api_request_seconds", "histogram", ("route", "replica"), "Time until a request was answered."),
    Family("api_denials", "counter", ("reason", "replica"), "Requests that were refused, by reason."),
    Family("api_stream_clients", "gauge", ("replica",), "Clients of the audit log's stream."),
    Family("api_redis_up", "gauge", ("replica",), "1 if the replica reaches Redis, where it is configured."),
)  # fmt: skip
_GATHERED = {f.name: f for f in FAMILIES}


class Requests:
    """What a replica of the interface counts of itself.

    Args:
        replica: which one.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._lock = threading.Lock()
        self._counters: Counter[Key] = Counter()
        self._times: dict[Key, Histogram] = defaultdict(Histogram)
        self.streams = 0

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        with self._lock:
            self._counters["api_requests", method, route, str(status), self._replica] += 1
            self._times["api_request_seconds", route, self._replica].add(seconds)

    def measured(self, denials: Mapping[str, int]) -> Measured:
        """All of it, as it is now."""
        with self._lock:
            counters: dict[Key, float] = dict(self._counters)
            counters |= {("api_denials", reason, self._replica): n for reason, n in denials.items()}
            gauges: dict[Key, float] = {("api_stream_clients", self._replica): self.streams}
            return Measured(counters, gauges, {k: h.copy() for k, h in self._times.items()})


class Shown:
    """What replicas tell each other of what they count, so that whichever is asked answers for all.

    Args:
        store: where they tell it.
        replica: which one this is.
        measured: what it counts.
    """

    def __init__(self, store: SharedStore, replica: str, measured: Callable[[], Measured]) -> None:
        self._store, self._replica, self._measured = store, replica, measured
        self._ended = threading.Event()

    def begin(self) -> None:
        """Tell the others, on a thread of its own, until it is closed."""
        threading.Thread(target=self._run, name="shown", daemon=True).start()

    def close(self) -> None:
        """End."""
        self._ended.set()

    def all(self) -> list[Measured]:
        """Of this one as it is now, of the others as they told it last."""
        others = [m for name, m in self._store.all(SHELF).items() if name != self._replica]
        return [self._own(), *map(from_json, others)]

    def _own(self) -> Measured:
        own, health = self._measured(), self._store.health()
        if health.kind != "redis":
            return own
        up: dict[Key, float] = {("api_redis_up", self._replica): not health.away_since}
        return Measured(own.counters, {**own.gauges, **up}, own.histograms)

    def _run(self) -> None:
        while not self._ended.wait(SHOW_SECONDS):
            self._store.put(SHELF, self._replica, as_json(self._own()), SHOWN_SECONDS)


def as_json(measured: Measured) -> bytes:
    """Measurements as they travel."""
    times = [(key, h.buckets, h.total) for key, h in measured.histograms.items()]
    return orjson.dumps([list(measured.counters.items()), list(measured.gauges.items()), times])


def from_json(text: bytes) -> Measured:
    """See `as_json`."""
    counters, gauges, times = orjson.loads(text)
    return Measured(
        {tuple(k): v for k, v in counters},
        {tuple(k): v for k, v in gauges},
        {tuple(k): Histogram(buckets, total) for k, buckets, total in times},
    )


def gather(parts: Mapping[str, Handle]) -> list[Measured]:
    """What the parts have counted, of those that answer soon, and what the group says of itself."""
    kinds = ("capture ", "resolver ", "applier ")
    calls = [
        h.call("measured")
        for n, h in sorted(parts.items())
        if n.startswith(kinds) or n in ("audit", "publisher")
    ]
    wait(calls, ANSWER_SECONDS)
    found = [c.result() for c in calls if c.done() and c.exception() is None]
    try:
        state = state_of(parts, ANSWER_SECONDS)
    except (SyncError, TimeoutError):
        state = None
    return [*found, _of_state(state)]


def _of_state(state: GroupState | None) -> Measured:
    gauges: dict[Key, float] = {("sync_group_up",): state is not None}
    counters: dict[Key, float] = {}
    if state is None:
        return Measured(gauges=gauges)
    for node in by_node(state.guards):
        gauges["sync_node_up", node.node] = node.breaker == State.CLOSED
        gauges["sync_node_failures", node.node] = node.failures
        gauges["sync_node_paused", node.node] = any(node.node in s.paused for s in state.shards)
    for shard in state.shards:
        gauges["sync_shard_replaying", str(shard.shard)] = shard.replaying
    for name, copies in state.copies.items():
        for copy in copies:
            gauges["sync_copy_rows", name, copy.table] = copy.rows
            gauges["sync_copy_finished", name, copy.table] = copy.finished
            gauges["sync_copy_held_rows", name, copy.table] = copy.held_to or 0.0
            gauges["sync_copy_readers", name, copy.table] = copy.workers
            counters["sync_copy_slowed", name, copy.table] = copy.slowed
    return Measured(counters, gauges)


class Exposition(Collector):
    """Measurements as Prometheus' library takes them."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        self._counters: dict[Key, float] = defaultdict(float)
        self._gauges: dict[Key, float] = {}
        self._histograms: dict[Key, Histogram] = {}
        for one in measured:
            for key, value in one.counters.items():
                self._counters[key] += value
            for key, value in one.gauges.items():
                self._gauges[key] = _together(key[0], self._gauges.get(key), value)
            self._histograms.update(one.histograms)
        for key in [k for k in self._gauges if k[0] == "_recent_tries"]:
            tries, failures = self._gauges.pop(key), self._gauges.pop(("_recent_failures", *key[1:]), 0.0)
            self._gauges["error_ratio", *key[1:]] = failures / tries if tries else 0.0

    @classmethod
    def text_of(cls, measured: Iterable[Measured]) -> bytes:
        """The page."""
        from prometheus_client import generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(cls(measured))
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Every family, those without a value too."""
        for family in FAMILIES:
            if family.kind == "histogram":
                yield self._histogram(family)
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            values = self._counters if family.kind == "counter" else self._gauges
            metric = kind(family.name, family.help, labels=family.labels)
            for key in sorted(k for k in values if k[0] == family.name):
                metric.add_metric(key[1:], values[key])
            yield metric

    def _histogram(self, family: Family) -> Metric:
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for key in sorted(k for k in self._histograms if k[0] == family.name):
            metric.add_metric(key[1:], _buckets(self._histograms[key]), self._histograms[key].total)
        return metric


def _together(name: str, known: float | None, value: float) -> float:
    if known is None:
        return float(value)
    family = _GATHERED.get(name)
    return max(known, value) if family and family.together == "max" else known + value


def _buckets(times: Histogram) -> list[tuple[str, float]]:
    found, below = [], 0
    for bound, count in zip([*map(str, SECONDS), "+Inf"], times.buckets, strict=True):
        below += count
        found.append((bound, float(below)))
    return found


def page() -> str:
    """docs/metrics.md."""
    lines = [INTRODUCTION]
    for part in (HEADLINES, REST):
        lines += [f"\n## {part}\n", "| metric | kind | labels | |", "|---|---|---|---|"]
        for f in (f for f in FAMILIES if f.part == part):
            name = f"{f.name}_total" if f.kind == "counter" else f.name
            lines.append(f"| `{name}` | {f.kind} | {', '.join(f'`{n}`' for n in f.labels)} | {f.help} |")
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
# Metrics

This page is made from the code: `make docs`.

`GET /metrics` of the [HTTP interface](api.md) gives them in Prometheus' format, to everybody with the role
viewer. The parts count by themselves and are asked when Prometheus asks; one that is being made again is left
out for that moment. Counters begin at zero when a part is made again, which `rate()` knows how to take.

```yaml
scrape_configs:
  - job_name: sync-worker
    authorization: {credentials_file: /etc/prometheus/sync-worker.token}
    static_configs: [{targets: ["127.0.0.1:3001"]}]
```

The five are rates and ratios already, for a look and for alerts. With Prometheus use what is behind them, as
`histogram_quantile(0.99, sum by (le, source, node) (rate(sync_apply_lag_seconds_bucket[5m])))`. What a shard
has counted has the label `shard`, and what a replica of the interface has counted the label `replica`, so
that no sum falls when one of them begins again. Whichever replica is asked answers for all."""

if __name__ == "__main__":
    print(page(), end="")
