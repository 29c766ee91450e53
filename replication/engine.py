"""What an engine implements. Protocols only; the engines live in `replication.engines`.

An engine serves one node. `open` never connects: each part connects on its own, in the process
that uses it, and is used by one thread.

Our own tables on every node (PostgreSQL: schema `sync_worker`; MongoDB: collections `sync_worker.*` in
the same database; never mapped, never replicated):

    marker     group, shard, shards, epoch, seq, state (JSON text of `Marker.state`), versions (bytes)
    watermark  group, ident: upserted by the initial copy
    state      name, value: small JSON documents, e.g. the progress of the initial copy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from replication.batch import Applied, ApplyBatch
from replication.change import LogEvent
from replication.marker import Marker
from replication.position import Position
from replication.schema import Column, NodeConfig, Table, TableMapping, TableSchema


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of preflight.

    Attributes:
        level: `error` (cannot start) or `warning`.
        subject: what it is about, e.g. `wal_level` or a table's name.
        message: what is wrong, one sentence.
        remedy: the statement or setting that mends it.
    """

    level: str
    subject: str
    message: str
    remedy: str


class Source(Protocol):
    """Reads one node's log in commit order. Made with the position to resume after."""

    decode_echoes: bool
    """Fill `Echo.rows`. Switched while running; takes effect from the next poll."""

    def poll(self, max_rows: int, wait: float) -> list[LogEvent]:
        """The next events, in log order, at most about `max_rows` changes.

        Waits up to `wait` seconds for the first one and returns what has come by then; an idle log gives
        a `Progress` now and then, else nothing. A transaction too large for `max_rows` comes in several
        `Changes`.

        Raises:
            NodeUnavailable: reconnecting is up to the caller, with a new Source.
            LogLost: the position is no longer in the log.
        """

    def confirm(self, position: Position) -> None:
        """Everything up to `position` is durable everywhere: the node may discard its log up to there.

        Also keeps the connection alive; call it at least every ten seconds, also while not polling.
        """

    def close(self) -> None:
        """Disconnect. Safe to call twice."""


class Applier(Protocol):
    """Writes batches to one node. One applier serves one shard at a time, in order."""

    def apply(self, batch: ApplyBatch) -> Applied:
        """Commit the marker and the rows in one transaction.

        The marker is written first, on condition that the stored `epoch` is the marker's and the stored `seq`
        is `marker.after`. If not, nothing is written and the outcome is what `batch.refusal` says. A batch
        without rows writes its marker all the same.

        Rows of an initial copy (`_op` is READ) are inserted, and never update: if the node holds a row of
        such a key, nothing is committed.

        Only mapped columns are touched. A value that equals the narrowed form of what the node holds is left
        alone. Deleting a missing row is no error. Partial rows (`_have`) that the node does not hold are
        reported in `missing`.

        Rows that the node refuses (constraint, type, trigger) are found by trying smaller parts, at last
        single rows; the others commit with the marker, and the refused ones are reported in `held`.

        Raises:
            NodeUnavailable, Contention: nothing is known to be committed; try the same batch again.
            Occupied: the node holds a row that would have been copied; try again without it.
        """

    def close(self) -> None:
        """Disconnect. Safe to call twice."""


class Snapshot(Protocol):
    """Reads whole rows in key order, for the initial copy, `verify` and rows that must be sent in full."""

    def read_chunk(
        self, table: Table, after: bytes | None, limit: int, *, until: bytes | None = None, skip: int = 0
    ) -> pa.RecordBatch:
        """Up to `limit` rows with keys greater than the canonical key `after` (None: from the start).

        Columns: `_key` (canonical, binary, strictly ascending bytewise), then the data columns in schema
        order. Fewer than `limit` rows mean the end. Each call is one statement on one consistent view.

        Args:
            table: the table.
            after: rows behind this key.
            limit: the most rows.
            until: no row behind this key; None: to the end of the table.
            skip: leave out so many rows first; they are not sent.
        """

    def read_keys(self, table: Table, keys: Sequence[bytes]) -> pa.RecordBatch:
        """The rows with these canonical keys, same columns; missing rows are left out."""

    def write_watermark(self, ident: str) -> None:
        """Commit a watermark that will appear in the log as `Watermark(ident)`.

        Rows read after it returns show at least every commit that is before it in the log.
        """

    def estimate_rows(self, table: Table) -> int:
        """About how many rows the table holds; 0 when unknown."""

    def close(self) -> None:
        """Disconnect. Safe to call twice."""


class SchemaEditor(Protocol):
    """Changes tables as another node's were changed."""

    def filled(self, mapping: TableMapping, column: Column) -> str | None:
        """What the rows hold in a column of this node that were there when it was added.

        Returns:
            a literal as `defaults.literal` makes it; None for null.

        Raises:
            SchemaChanged: it is not the same in all rows, or cannot be told.
        """

    def add_column(self, table: Table, column: Column, source_engine: str, fill: str | None) -> None:
        """Add a column if it is not there; in rows that exist it gets the value `fill`.

        The log shows no change of a row. Where a declared column cannot be not-null, it is nullable.

        Args:
            table: the mapped table.
            column: under its canonical name, as its node declares it.
            source_engine: see `Catalog.create_table`.
            fill: as `filled` said it.
        """

    def widen_column(self, table: Table, column: Column, source_engine: str) -> None:
        """Let a column hold what `column` holds; one that does is left as it is."""

    def rest_has(self, table: Table, field: str) -> bool:
        """Whether a row has this field in the column of the rest, of any value."""


class Catalog(SchemaEditor, Protocol):
    """Reads and creates tables."""

    def read_schema(self, mapping: TableMapping) -> TableSchema | None:
        """The mapped columns with canonical types, or None if the table does not exist.

        A node without declared columns (MongoDB) gives a schema of the key alone when the collection exists.
        """

    def create_table(self, table: Table, source_engine: str) -> None:
        """Create the table if it does not exist, with native types, key, not-null and defaults.

        Args:
            table: mapping and canonical schema.
            source_engine: the engine whose dialect `CanonicalType.native` and `Column.default` are in.
        """

    def preflight(self, tables: Sequence[Table]) -> list[Finding]:
        """Everything that would keep this node from taking part, each with its remedy."""

    def close(self) -> None:
        """Disconnect. Safe to call twice."""


class StateStore(Protocol):
    """Small JSON documents of ours on the node; they never travel."""

    def get_state(self, name: str) -> str | None:
        """The JSON text stored under `name`."""

    def put_state(self, name: str, value: str) -> None:
        """Store JSON text under `name`."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a shard has read a node's log.

    Attributes:
        order: up to which the log is part of what any node holds.
        resume: from where it would be read on.
    """

    order: int
    resume: Position


class Control(StateStore, Protocol):
    """Owns the group's own tables and its place in the log on one node."""

    def stored_format(self) -> int:
        """The format of our own tables on the node, see `replication.formats`; 0 if there are none."""

    def prepare(self, tables: Sequence[Table]) -> Position:
        """Create what capture needs (our tables, publication and slot, pre-images); idempotent.

        Nothing is created that is there, so an account may lose the privilege to once it is done.

        Returns:
            a position that is at or before the next change of the log, for a node that has no marker yet.
            If a slot exists already it is kept and its position is returned.

        Raises:
            PreflightFailed: our own tables are of a newer format.
        """

    def raise_epoch(self, shards: int, at_least: int, initial: Marker) -> list[Marker]:
        """Fence all older incarnations of all shards, in one transaction.

        Args:
            shards: how many shards there will be; with 0 no marker is created.
            at_least: the new epoch must be at least this, and greater than every stored one.
            initial: what missing markers are created from, its shard number replaced.

        Returns:
            the markers as stored, by shard, with their new epoch.
        """

    def accept_server(self, reached: Sequence[Reached]) -> list[Position]:
        """Take the server that answers now for the one whose log was read, and remember it.

        Called when a group begins, before its sources read. A source whose server has changed since then ends
        the incarnation.

        Args:
            reached: how far each shard has read the node's log.

        Returns:
            from where each shard reads on: the same place, as the server that answers has it.

        Raises:
            LogLost: it is another server, and cannot go on where that one was left.
        """

    def begin_log(self, tables: Sequence[Table], above: int = 0) -> Position:
        """Give up the place in the log and take a new one at its end: what lies between is lost.

        Only while no source reads. `replace_markers` must follow on every node.

        Args:
            tables: see `prepare`.
            above: the new place has a greater order, where the engine can choose.
        """

    def replace_markers(self, markers: Sequence[Marker]) -> None:
        """Store these in place of all markers that there are, in one transaction that is no echo.

        They may be of another number of shards: a batch of a shard that has none then is fenced.
        """

    def drop(self) -> None:
        """Remove everything that is ours: slot, publication, tables. Used when a node leaves the group."""

    def close(self) -> None:
        """Disconnect. Safe to call twice."""


class Lease(Protocol):
    """The right to run the group, as one node keeps it. It ends with its holder, or a few seconds later."""

    def hold(self) -> str | None:
        """Take it, or say that it is still in use; call it every two seconds or so.

        Returns:
            None while it is ours, else who holds it.

        Raises:
            NodeUnavailable: the node does not answer, so nothing is known.
        """

    def close(self) -> None:
        """Give it up. Safe to call twice."""


class Engine(Protocol):
    """One node's factory. Pickles: it holds configuration only."""

    node: NodeConfig
    group: str

    def catalog(self) -> Catalog:
        """Connects on first use."""

    def control(self) -> Control:
        """Connects on first use."""

    def lease(self, holder: str) -> Lease:
        """The right to run the group; `holder` is what others are told of who has it."""

    def source(self, tables: Sequence[Table], start: Position) -> Source:
        """A reader that resumes after `start`."""

    def applier(self, tables: Sequence[Table], sources: Sequence[str]) -> Applier:
        """A writer.

        Args:
            tables: all mapped tables.
            sources: engine names of the other nodes, which decide the narrowings to expect.
        """

    def snapshot(self) -> Snapshot:
        """A reader of whole rows."""
