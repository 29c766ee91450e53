"""One resolver shard: the conflict core's state machine (DESIGN section 4).

Pure: positions and changes in; batches, conflicts and a resume vector out. It owns every key that hashes
to it, in the log of every node. It never waits, never asks a clock and does no I/O, so the same inputs
give the same outputs and a property test can drive it through any interleaving.

Lifecycle: made with the markers read from every node; while `replaying` it only rebuilds what its
predecessor knew, forms no batch and forgets no key; then it runs until it is fenced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from replication.change import Op
from replication.conflict.bookkeeping import Bookkeeping
from replication.conflict.decide import Decision, decide, same_dot
from replication.conflict.exchange import EchoedRow, Outgoing
from replication.conflict.rows import (
    Arrival,
    ChangeRows,
    KeyState,
    Run,
    SentBatch,
    at_least,
    is_rival,
    read_version,
    split_keys,
)
from replication.conflict.version import Version
from replication.errors import Fenced
from replication.marker import Marker
from replication.position import Position


class Shard(Bookkeeping):
    """The state machine. Made as `Bookkeeping` is."""

    # -- input ---------------------------------------------------------------------------------

    def on_changes(self, node: str, tables: Iterable[ChangeRows], end: Position) -> int:
        """Changes that applications made at `node`, up to and including `end`.

        Returns the arrival's number, which the caller confirms with `on_audited` once it is on record.
        """
        arrival = self.progress.arrive(node)
        for rows in tables:
            self._take(node, rows, arrival)
        self._advance(node, end)
        return arrival.number

    def on_echo(self, node: str, marker: Marker, end: Position, rows: Sequence[EchoedRow] = ()) -> None:
        """Our own batch seen in `node`'s log: from here on that node has absorbed the batch's cut.

        Args:
            node: whose log it is.
            marker: the batch's marker; `versions` is not read here.
            end: the echo's position.
            rows: what the batch wrote; needed only while replaying.

        The log is not released until `on_recorded` says that the batch is on record.

        Raises:
            Fenced: the marker is of a newer incarnation of this shard.
        """
        if marker.epoch > self.epoch:
            message = f"shard {marker.shard} was replaced by epoch {marker.epoch}"
            raise Fenced(message, node=node, position=end.order)
        batch = self.outstanding[node].get(marker.seq)
        if self.replaying or (batch and not batch.recorded):
            self.unrecorded[node, marker.seq] = self.progress.keep(node)
        self.progress.absorb(node, marker)
        if self.replaying:
            for row in rows:
                self._replay_echo(node, marker, row)
        elif batch is not None:
            batch.show()
            if marker.seq not in self.unacked[node]:
                self._finish(batch)
        self._advance(node, end)

    def on_progress(self, node: str, end: Position) -> None:
        """Nothing for this shard in `node`'s log up to `end`."""
        self._advance(node, end)

    def on_ack(
        self,
        node: str,
        seq: int,
        kept: Mapping[tuple[str, bytes], bool] | None = None,
        refused: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """`node` has committed the batch `seq`; its echo may be still to come.

        Args:
            node: the node.
            seq: the batch.
            kept: as in `Applied`.
            refused: table and key of the rows that it refuses.
        """
        if batch := self.unacked[node].pop(seq, None):
            batch.kept, batch.refused = kept or {}, frozenset(refused)
            self._note_refused(node, batch)
            if batch.shown:
                self._finish(batch)

    def on_audited(self, number: int) -> None:
        """Everything up to the arrival `number` is on record and may be released."""
        self.progress.audited = max(self.progress.audited, number)

    def on_recorded(self, node: str, seq: int) -> None:
        """What became of the batch `seq` of `node` is on record, of this incarnation or a predecessor."""
        if arrival := self.unrecorded.pop((node, seq), None):
            arrival.live -= 1
        elif batch := self.outstanding[node].get(seq):
            batch.recorded = True

    # -- output --------------------------------------------------------------------------------

    def form_batch(self, node: str, *, heartbeat: bool = False, rows: int | None = None) -> Outgoing | None:
        """The next batch for `node`, or None if there is nothing to send or too much on its way.

        Only if it takes everything that waits for the node does its cut say what the node will have seen. One
        that leaves rows behind has the cut of the one before, and says what was weighed for its own keys.

        Args:
            node: the node to write to.
            heartbeat: form a batch even without rows, to store how far the logs have been read.
            rows: take about so many at most; None for all.
        """
        if self.replaying or len(self.unacked[node]) >= self.config.pipeline:
            return None
        queue, outbox = self.run_queue[node], self.outbox[node]
        if not queue and not outbox and not (heartbeat and not self.outstanding[node]):
            return None
        self.seq += 1
        cut, resume, absorbed, echoed = self.progress.vectors()
        batch = SentBatch(node, self.seq, cut, resume)
        batch.take(queue, outbox, rows)
        batch.part |= bool(self.parked[node])
        if not batch.part:
            self.reached[node] = cut
        marker = Marker(
            self.config.group, self.config.shard, self.config.shards, self.epoch, self.seq, self.sent[node],
            self.reached[node], resume, absorbed, echoed, cut if batch.part else {},
        )  # fmt: skip
        self.sent[node] = batch.seq
        self.outstanding[node][batch.seq] = self.unacked[node][batch.seq] = batch
        return Outgoing(
            node,
            marker,
            batch.runs,
            [frozenset(r.promoted) for r in batch.runs],
            [(s.table, s.key, batch.version_of(s)) for s in batch.states],
        )

    # -- a write -------------------------------------------------------------------------------

    def _take(self, node: str, rows: ChangeRows, arrival: Arrival) -> None:
        """Split a batch into a run of untouched keys and single writes of the others.

        Rows that the node's own filter excludes go singly: the node has to lose them. Copied ones stay.
        """
        if rows.given:
            rows.strays = strays = frozenset(range(len(rows.keys)))
        elif strays := self._strays(node, rows):
            if rows.ops[0] == Op.READ:
                rows, strays = rows.select([i for i in range(len(rows.keys)) if i not in strays]), frozenset()
            rows.strays = strays
        known, keys = self.keys[rows.table], rows.keys
        apart = strays | self._refused_among(rows.table, keys)
        lone, met = ([], list(range(len(keys)))) if self.replaying else split_keys(keys, known, apart)
        absorbed, rank = self.progress.absorbed[node], self.config.nodes[node]
        whole = rows if len(lone) == len(keys) else rows.select(lone)
        for piece in whole.pieces(self.config.run_rows) if lone else ():
            run = Run(node, piece, arrival, absorbed, rank, len(self.nodes) - 1)
            known.update(dict.fromkeys(piece.keys, run))
            for other in self.nodes:
                if other != node:
                    self._put_in_line(other, run)
        arrival.live += len(lone)
        for index in met:
            self._write(node, rows, index, arrival)

    def _strays(self, node: str, rows: ChangeRows) -> frozenset[int]:
        find = self.config.strays.get((node, rows.table))
        return find(rows) if find else frozenset()

    def _write(self, node: str, rows: ChangeRows, index: int, arrival: Arrival) -> None:
        key = rows.keys[index]
        state = self.keys[rows.table].get(key)
        if self._is_settled(state, node, rows.ops[index]):
            state = None
        if rows.ops[index] == Op.READ and state and not is_rival(state, key, node, replaying=self.replaying):
            return
        policies = self.config.policies[rows.table]
        absorbed, rank = self.progress.absorbed[node], self.config.nodes[node]
        if state and node in state.shown:
            absorbed = at_least(absorbed, state.shown[node])
        write = read_version(node, rows, index, absorbed, rank, fields=policies.merge)
        if key in self.refused[rows.table] and not (write.op is Op.DELETE or write.whole or policies.merge):
            write.layers = ()  # to be read where it was written
        if isinstance(state, Run):
            state = self._promote(state, key)
        if state is None:
            state = self.keys[rows.table][key] = KeyState(rows.table, key, write)
            self._note(state, write, arrival)
            self._send_on(state, write)
        elif state.held:
            self._write_held(state, write)
            self._note(state, write, arrival)
        else:
            if not self.replaying:
                state.meet(write)
            self._weigh(state, write, arrival)
        self._forget_if_finished(state)

    def _weigh(self, state: KeyState, write: Version, arrival: Arrival | None = None) -> None:
        """Decide about one more write of a key that is on its way; without `arrival` one that is known."""
        decision = self._decide(state, write)
        state.version = decision.version
        if decision.held:
            self._set_aside(state, write)
        if decision.held and self.replaying:
            assert decision.conflict is not None
            self.doubtful[state] = decision.conflict
        elif decision.conflict:
            self.conflicts.append(decision.conflict)
        if arrival:
            self._note(state, write, arrival)
        if not state.held:
            self._send_on(state, write, lost=decision.lost, clash=decision.clash)

    def _note(self, state: KeyState, write: Version, arrival: Arrival) -> None:
        if write.node not in state.first:
            arrival.live += 1
        state.note(write, arrival)

    def _send_on(self, state: KeyState, write: Version, *, lost: bool = False, clash: bool = False) -> None:
        """Say which nodes must be sent what was decided when a write came; see `Decision`."""
        for other in self.nodes:
            if clash and (other != write.node or lost):  # a predecessor may have come to another winner
                self._want(other, state, wanted=True)
            elif other == write.node:
                self._want_back(state, write, lost=lost)
            elif write.order > self._applied(other, state)[write.node]:
                self._want_unless_sent(other, state)

    def _decide(self, state: KeyState, write: Version) -> Decision:
        return decide(state, write, self.config.policies[state.table], self.config.nodes)

    def _promote(self, run: Run, key: bytes) -> KeyState:
        """Give a key of a run a state of its own, because a second write has met it."""
        index, merge = run.index(key), self.config.policies[run.rows.table].merge
        version = run.version(index, fields=merge)
        state = KeyState(run.rows.table, key, version)
        state.shown = dict(run.shown)
        state.note(version, run.arrival)
        for node in self.nodes:
            if node == run.node:
                continue
            if (batch := run.sent.get(node)) is None:
                self._want(node, state, wanted=True)
                continue
            state.sent[node] = batch.seq
            if batch.seq in self.outstanding[node]:
                batch.states.append(state)
                state.pending += 1
        run.promoted.add(index)
        self.keys[run.rows.table][key] = state
        return state

    # -- an echo -------------------------------------------------------------------------------

    def _finish(self, batch: SentBatch) -> None:
        """A node's log has shown a batch: what it carried is done there, unless more came meanwhile.

        Only now is it certain to outlive a crash: a node may answer a commit before it is on disk.
        """
        self.progress.committed(batch.seq, batch.resume)
        del self.outstanding[batch.node][batch.seq]
        for (table, key), differs in batch.kept.items():
            run = self.keys[table].get(key)
            if differs and isinstance(run, Run) and run.sent.get(batch.node) is batch:
                # Nothing that was written there before the batch met this key: it differed from the start.
                self._want(batch.node, self._promote(run, key), wanted=True)
        for state in batch.states:
            state.pending -= 1
            ident, newest = (state.table, state.key), state.sent[batch.node] == batch.seq
            if ident in batch.refused and newest:
                state.version.stray = False  # a row that another node refuses stays where it was written
            if state.held:
                if ident not in batch.kept:
                    self._give_back(batch.node, state, batch.cut)
            elif ident in batch.kept:
                if batch.kept[ident] and newest:  # else what was decided meanwhile is on its way
                    # Nobody has inserted anew what the delete was to take, so it was that row after all.
                    put = state.put.pop(batch.node, None)
                    missed = put in batch.takes and state.version.op is Op.DELETE
                    self._want(batch.node, state, wanted=missed or not state.is_last(batch.node))
            elif state.last.get(batch.node, 0) > batch.cut[batch.node]:
                self._want(batch.node, state, wanted=True)  # it overwrote a write it had not seen
            elif batch.seq > state.decided and state.known_by(batch.cut):
                self._want(batch.node, state, wanted=False)
            self._forget_if_finished(state)
        runs, batch.runs = batch.runs, []  # one that goes on has its batches, which must not keep the others
        for run in runs:
            run.pending -= 1
            if run.pending == 0:
                run.forget(self.keys[run.rows.table])

    def _replay_echo(self, node: str, marker: Marker, row: EchoedRow) -> None:
        """Learn from a predecessor's batch what it had decided."""
        state = self.keys[row.table].get(row.key)
        assert not isinstance(state, Run)
        decided = row.version
        decided.absorbed = cut = marker.own_cut
        later: list[Version] = []
        if state is not None and state.held:
            if not self._was_decided(state, cut):
                self._give_back(node, state, cut)
                return
            later = self._take_up(state, decided)
            state.decided, state.decided_cut, decided.learnt = marker.seq, cut, True
        if state is None:
            state = self.keys[row.table][row.key] = KeyState(row.table, row.key, decided)
            state.decided, state.decided_cut, decided.learnt = marker.seq, cut, True
        if marker.weighed:
            state.shown[node] = cut
        if state.last.get(node, 0) > cut[node]:
            self._want(node, state, wanted=True)
        elif marker.seq > state.decided and state.known_by(cut):
            decided.fields = state.version.fields
            whole = state.version.whole and not self.config.policies[row.table].merge
            if whole and same_dot(decided, state.version):
                decided.layers = state.version.layers  # as it was written, not as this node holds it
            elif not decided.layers and state.stray and same_dot(decided, state.stray):
                decided.layers = state.stray.layers
            if same_dot(decided, state.version):
                decided.stray = state.version.stray and node != decided.node
            else:  # replay had come to another winner
                for other in self.nodes:
                    self._want_unless_sent(other, state)
            state.version = decided
            decided.learnt = True
            state.decided, state.decided_cut = marker.seq, cut
            self._want(node, state, wanted=False)
        elif not same_dot(decided, state.version):
            self._want_unless_sent(node, state)  # it holds a decision that a write has since overturned
        elif not self.config.policies[row.table].merge:
            self._want(node, state, wanted=False)  # it holds just that
        for write in later:
            self._weigh(state, write)

    # -- the place in a log -------------------------------------------------------------------

    def _advance(self, node: str, end: Position) -> None:
        replaying = self.replaying
        self.progress.advance(node, end)
        if replaying and not self.replaying:
            self.conflicts += self.doubtful.values()
            self.doubtful.clear()
            for table in self.keys.values():
                for state in [s for s in table.values() if isinstance(s, KeyState)]:
                    self._forget_if_finished(state)
