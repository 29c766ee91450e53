"""What a shard remembers: keys on their way, keys on hold, what waits for each node and what is under way.

**A key on hold** (policy `manual`) met two writes neither of which saw the other. Nothing more is sent of it.
A node that wrote it holds what it wrote last: where a batch that was under way has replaced that, it is sent
back. A node that did not keeps what it has. What is written meanwhile is in the row of its node and nowhere
else. Once that is done, and the conflict is on record, the logs are released and nothing but the key is kept,
until somebody settles the conflict and sends one node's row to the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from replication.change import Op
from replication.clock import tick
from replication.conflict.decide import Conflict
from replication.conflict.exchange import ShardConfig
from replication.conflict.parking import Parked
from replication.conflict.progress import Progress
from replication.conflict.rows import Arrival, KeyState, Run, SentBatch, at_least
from replication.conflict.version import Version, stack
from replication.marker import Marker, Vector

TableKeys = dict[bytes, Run | KeyState]
NOTHING = Version("", 0, 0, Op.READ, {})
"""Stands for the version of a key at rest on hold."""


class Bookkeeping:
    """The memory of a shard; `Shard` says when to change what.

    Args:
        config: what this shard is.
        epoch: the epoch that every node's marker has been raised to.
        markers: each node's marker, as read after raising the epoch.
        held: table and key of what is on hold.
        refused: table and key of rows that nodes have refused, and those nodes.
    """

    def __init__(
        self,
        config: ShardConfig,
        epoch: int,
        markers: Mapping[str, Marker],
        held: Iterable[tuple[str, bytes]] = (),
        refused: Mapping[tuple[str, bytes], Iterable[str]] | None = None,
    ) -> None:
        self.config = config
        self.epoch = epoch
        self.nodes = list(config.nodes)
        self.progress = Progress(self.nodes, markers)
        self.seq = max(m.seq for m in markers.values())
        self.sent = {n: markers[n].seq for n in self.nodes}
        self.reached: dict[str, Vector] = dict(self.progress.applied)
        self.keys: dict[str, TableKeys] = {t: {} for t in config.policies}
        self.run_queue: dict[str, deque[Run]] = {n: deque() for n in self.nodes}
        self.outbox: dict[str, dict[KeyState, None]] = {n: {} for n in self.nodes}
        self.parked = {n: Parked() for n in self.nodes}
        self.paused_tables: frozenset[str] = frozenset()
        self.outstanding: dict[str, dict[int, SentBatch]] = {n: {} for n in self.nodes}
        self.unacked: dict[str, dict[int, SentBatch]] = {n: {} for n in self.nodes}
        self.unrecorded: dict[tuple[str, int], Arrival] = {}
        self.conflicts: list[Conflict] = []
        self.doubtful: dict[KeyState, Conflict] = {}  # a person is asked, unless replay tells more
        self.resting: set[KeyState] = set()
        self.refused: dict[str, dict[bytes, set[str]]] = {t: {} for t in config.policies}
        for (table, key), lacking in (refused or {}).items():
            if table in self.refused:
                self.refused[table][key] = set(lacking)
        for table, key in held:
            if table in self.keys:
                state = self.keys[table][key] = KeyState(table, key, NOTHING, held=True, on_record=True)
                self._forget_if_finished(state)

    @property
    def replaying(self) -> bool:
        """Whether it still rebuilds what its predecessor knew."""
        return self.progress.replaying

    def waiting(self, node: str) -> int:
        """Rows that the next batch for `node` will have."""
        return sum(r.live for r in self.run_queue[node]) + len(self.outbox[node])

    def on_the_way(self, node: str) -> int:
        """Rows that wait for `node` or that it has not committed yet, without those of paused tables."""
        return self.waiting(node) + sum(b.rows for b in self.unacked[node].values())

    def held_back(self, node: str) -> int:
        """About how many rows wait for `node` because their table is paused."""
        return self.parked[node].rows + len(self.parked[node].states)

    def backlog(self, node: str) -> int:
        """Rows that wait for `node`, for whatever reason, or that it has not committed yet."""
        return self.on_the_way(node) + self.held_back(node)

    @property
    def idle(self) -> bool:
        """Whether no key is on its way."""
        return sum(map(len, self.keys.values())) == len(self.resting)

    # -- a table that is paused ----------------------------------------------------------------

    def pause_tables(self, tables: Iterable[str]) -> None:
        """Send nothing of these tables, and of all others what waits. Their changes are taken on as ever.

        A batch that leaves such rows behind is one that takes a part; see ADR 8.
        """
        self.paused_tables = frozenset(tables)
        self._sort()

    def _sort(self) -> None:
        for node, parked in self.parked.items():
            parked.sort(self.run_queue[node], self.outbox[node], self._parks)

    def _parks(self, item: Run | KeyState) -> bool:
        """Whether it is not to be sent now."""
        return (item.rows.table if isinstance(item, Run) else item.table) in self.paused_tables

    def _put_in_line(self, node: str, run: Run) -> None:
        if self._parks(run):
            self.parked[node].add(run)
        else:
            self.run_queue[node].append(run)

    # -- a key on hold -------------------------------------------------------------------------

    @property
    def undecided(self) -> int:
        """How many keys are on hold, once nothing of them is on its way."""
        return len(self.resting)

    def hold_recorded(self, table: str, key: bytes) -> None:
        """The conflict that put a key on hold is on record."""
        state = self.keys[table].get(key)
        if isinstance(state, KeyState) and state.held:
            state.on_record = True
            self._forget_if_finished(state)

    def settle(self, table: str, key: bytes, node: str, read: Vector) -> bool:
        """Let the next row that is copied from `node` decide a key on hold; until then it stays on hold.

        Args:
            table: canonical table name.
            key: canonical key.
            node: whose row it will be.
            read: for each node, the order of the newest write in the conflicts that put it on hold. A shard
                that has not read so far again would find the same conflict once more.

        Returns:
            whether it will; if not, ask again later.
        """
        position = self.progress.position
        if self.replaying or any(position[n].order < order for n, order in read.items()):
            return False
        state = self.keys[table].get(key)
        if isinstance(state, KeyState) and state.held:
            if state not in self.resting:
                return False
            state.settled_by = node
        return True

    def moves(self, table: str, key: bytes) -> bool:
        """Whether anything of a key is on its way. A key on hold rests once nothing is."""
        state = self.keys[table].get(key)
        return state is not None and not (isinstance(state, KeyState) and state in self.resting)

    def settled_up_to(self, table: str, key: bytes) -> dict[str, int] | None:
        """Up to where each log must be released until nothing that a settled key has met is read again.

        A write of before would be in conflict with those that follow the row that was taken, since a node
        whose own row that was has not been sent it.

        Returns:
            None while the row that is to decide the key has not come.
        """
        state = self.keys[table].get(key)
        if isinstance(state, KeyState) and state.settled_by:
            return None
        return {n: p.order for n, p in self.progress.position.items()}

    def _is_settled(self, state: KeyState | Run | None, node: str, op: int) -> bool:
        """Whether a row of `node` ends a hold; the key is forgotten then, and the row is like any other."""
        if not isinstance(state, KeyState) or state.settled_by != node or op not in (Op.READ, Op.DELETE):
            return False
        self.resting.discard(state)
        del self.keys[state.table][state.key]
        return True

    def _set_aside(self, state: KeyState, write: Version) -> None:
        """Two writes of a key await a decision."""
        state.held = True
        state.own = {v.node: v for v in (state.version, write)}
        for node in self.nodes:
            replaced = node in state.own and (self.replaying or node in state.sent)
            if not replaced:
                self._want(node, state, wanted=False)

    def _write_held(self, state: KeyState, write: Version) -> None:
        """Its node holds it, and nobody else will."""
        self.resting.discard(state)
        if write.node in state.time:
            write.time = tick(write.time, state.time[write.node])
        if (before := state.own.get(write.node)) and Op.DELETE not in (write.op, before.op):
            write.layers = stack(write.layers, before.layers)
        state.own[write.node] = write
        if write.op is Op.DELETE or write.whole:
            self._want(write.node, state, wanted=False)

    def _give_back(self, node: str, state: KeyState, cut: Vector) -> None:
        """A batch with this cut has reached a node: what it replaced and had not seen must return."""
        self._want(node, state, wanted=node in state.own and state.last.get(node, 0) > cut[node])

    def _was_decided(self, state: KeyState, cut: Vector) -> bool:
        """Whether a batch with this cut shows that what put a key on hold while replaying never did before.

        A predecessor that had weighed both writes sent the key all the same: they came in another order, and
        a third one was between them. What it had put on hold itself is on record before it sends anything.
        """
        conflict = self.doubtful.get(state)
        return conflict is not None and all(v.order <= cut[v.node] for v in (conflict.left, conflict.right))

    def _take_up(self, state: KeyState, decided: Version) -> list[Version]:
        """End a hold with what a predecessor had decided; gives the writes that it had not weighed."""
        del self.doubtful[state]
        later = [v for v in state.own.values() if v.order > decided.absorbed[v.node]]
        state.version, state.own, state.held = decided, {}, False
        for node in self.nodes:
            self._want_unless_sent(node, state)
        return sorted(later, key=lambda v: v.time)

    def _rest(self, state: KeyState) -> None:
        """Nothing of a key on hold is on its way."""
        if state.on_record:
            for arrival in state.first.values():
                arrival.live -= 1
            state.own, state.version = {}, NOTHING
            state.first, state.last, state.sent, state.shown = {}, {}, {}, {}
            self.resting.add(state)

    # -- a row that a node refuses -------------------------------------------------------------

    def _note_refused(self, node: str, batch: SentBatch) -> None:
        """A node that lacks what was written of a row before must get the whole of what is written next."""
        for table, key in batch.refused:
            self.refused[table].setdefault(key, set()).add(node)
        for state in batch.states:  # such a key is in no run
            lacking = self.refused[state.table].get(state.key, set())
            if node in lacking and (state.table, state.key) not in batch.refused:
                lacking.discard(node)
                if not lacking:
                    del self.refused[state.table][state.key]

    def _refused_among(self, table: str, keys: Sequence[bytes]) -> frozenset[int]:
        """The indexes of the keys whose rows a node has refused."""
        there = self.refused[table]
        return frozenset(i for i, key in enumerate(keys) if key in there) if there else frozenset()

    # -- any key on its way --------------------------------------------------------------------

    def _want(self, node: str, state: KeyState, *, wanted: bool) -> None:
        outbox = self.parked[node].states if self._parks(state) else self.outbox[node]
        if wanted and state not in outbox:
            outbox[state] = None
            state.pending += 1
        elif not wanted and state in outbox:
            del outbox[state]
            state.pending -= 1

    def _want_unless_sent(self, node: str, state: KeyState) -> None:
        """Unless a predecessor had weighed every write of the key in what it sent `node`."""
        if not state.known_by(self._applied(node, state)):
            self._want(node, state, wanted=True)

    def _applied(self, node: str, state: KeyState) -> Vector:
        """Up to where writes of a key were weighed in what predecessors have sent `node`."""
        return at_least(self.progress.applied[node], state.shown.get(node))

    def _want_back(self, state: KeyState, write: Version, *, lost: bool) -> None:
        """Whether the node where a write was made must be sent the outcome.

        A batch of ours may have overwritten columns that this write left alone. So unless the write is the
        whole row, only an echo can say that the node is done.
        """
        whole = write.op is Op.DELETE or write.whole
        if lost:
            self._want_unless_sent(write.node, state)
        elif whole and not self.config.policies[state.table].merge:
            self._want(write.node, state, wanted=False)

    def _forget_if_finished(self, state: KeyState) -> None:
        if state.pending or self.replaying:
            return
        if state.held:
            self._rest(state)
            return
        if state.version.stray:  # every other node has it, so the one whose filter excludes it may lose it
            state.version.stray = False
            self._want(state.version.node, state, wanted=True)
            return
        if self.keys[state.table].get(state.key) is state:
            del self.keys[state.table][state.key]
            for arrival in state.first.values():
                arrival.live -= 1
