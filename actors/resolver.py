"""Resolver: the shell around one shard's state machine.

Place in the flow: capture feeds it the logs; it sends batches to one applier per node, and every change,
decision and conflict to the audit log. It never waits for an applier: an answer comes back through
`on_applied`. Back-pressure: `Ack.paused` while a target's backlog is over the limit, or the audit log's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType

from actors.capture import Ack
from actors.limits import UNRECORDED_BYTES, BatchSize, Lag, Limits
from actors.measured import Measured
from actors.needs import Auditor, Target
from actors.promptness import Promptness
from actors.shard_status import ShardStatus
from actors.tally import Tally
from actors.watching import Watched, Watches
from replication.applying import Findings
from replication.batch import Applied, ApplyBatch, Outcome
from replication.change import Changes, Echo, LogEvent, SchemaChange, Unreadable
from replication.conflict.batching import echoed_rows, to_apply_batch
from replication.conflict.decide import Conflict
from replication.conflict.rows import ChangeRows
from replication.conflict.shard import Shard
from replication.errors import Fenced, Superseded
from replication.schema import TableSchema

log = logging.getLogger(__name__)
NONE: Mapping[str, str] = MappingProxyType({})


class Resolver:
    """One shard at work.

    Args:
        shard: the state machine, made from the markers of every node.
        schemas: canonical table name to schema.
        targets: the applier of each node.
        auditor: where records go.
        limits: when the logs of the other nodes are held back.
        fail: called once with the error that ends this incarnation.
        findings: what each node had found in the last batch in which it found anything; see `Findings`.
    """

    def __init__(
        self,
        shard: Shard,
        schemas: Mapping[str, TableSchema],
        targets: Mapping[str, Target],
        auditor: Auditor,
        limits: Limits,
        fail: Callable[[BaseException], None],
        findings: Mapping[str, str] | None = None,
    ) -> None:
        self.shard = shard
        self._findings = findings or {}
        self.schemas = schemas
        self.targets = targets
        self.auditor = auditor
        self.limits = limits
        self.fail = fail
        self.names = sorted(shard.nodes)
        self._sizes = {n: BatchSize(limits.batch_rows) for n in self.names}
        self._lags = {n: Lag(n) for n in self.names}
        self._promptness = Promptness(self.names)
        self._lock = threading.RLock()
        self._stopped = False
        self._paused: Mapping[str, str] = {}
        self._tables: Mapping[str, str] = {}  # those that are paused
        self._refused: frozenset[str] = frozenset()  # those that were paused while it ran
        self._early: set[int] = set()
        self._watches = Watches()
        self._first: Future[None] | None = None  # what must be on record before anything more is sent
        self._unrecorded = 0  # bytes of changes that the audit log has not on record
        self._tally = Tally(shard.config.shard, self.names)

    def feed(self, node: str, events: Sequence[LogEvent], epoch: int | None) -> Ack:
        """Process events of `node`'s log; see `capture.Sink`."""
        if epoch not in (None, self.shard.epoch):
            message = f"events for epoch {epoch}, but epoch {self.shard.epoch} is at work"
            raise Superseded(message, node=node)
        with self._lock:
            for event in events:
                read = self.shard.progress.position[node].order
                if event.end.order < read or (event.end.order == read and not _notes(event)):
                    continue  # read before: a capture that connected again goes over it again
                self._refuse_if_halted(node)
                self._take(node, event.after(read) if isinstance(event, Changes) else event)
            self._record_conflicts()
            self._pump()
            self._look()
            room = min(self._room(n) for n in self.names if n != node)
            if self._unrecorded >= UNRECORDED_BYTES:
                room = 0
            released = self.shard.progress.released[node]
            until = self.shard.progress.to_replay(node) if node in self._paused else None
            halted = node in self._paused and until is None
            state = self.shard.replaying, room <= 0, released, self.shard.epoch, room, halted, until
            return Ack(*state, self._promptness.load())

    def on_their_way(self, table: str) -> list[bytes]:
        """The keys of a table that have not reached every node."""
        with self._lock:
            return list(self.shard.keys[table])

    def watch(self, ident: str, table: str, keys: Sequence[bytes]) -> None:
        """Note from now on which of these keys change, until `unwatch`."""
        with self._lock:
            self._watches.begin(ident, table, keys)

    def watched(self, ident: str) -> Watched | None:
        """What has become of the keys of a watch; None if this incarnation knows none by this name."""
        with self._lock:
            if (watch := self._watches.get(ident)) is None:
                return None
            table, untouched, touched = watch
            on_their_way = self.shard.replaying or any(self.shard.moves(table, k) for k in untouched)
            return Watched(
                on_their_way, touched, {n: p.order for n, p in self.shard.progress.position.items()}
            )

    def unwatch(self, ident: str) -> None:
        """Forget a watch."""
        with self._lock:
            self._watches.end(ident)

    def settle(self, table: str, key: bytes, node: str, read: Mapping[str, int]) -> int | None:
        """Let a node's row decide a key on hold; see `Shard.settle`. Gives the epoch if it will."""
        with self._lock:
            return self.shard.epoch if self.shard.settle(table, key, node, read) else None

    def settled_up_to(self, table: str, key: bytes, epoch: int) -> dict[str, int] | None:
        """See `Shard.settled_up_to`; None, too, if the incarnation that was to settle the key is gone."""
        with self._lock:
            return self.shard.settled_up_to(table, key) if epoch == self.shard.epoch else None

    def pause(self, nodes: Mapping[str, str], tables: Mapping[str, str] = NONE) -> int:
        """Pause these nodes and no others: nothing is sent to them, and their logs are not read on.

        Of the tables that are paused nothing is sent to anybody; what is written to them is read on.

        What had been read of them is read again after a restart: without that nothing could be sent to
        anybody.

        Args:
            nodes: by node since when it is paused.
            tables: by table since when it is paused, and no others.

        Returns:
            how many batches have not been answered yet, of those nodes, or of all where a table is paused.
        """
        with self._lock:
            resumes = bool(set(self._tables).difference(tables))
            resumed = {n for n in self.names if resumes and self.shard.held_back(n)}
            for node in resumed | set(self._paused).difference(nodes):
                self._lags[node].catch_up()
            self._tables = dict(tables)
            self.shard.pause_tables(tables)
            if not self.shard.replaying:
                self._refused = frozenset(nodes)
            self._paused = dict(nodes)
            self._pump()
            return sum(len(self.shard.unacked[n]) for n in (self.names if tables else nodes))

    def _refuse_if_halted(self, node: str) -> None:
        """A capture that has read on before it heard of the pause reads that again after it."""
        if node in self._refused & self._paused.keys():
            message = "the node is paused"
            raise Superseded(message, node=node)

    def _room(self, node: str) -> int:
        """How many rows more a target can take: none when its next batch is full, or too much on its way.

        Nobody waits for a target that is paused or away, or that catches up, until very much is on its way.
        """
        if self.shard.replaying:  # nothing is sent before every log was read as far as it had been
            return self.limits.max_backlog
        if node in self._paused:
            return self.limits.max_away - self.shard.backlog(node)
        waiting, enough = self.shard.waiting(node), self._sizes[node].rows
        if self.limits.whole:  # less room would cut a transaction
            lags = self._lags[node].look(waiting, self.limits.batch_rows)
            most = self.limits.max_away if lags else self.limits.max_backlog
            return self.limits.max_backlog if self.shard.backlog(node) < most else 0
        if self._lags[node].look(waiting, enough):
            return self.limits.max_away - self.shard.backlog(node)
        if self.shard.on_the_way(node) > self.limits.max_backlog:
            return 0
        room = enough - waiting
        return min(room, self.limits.max_away - self.shard.backlog(node)) if self._tables else room

    def heartbeat(self) -> None:
        """Store how far the logs have been read, though nothing is on its way.

        A node whose last batch left others behind that have no need to be sent any more hears so, too.
        """
        with self._lock:
            awake = [n for n in self.names if n not in self._paused]
            if awake and self.shard.idle:
                partly = [n for n in awake if n in self.shard.progress.partly]
                for node in dict.fromkeys([*partly, awake[0]]):
                    self._send(node, heartbeat=True)

    def stop(self) -> None:
        """Send nothing more; what is on its way may finish."""
        with self._lock:
            self._stopped = True

    def status(self) -> ShardStatus:
        """What an operator sees."""
        with self._lock:
            backlog = {n: self.shard.backlog(n) for n in self.names}
            tally = self._tally
            counts = tally.changes, tally.applied, tally.conflicts, tally.held
            lags = tuple(n for n in self.names if self._lags[n].since is not None)
            undecided, number = self.shard.undecided, self.shard.config.shard
            paused = dict(self._paused)
            held_back = {n: dict(self.shard.parked[n].by_table()) for n in self.names} if self._tables else {}
            return ShardStatus(
                number, self.shard.replaying, backlog, *counts, lags, undecided, paused,
                dict(self._tables), held_back, self.limits.max_away,
            )  # fmt: skip

    def on_applied(self, batch: ApplyBatch, answer: Future[Applied]) -> None:
        """An applier has answered."""
        try:
            applied = answer.result()
            if applied.outcome is Outcome.EARLY:
                self._too_early(batch)
                return
            if applied.outcome is Outcome.FENCED:
                message = f"batch {batch.marker.seq} of epoch {batch.marker.epoch} was refused"
                raise Fenced(message, node=batch.node)
        except Exception as error:  # noqa: BLE001  whatever ended the applier ends this incarnation
            self.fail(error)
            return
        with self._lock:
            refused = [(row.table, row.key) for row in applied.held]
            self.shard.on_ack(batch.node, batch.marker.seq, applied.kept, refused)
            self._early.discard(batch.marker.seq)
            self._sizes[batch.node].learn(batch.rows, applied.conflicts, batch.size)
            self._lags[batch.node].answer(more=bool(self.shard.unacked[batch.node]))
            lag = self._tally.answer(batch, applied)
            self._promptness.answered(batch.node, batch.marker.seq, lag)
            if applied.held:
                detail = {"node": batch.node, "rows": len(applied.held), "reason": applied.held[0].reason}
                log.warning("rows_held", extra=detail)
            durable = self.auditor.decisions(batch, applied)
            # The node keeps what it has found until it finds something in a later batch.
            self._await(durable, partial(self.shard.on_recorded, batch.node, batch.marker.seq), applied.held)
            self._pump()
            self._look()

    def measured(self) -> Measured:
        """What it has counted."""
        with self._lock:
            backlog = {n: self.shard.backlog(n) for n in self.names}
            return self._tally.measured(backlog, self.shard.undecided)

    def _look(self) -> None:
        for node in self.names:
            self._tally.look(node, self.shard.backlog(node))

    def _await(self, durable: Future[None], then: Callable[[], None], hold_back: object = False) -> None:
        """Go on with `then` once something is on record; no batch that is formed from now on is sent before
        that if `hold_back`. What becomes durable last was recorded last.
        """
        if hold_back:
            self._first = durable

        def recorded(done: Future[None]) -> None:
            if (error := done.exception()) is not None:
                self.fail(error)
                return
            with self._lock:
                then()

        durable.add_done_callback(recorded)

    def _too_early(self, batch: ApplyBatch) -> None:
        """Send a batch again that came before its predecessor, or find that the node has lost that one.

        An applier that was made again may take batches out of order. But if the predecessor was answered,
        and the node still lacks it, the node answered before it was on disk, and crashed.

        Raises:
            Fenced: the next incarnation goes on from what the node holds.
        """
        node, number, before = batch.node, batch.marker.seq, batch.marker.after
        with self._lock:
            lost = number in self._early and before not in self.shard.unacked[node]
            self._early.add(number)
        if lost:
            message = f"{node} has lost batch {before}, which it had committed, in a crash"
            raise Fenced(message, node=node)
        self._submit(batch)

    def _take(self, node: str, event: LogEvent) -> None:
        self._watches.note(event)
        if isinstance(event, Changes):
            self._tally.take(node, event)
            rows = [ChangeRows(t.table, t.rows) for t in event.tables]
            number = self.shard.on_changes(node, rows, event.end)
            size = event.size
            self._unrecorded += size
            durable = self.auditor.changes(node, self.shard.config.shard, event)
            self._await(durable, partial(self._recorded, number, size))
        elif isinstance(event, Echo):
            self._take_echo(node, event)
        elif isinstance(event, Unreadable):
            self._hold(node, event)
        elif isinstance(event, SchemaChange):
            number = self.shard.on_changes(node, [], event.end)
            durable = self.auditor.schema_change(node, event)
            self._await(durable, partial(self.shard.on_audited, number))
        else:
            self.shard.on_progress(node, event.end)

    def _recorded(self, number: int, size: int) -> None:
        self._unrecorded -= size
        self.shard.on_audited(number)

    def _take_echo(self, node: str, echo: Echo) -> None:
        """See our own batch in a log; while replaying, it may be that nobody received the node's answer."""
        marker = echo.marker
        if not self.shard.replaying:
            self.shard.on_echo(node, marker, echo.end)
            return
        self.shard.on_echo(node, marker, echo.end, echoed_rows(echo, self.schemas, self.names))
        held = Findings.load(text, marker).held if (text := self._findings.get(node)) else []
        durable = self.auditor.echoed(node, marker, held)
        self._await(durable, partial(self.shard.on_recorded, node, marker.seq), held)

    def _hold(self, node: str, event: Unreadable) -> None:
        """Pass over a change that cannot be read, once that is on record."""
        self._tally.refuse(node, event.table)
        log.warning("change_held", extra={"node": node, "table": event.table, "reason": event.reason})
        number = self.shard.on_changes(node, [], event.end)
        durable = self.auditor.unreadable(node, event)
        self._await(durable, partial(self.shard.on_audited, number))

    def _record_conflicts(self) -> None:
        """A successor that learns the outcome from an echo does not see the conflict again."""
        if self.shard.conflicts:
            found, self.shard.conflicts = self.shard.conflicts, []
            self._tally.settle(found)
            durable = self.auditor.conflicts(found)
            self._await(durable, partial(self._rest, [c for c in found if not c.winner]), hold_back=True)

    def _rest(self, undecided: Sequence[Conflict]) -> None:
        for conflict in undecided:
            self.shard.hold_recorded(conflict.table, conflict.key)
        if undecided:
            log.warning("keys_on_hold", extra={"keys": len(undecided), "table": undecided[0].table})

    def _pump(self) -> None:
        for node in self.names:
            while self._send(node):
                pass

    def _send(self, node: str, *, heartbeat: bool = False) -> bool:
        rows = None if self.limits.whole else self._sizes[node].rows
        silent = self._stopped or node in self._paused
        outgoing = None if silent else self.shard.form_batch(node, heartbeat=heartbeat, rows=rows)
        if outgoing is None:
            return False
        self._lags[node].ask()
        batch = to_apply_batch(outgoing, self.schemas, self.names)
        if self._first is None or self._first.done():
            self._submit(batch)
        else:
            # Formed now, since records that come one after the other would leave no moment without any.
            self._first.add_done_callback(partial(self._submit_after, batch))
        return True

    def _submit_after(self, batch: ApplyBatch, recorded: Future[None]) -> None:
        if recorded.exception() is None and not self._stopped:
            self._submit(batch)

    def _submit(self, batch: ApplyBatch) -> None:
        with self._lock:
            self._promptness.asked(batch.node, batch.marker.seq)
        answer = self.targets[batch.node].submit(batch)
        answer.add_done_callback(lambda done: self.on_applied(batch, done))


def _notes(event: LogEvent) -> bool:
    """Whether it only puts on record what another event of the same place did."""
    return isinstance(event, SchemaChange)
