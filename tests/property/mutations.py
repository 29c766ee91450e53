"""The core with one rule switched off at a time. The schedules must notice every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from replication.change import Op
from replication.conflict.decide import Decision
from replication.conflict.progress import Progress
from replication.conflict.rows import Arrival, KeyState, Run, SentBatch
from replication.conflict.version import Version
from replication.marker import Marker
from tests.property.checked import CheckedShard
from tests.property.databases import FIELDS, Database, Kept, Rows, Sent
from tests.property.mutations_pause import PausedRowsCountAsSent, ResumedRowsAreLost
from tests.property.scenario import Scenario


class NoEpochFence(Database):
    """A replaced resolver can still commit."""

    def apply(self, batch: Sent) -> Kept:
        return super().apply(replace(batch, marker=replace(batch.marker, epoch=self.epoch)))


class NoPredecessorCheck(Database):
    """A node takes a batch although it lacks the one before."""

    def apply(self, batch: Sent) -> Kept:
        return super().apply(replace(batch, marker=replace(batch.marker, after=self.marker.seq)))


class MarkerApartFromData(Database):
    """The marker of every other batch is lost: data without its marker."""

    def apply(self, batch: Sent) -> Kept:
        before = self.marker
        done = super().apply(batch)
        if done is not None and batch.marker.seq % 2:
            self.marker = before
        return done


class EchoTeachesNothing(CheckedShard):
    """An echo does not say what its node has absorbed."""

    def on_echo(self, node: str, marker: Marker, *args: Any, **kwargs: Any) -> None:
        super().on_echo(node, replace(marker, cut=dict.fromkeys(marker.cut, 0)), *args, **kwargs)


class OverwrittenWriteForgotten(CheckedShard):
    """A batch that overwrote a write it had not seen is not sent again."""

    def _finish(self, batch: SentBatch) -> None:
        super()._finish(replace(batch, cut=dict.fromkeys(batch.cut, 1 << 60)))


class LoserKeepsItsRow(CheckedShard):
    """The winner is not written back to the node whose write lost."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        return replace(super()._decide(state, write), lost=False)


class ClashStaysHome(CheckedShard):
    """After a conflict the other nodes are not sent the outcome."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        decision = super()._decide(state, write)
        if decision.clash and decision.lost:
            for node in self.nodes:
                self._want(node, state, wanted=False)
        return replace(decision, clash=False) if decision.lost else decision


class ForgottenWhenSent(CheckedShard):
    """A key is forgotten before the log of its node has shown it."""

    def form_batch(self, *args: Any, **kwargs: Any) -> Any:
        outgoing = super().form_batch(*args, **kwargs)
        if outgoing:
            for state in [
                s for _, k, _ in outgoing.versions if isinstance(s := self.keys["t"].get(k), KeyState)
            ]:
                state.pending -= 1
                self._forget_if_finished(state)
        return outgoing

    def _finish(self, batch: SentBatch) -> None:
        states, batch.states = batch.states, []
        super()._finish(batch)
        batch.states = states


class PromotedKeyLosesItsBatch(CheckedShard):
    """A key of a run that meets a second write does not remember the batch that it is in."""

    def _promote(self, run: Run, key: bytes) -> KeyState:
        run.sent = {}
        return super()._promote(run, key)


class RunForgotAtFirstEcho(CheckedShard):
    """A run is forgotten when the first of two nodes has shown it."""

    def _finish(self, batch: SentBatch) -> None:
        for run in batch.runs:
            run.pending = min(run.pending, 1)
        batch.runs = [r for r in batch.runs if r.pending]
        super()._finish(batch)


class CopiesAreWrites(CheckedShard):
    """A row of an initial copy competes like a write."""

    def _write(self, node: str, rows: Rows, index: int, arrival: Arrival) -> None:
        rows.ops = [Op.UPDATE if op == Op.READ else op for op in rows.ops]
        super()._write(node, rows, index, arrival)


class KeptRowsStay(CheckedShard):
    """A row that differed before the group began is never replaced."""

    def on_ack(self, node: str, seq: int, kept: Mapping[tuple[str, bytes], bool] | None = None) -> None:
        super().on_ack(node, seq)


class KeptRowsGoTwice(CheckedShard):
    """A row that was kept is sent again although what was decided meanwhile is on its way."""

    def _finish(self, batch: SentBatch) -> None:
        for state in batch.states:
            state.sent[batch.node] = batch.seq
        super()._finish(batch)


class OwnDeleteTakesAnyRow(CheckedShard):
    """The delete of a row that came back takes whatever its node holds by now."""

    def form_batch(self, *args: Any, **kwargs: Any) -> Any:
        outgoing = super().form_batch(*args, **kwargs)
        for _, _, version in outgoing.versions if outgoing else ():
            if version.op is Op.DELETE:
                version.layers = ()
        return outgoing


class SentAgainAfterRestart(CheckedShard):
    """A restarted shard does not look at what a node has received already."""

    def _want_unless_sent(self, node: str, state: KeyState) -> None:
        self._want(node, state, wanted=True)


class LoserTakesItsColumns(CheckedShard):
    """A column that the winner left alone is not sent on from the write that it beat."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        decision = super()._decide(state, write)
        if decision.conflict:
            decision.version.layers = decision.version.layers[:1]
        return decision


class ResumesAtProgress(CheckedShard):
    """The marker says to resume at the last position read, though keys are unfinished."""

    def form_batch(self, *args: Any, **kwargs: Any) -> Any:
        outgoing = super().form_batch(*args, **kwargs)
        if outgoing:
            marker = replace(outgoing.marker, resume=dict(self.progress.position))
            outgoing = replace(outgoing, marker=marker)
        return outgoing


class ReleasedWhenCommitted(CheckedShard):
    """A log is released as soon as a node has answered, though a crash may undo what is not on disk."""

    def on_ack(self, node: str, seq: int, *args: Any) -> None:
        batch = self.unacked[node].get(seq)
        super().on_ack(node, seq, *args)
        if batch:
            self.progress.committed(seq, batch.resume)


class ReleasedBeforeItIsOnRecord(CheckedShard):
    """A log is released although what became of a batch that it shows is not on record yet."""

    def on_echo(self, node: str, marker: Marker, *args: Any, **kwargs: Any) -> None:
        super().on_echo(node, marker, *args, **kwargs)
        self.on_recorded(node, marker.seq)


class PartClaimsEverything(CheckedShard):
    """A batch that left others behind has the cut of one that took all."""

    def form_batch(self, *args: Any, **kwargs: Any) -> Any:
        outgoing = super().form_batch(*args, **kwargs)
        if outgoing:
            marker = replace(outgoing.marker, cut=outgoing.marker.own_cut, weighed={})
            outgoing = replace(outgoing, marker=marker)
        return outgoing


class PartTeachesNothing(CheckedShard):
    """The echo of a batch that left others behind does not say what its node has seen of its own keys."""

    def on_echo(self, node: str, marker: Marker, *args: Any, **kwargs: Any) -> None:
        if batch := self.outstanding[node].get(marker.seq):
            batch.part = False
        super().on_echo(node, marker, *args, **kwargs)


class PartIsNotReadAgain(CheckedShard):
    """A restart reads a log from after the echo of a batch that left others behind."""

    def on_echo(self, node: str, marker: Marker, *args: Any, **kwargs: Any) -> None:
        super().on_echo(node, marker, *args, **kwargs)
        if part := self.progress._parts.pop(node, None):
            part.live = 0


class ReplayForgetsAbsorbed(CheckedShard):
    """A restart does not restore what each log had absorbed at its resume position."""

    def __init__(self, config: Any, epoch: int, markers: dict[str, Marker], *args: Any) -> None:
        super().__init__(config, epoch, {n: replace(m, absorbed={}) for n, m in markers.items()}, *args)


class NoReplay(CheckedShard):
    """A restarted shard writes before it knows what its predecessor knew."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.progress.replaying = False


class ReplayIgnoresDecisions(CheckedShard):
    """A restarted shard learns nothing from the rows of its predecessor's batches."""

    def _replay_echo(self, node: str, marker: Marker, row: Any) -> None:
        """Skip it."""


class HybridTimeNotRaised(CheckedShard):
    """A write keeps its own clock although it saw a later one."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        own = write.time
        decision = super()._decide(state, write)
        write.time = own
        return decision


class AbsorbsTooMuch(Progress):
    """An echo is taken to say that its node has seen everything the shard has."""

    def absorb(self, node: str, marker: Marker) -> None:
        super().absorb(node, replace(marker, cut={n: p.order for n, p in self.position.items()}))


class CutTooHigh(CheckedShard):
    """The shard's vectors take an echo for more than it says."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.progress.__class__ = AbsorbsTooMuch


class ColumnsForgetTheirWriter(CheckedShard):
    """A merge does not know who set a column."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        state.version.fields = {}
        return super()._decide(state, write)


class EveryColumnChanged(CheckedShard):
    """A merge takes the whole row of each write for changed."""

    def _decide(self, state: KeyState, write: Version) -> Decision:
        write.changed = -1
        write.fields = dict.fromkeys([-1], next(iter(write.fields.values())))
        return super()._decide(state, write)


class FilteredDeleteIsADelete(CheckedShard):
    """An echo of a row that the node's filter excludes is taken for a delete by an application."""

    def _replay_echo(self, node: str, marker: Marker, row: Any) -> None:
        if row.outside:
            row = replace(row, version=replace(row.version, op=Op.DELETE))
            self.learn(row.version, (frozenset(),) * FIELDS)
        super()._replay_echo(node, marker, row)


class OwnStraysStay(CheckedShard):
    """A write that leaves the filter of its own node stays there."""

    def _strays(self, node: str, rows: Any) -> frozenset[int]:
        return frozenset()


class StraysLeaveAtOnce(CheckedShard):
    """A write that its own node's filter excludes is deleted there before the others have it."""

    def _write(self, node: str, rows: Rows, index: int, arrival: Arrival) -> None:
        super()._write(node, rows, index, arrival)
        state = self.keys["t"].get(rows.keys[index])
        if isinstance(state, KeyState) and state.version.stray:
            self._want(node, state, wanted=True)
            state.stray = None


class StraysForgottenByRestart(CheckedShard):
    """A restarted shard takes what another node's echo says of a stray row for the end of it."""

    def _replay_echo(self, node: str, marker: Marker, row: Any) -> None:
        super()._replay_echo(node, marker, row)
        self.keys["t"][row.key].version.stray = False


@dataclass(frozen=True)
class Mutation:
    """One rule switched off, and the policies under which it matters; `first` is the first seed to try."""

    name: str
    build: Callable[[int], Scenario]
    first: int = 0


def mutation(
    kind: type, *policies: str, filtered: bool = False, first: int = 0, pauses: bool = False
) -> Mutation:
    names = policies or ("last_write_wins",)

    def build(seed: int) -> Scenario:
        nodes = 2 + seed % 2
        if issubclass(kind, Database):
            return Scenario(seed, nodes, names, database=kind)
        return Scenario(seed, nodes, names, shard=kind, filtered=filtered, pauses=pauses)

    return Mutation(kind.__name__, build, first)


MUTATIONS = [
    mutation(NoEpochFence),
    mutation(NoPredecessorCheck),
    mutation(MarkerApartFromData),
    mutation(EchoTeachesNothing),
    mutation(OverwrittenWriteForgotten),
    mutation(LoserKeepsItsRow),
    mutation(ClashStaysHome),
    mutation(ForgottenWhenSent),
    mutation(PromotedKeyLosesItsBatch),
    mutation(RunForgotAtFirstEcho),
    mutation(ResumesAtProgress),
    mutation(ReleasedWhenCommitted, first=340),
    mutation(ReleasedBeforeItIsOnRecord),
    mutation(PartClaimsEverything),
    mutation(PausedRowsCountAsSent, pauses=True),
    mutation(ResumedRowsAreLost, pauses=True),
    mutation(PartTeachesNothing),
    mutation(PartIsNotReadAgain, first=170),
    mutation(ReplayForgetsAbsorbed),
    mutation(NoReplay),
    mutation(ReplayIgnoresDecisions),
    mutation(HybridTimeNotRaised),
    mutation(CutTooHigh),
    mutation(CopiesAreWrites),
    mutation(KeptRowsStay, first=290),
    mutation(KeptRowsGoTwice, first=1600),
    mutation(OwnDeleteTakesAnyRow, first=6500),
    mutation(SentAgainAfterRestart, first=1000),
    mutation(LoserTakesItsColumns),
    mutation(ColumnsForgetTheirWriter, "merge_fields", first=440),
    mutation(EveryColumnChanged, "merge_fields"),
    mutation(FilteredDeleteIsADelete, filtered=True, first=820),
    mutation(OwnStraysStay, filtered=True),
    mutation(StraysLeaveAtOnce, "source_priority", filtered=True),
    mutation(StraysForgottenByRestart, filtered=True, first=430),
]
