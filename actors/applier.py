"""Applier: the shell around an engine's writer, for one node and one shard.

Batches are applied one after the other. A transient error is tried again for as long as it takes: a node that
is away when its circuit breaker says so, a write conflict almost at once. The marker makes a second try of a
batch that had committed after all harmless.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from actors.complete import Completer
from actors.guard import Guard, GuardStatus
from actors.measured import Measured
from actors.tracing import Apply, Tracing
from actors.tries import Tries
from replication.batch import Applied, ApplyBatch, Outcome
from replication.engine import Applier, Engine
from replication.errors import Contention, Occupied, Transient
from replication.schema import Table

CONTENTION_SECONDS = 0.25
"""Longest pause after a write conflict: the other transaction ends soon, and a waiting batch only grows."""

AFRESH_TRIES = 20
"""Every so many write conflicts it connects anew, for those that only look like one to this connection."""

EARLY_SECONDS = 0.01
"""Before the answer that a batch came too early, which brings it again."""


class Applying:
    """Applies batches in order; `submit` does so in a thread of its own.

    Args:
        engine: the node's engine.
        engines: every node's engine: the others' types decide which narrowings to expect.
        tables: the mapped tables.
        retry_max_seconds: longest pause between two tries.
        part: what it is called in logs and in `status`.
        shard: whose batches it applies.
        tracing: what follows batches on their way, where that is configured.
    """

    def __init__(
        self,
        engine: Engine,
        engines: Mapping[str, Engine],
        tables: Sequence[Table],
        retry_max_seconds: float = 30.0,
        part: str = "applier",
        shard: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self._whole: Apply = tracing.apply(self._apply, engine.node.engine) if tracing else self._apply
        sources = [e.node.engine for n, e in engines.items() if n != engine.node.name]
        self._completer = Completer(engine, engines, tables)
        self._open = partial(engine.applier, tables, sources)
        self._applier: Applier | None = None
        self._conflicts = 0
        self._node, self._tries = engine.node.name, Tries(shard)
        self._guard = Guard(engine.node.name, part, retry_max_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="applier")
        self._closing = threading.Event()

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        """Queue a batch; see `resolver.Target`."""
        return self._thread.submit(self.apply, batch)

    def apply(self, batch: ApplyBatch) -> Applied:
        """Apply a batch now, however many tries it takes.

        Raises:
            Terminal: trying again will not help.
            Transient: the node is away, and it was told to give up.
        """
        return self._whole(batch)

    def _apply(self, batch: ApplyBatch) -> Applied:
        self._conflicts = 0
        while (applied := self._try(batch)) is None:
            pass
        applied = replace(applied, conflicts=self._conflicts)
        if applied.outcome is Outcome.EARLY:
            self._closing.wait(EARLY_SECONDS)  # the batch before it is on its way
        return applied

    def give_up(self) -> None:
        """Try no longer what a node that is away does not take; a successor finds it in the logs."""
        self._closing.set()

    def close(self) -> None:
        """Finish what is queued, if the node is there, then disconnect."""
        self._closing.set()
        self._thread.shutdown()
        self._disconnect()

    def guard(self) -> GuardStatus:
        """How the way to the node is."""
        return self._guard.status()

    def _try(self, batch: ApplyBatch) -> Applied | None:
        """Apply a batch when the breaker lets it through; None after an error."""
        self._closing.wait(self._guard.pause())
        began = time.monotonic()
        try:
            applied = self._once(batch)
        except Occupied:  # tried again at once, without the rows that are there
            self._tries.add(self._node, "occupied", time.monotonic() - began)
            self._guard.succeeded()
            self._completer.look(batch)
            return None
        except Contention:  # the node has answered
            self._tries.add(self._node, "contention", time.monotonic() - began)
            self._guard.succeeded()
            time.sleep(random.uniform(0, min(CONTENTION_SECONDS, 0.001 * self._conflicts)))
            return None
        except Transient as away:
            self._tries.add(self._node, "away", time.monotonic() - began)
            self._guard.failed(away)
            if self._closing.is_set():
                raise
            return None
        refused = "refused" if applied.held else "done"
        self._tries.add(self._node, refused, time.monotonic() - began)
        self._guard.succeeded()
        return applied

    def measured(self) -> Measured:
        """What it has counted."""
        return self._tries.measured(self._node)

    def _once(self, batch: ApplyBatch) -> Applied:
        if self._applier is None:
            self._applier = self._open()
        try:
            ready = self._completer.complete(batch)
            applied = self._applier.apply(ready.batch)
            if applied.outcome is Outcome.ALREADY and not ready.looked:
                # Who asked for it the first time may have looked, and left rows out.
                self._completer.look(batch)
                ready = self._completer.complete(batch)
            return replace(applied, kept=ready.kept, outside=ready.outside)
        except Occupied:
            raise
        except Contention:
            self._conflicts += 1
            if self._conflicts % AFRESH_TRIES == 0:
                self._disconnect()
            raise
        except Transient:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        self._completer.close()
        if self._applier is not None:
            self._applier.close()
            self._applier = None
