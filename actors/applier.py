"""Applier: the shell around an engine's writer, for one node and one shard.

Batches are applied one after the other. A transient error is tried again for as long as it takes, with
backoff; the marker makes a second try of a batch that had committed after all harmless.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    wait_random,
    wait_random_exponential,
)
from tenacity.wait import wait_base

from actors.complete import Completer
from replication.batch import Applied, ApplyBatch, Outcome
from replication.engine import Applier, Engine
from replication.errors import Contention, Transient
from replication.schema import Table

log = logging.getLogger(__name__)


CONTENTION_SECONDS = 0.25
"""Longest pause after a write conflict: the other transaction ends soon, and a waiting batch only grows."""

AFRESH_TRIES = 20
"""Every so many write conflicts it connects anew, for those that only look like one to this connection."""

EARLY_SECONDS = 0.01
"""Before the answer that a batch came too early, which brings it again."""


def _pause(unavailable: wait_base, state: RetryCallState) -> float:
    """Seconds before the next try."""
    error = state.outcome.exception() if state.outcome else None
    contention = wait_random(0, min(CONTENTION_SECONDS, 0.001 * state.attempt_number))
    return (contention if isinstance(error, Contention) else unavailable)(state)


class Applying:
    """Applies batches in order; `submit` does so in a thread of its own.

    Args:
        engine: the node's engine.
        engines: every node's engine: the others' types decide which narrowings to expect.
        tables: the mapped tables.
        retry_max_seconds: longest pause between two tries.
    """

    def __init__(
        self,
        engine: Engine,
        engines: Mapping[str, Engine],
        tables: Sequence[Table],
        retry_max_seconds: float = 30.0,
    ) -> None:
        sources = [e.node.engine for n, e in engines.items() if n != engine.node.name]
        self._completer = Completer(engine, engines, tables)
        self._open = partial(engine.applier, tables, sources)
        self._applier: Applier | None = None
        self._conflicts = 0
        self._retry = Retrying(
            retry=retry_if_exception_type(Transient),
            wait=partial(_pause, wait_random_exponential(multiplier=0.05, max=retry_max_seconds)),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="applier")
        self._closing = threading.Event()

    def submit(self, batch: ApplyBatch) -> Future[Applied]:
        """Queue a batch; see `resolver.Target`."""
        return self._thread.submit(self.apply, batch)

    def apply(self, batch: ApplyBatch) -> Applied:
        """Apply a batch now, however many tries it takes.

        Raises:
            Terminal: trying again will not help.
        """
        self._conflicts = 0
        applied = replace(self._retry(self._once, batch), conflicts=self._conflicts)
        if applied.outcome is Outcome.EARLY:
            self._closing.wait(EARLY_SECONDS)  # the batch before it is on its way
        return applied

    def close(self) -> None:
        """Finish what is queued, then disconnect."""
        self._closing.set()
        self._thread.shutdown()
        self._disconnect()

    def _once(self, batch: ApplyBatch) -> Applied:
        if self._applier is None:
            self._applier = self._open()
        try:
            ready = self._completer.complete(batch)
            applied = self._applier.apply(ready.batch)
            return replace(applied, kept=ready.kept, outside=ready.outside)
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
