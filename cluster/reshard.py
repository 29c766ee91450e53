"""Another number of shards than a group was begun with: `up` changes it before the group starts.

The group comes to rest under the old number, in this process (`actors.draining`), while applications go on
writing. Then every node's markers are replaced, one node after the other. What ends in between is finished by
the next start, and what ends before changes nothing. Who runs the group holds its lease, and the epoch was
raised on every node, so nobody else can write batches meanwhile.

Where it cannot be done now, the group goes on with the old number, and the next start tries again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from actors.audit import NoteRecords
from actors.draining import DrainingPipeline, Rest
from actors.pipeline import raise_all
from actors.shards import Aside
from cluster.audit_log import open_keys, open_writer
from cluster.pausing import read_pauses
from cluster.plan import GroupPlan
from cluster.waiting import Waiting
from replication.audit.store import AuditInUse
from replication.audit.writer import AuditWriter
from replication.engine import Control
from replication.errors import NodeUnavailable
from replication.marker import Marker
from replication.resharding import begun, first_markers, next_number

log = logging.getLogger(__name__)
TRIES = 5
REST_SECONDS = 60.0
"""So long the shards may take to come to rest, once they have read the logs to their ends."""
POLL_SECONDS = 0.02
LOOK_SECONDS = 3.0
"""So long it is looked how few rows are on their way at a time; twice as long such a moment is waited for."""
LOCK_SECONDS = 60.0
"""So long the audit log of an `up` that was killed may be in use."""


def with_shards(plan: GroupPlan, waiting: Waiting) -> GroupPlan:
    """Change the number of shards to that of the plan; the plan with the number that there are now.

    Raises:
        Transient: a node is away; try again.
        GaveUp: see `Waiting`.
        Terminal: the group cannot go on at all.
    """
    with ExitStack() as stack:
        engines = plan.engines()
        controls = {n: stack.enter_context(closing(e.control())) for n, e in engines.items()}
        for control in controls.values():
            control.prepare(plan.tables)
        count = _finished(controls, plan)
        if count == plan.shards:
            return plan
        began, change = time.monotonic(), {"group": plan.group, "from": count, "to": plan.shards}
        log.warning("shards_changing", extra=change)
        because, remedy = _paused(plan)
        for _ in range(0 if because else TRIES):
            pipeline = _pipeline(replace(plan, shards=count), waiting)
            rest, because = _brought_to_rest(pipeline, waiting, change)
            if rest is not None and _replaced(controls, plan, count, rest):
                log.warning("shards_changed", extra=change | {"seconds": round(time.monotonic() - began, 1)})
                return plan
            log.warning("shards_try_again", extra=change | {"because": because})
            remedy = "start again when less is written to the same rows at several nodes"
    log.error("shards_kept", extra=change | {"because": because, "remedy": remedy})
    return replace(plan, shards=count)


def _finished(controls: Mapping[str, Control], plan: GroupPlan) -> int:
    """How many shards there are, after a change that was interrupted is finished."""
    initial = Marker(plan.group, 0, plan.shards, 0, 0)
    stored = {n: c.raise_epoch(0, 0, initial) for n, c in controls.items()}
    if (new := begun(stored)) is not None:
        _write(controls, stored, new)
        log.warning("shards_change_finished", extra={"group": plan.group, "to": len(new)})
        return len(new)
    return next((m.shards for of_node in stored.values() for m in of_node), plan.shards)


def _paused(plan: GroupPlan) -> tuple[str, str]:
    """What is paused and must not be, and what to do; empty texts where nothing is."""
    pauses = read_pauses(plan.engines())
    if node := next(iter(pauses.since), ""):
        return f"{node} is paused", f"sync-worker resume {node}, then start again"
    if table := next(iter(pauses.tables), ""):
        return f"the table {table} is paused", f"sync-worker resume --table {table}, then start again"
    return "", ""


def _pipeline(plan: GroupPlan, waiting: Waiting) -> DrainingPipeline:
    """The group under the number that it has, in this process. No copy goes on meanwhile."""
    writer = _open_writer(plan, waiting)
    try:
        tables = [replace(t, mapping=replace(t.mapping, initial="none")) for t in plan.tables]
        aside = Aside.of(plan.audit_path, open_keys(plan.audit_path, plan.audit))
        return DrainingPipeline(plan.group, plan.engines(), tables, writer, plan.shards, plan.limits, aside)
    except BaseException:
        writer.close()
        raise


def _open_writer(plan: GroupPlan, waiting: Waiting) -> AuditWriter:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return open_writer(plan.audit_path, plan.group, plan.audit, shards=plan.shards)
        except AuditInUse:
            if time.monotonic() > deadline:
                raise
        waiting.wait(POLL_SECONDS)


def _brought_to_rest(
    pipeline: DrainingPipeline, waiting: Waiting, change: Mapping[str, object]
) -> tuple[Rest | None, str]:
    """Run a group until it is at rest, and end it; why not, where that does not come."""
    rest = None
    try:
        rest, because = _rest(pipeline, waiting)
        if rest is not None:
            pipeline.audit_log.write([NoteRecords("shards_changing", dict(change))])
    finally:
        pipeline.stop()
    return rest, because


def _rest(pipeline: DrainingPipeline, waiting: Waiting) -> tuple[Rest | None, str]:
    while not pipeline.streaming:
        _wait(pipeline, waiting)
    ident = f"shards {uuid.uuid4().hex}"
    for engine in pipeline.engines.values():  # what was written while the group was away is read first
        with closing(engine.snapshot()) as snapshot:
            snapshot.write_watermark(ident)
    while not pipeline.passed(ident):
        _wait(pipeline, waiting)
    _begin(pipeline, waiting)
    deadline = time.monotonic() + REST_SECONDS
    while (rest := pipeline.rest()) is None:
        if table := pipeline.spoiled:
            return None, f"a row of {table} was written while it was on its way"
        if time.monotonic() > deadline:
            return None, f"what was on its way did not finish within {REST_SECONDS:.0f} s"
        _wait(pipeline, waiting)
    return rest, ""


def _begin(pipeline: DrainingPipeline, waiting: Waiting) -> None:
    """Begin to drain when few rows are on their way: each of them can spoil it."""
    began, fewest = time.monotonic(), pipeline.on_the_way
    while fewest and time.monotonic() - began < LOOK_SECONDS:
        _wait(pipeline, waiting)
        fewest = min(fewest, pipeline.on_the_way)
    while not pipeline.begin_drain(fewest if time.monotonic() - began < 3 * LOOK_SECONDS else None):
        _wait(pipeline, waiting)


def _wait(pipeline: DrainingPipeline, waiting: Waiting) -> None:
    waiting.wait(POLL_SECONDS)
    if pipeline.error is not None:
        raise pipeline.error
    if (away := pipeline.away()) is not None:
        raise NodeUnavailable(away.error, node=away.node)


def _replaced(controls: Mapping[str, Control], plan: GroupPlan, count: int, rest: Rest) -> bool:
    """Give every node the markers of the new shards, if it holds what the old ones have sent last."""
    markers = raise_all(controls, count, Marker(plan.group, 0, count, 0, 0))
    if {n: [m.seq for m in of_node] for n, of_node in markers.items()} != rest.sent:
        return False
    _write(controls, markers, first_markers(plan.group, rest.places, plan.shards, next_number(markers)))
    return True


def _write(
    controls: Mapping[str, Control], before: Mapping[str, Sequence[Marker]], new: Sequence[Marker]
) -> None:
    epoch = 1 + max(m.epoch for of_node in before.values() for m in of_node)
    for node, control in controls.items():
        control.replace_markers([replace(m, epoch=epoch) for m in new])
        log.info("markers_replaced", extra={"node": node, "shards": len(new)})
