"""Writes batches: one multi-document transaction each.

In it: replace the marker on its condition, write what differs, commit. The marker is the first write, so it
is the first event. What another client writes in between aborts the transaction with a write conflict, so it
is short: the documents are read and compared before it. A document that an application changes after that
look is a write that the batch has not seen; the resolver finds it in the log, before the echo, and sends the
row again.

The server aborts the whole transaction when it refuses one row, and says which. That row is left out and
the transaction tried again; after a few such rounds every row is tried in a transaction of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import bson
from bson.errors import BSONError
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DocumentTooLarge, PyMongoError
from pymongo.results import BulkWriteResult

from replication.applying import Findings, findings_name
from replication.batch import Applied, ApplyBatch, HeldRow, Outcome, refusal
from replication.engines.mongodb.config import (
    MAJORITY,
    MARKER,
    SNAPSHOT,
    Document,
    connect,
    get_state,
    put_state,
)
from replication.engines.mongodb.errors import CONTENTION, DUPLICATE_KEY, UNAVAILABLE, classify, translated
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.marker import marker_id, to_document
from replication.engines.mongodb.plan import Incoming, Numbered, Plan, incoming, make_plan
from replication.engines.mongodb.sessions import open_session
from replication.engines.mongodb.snapshot import find_ids
from replication.errors import Contention, NodeUnavailable, Occupied
from replication.marker import Marker
from replication.schema import NodeConfig, Table

_ROUNDS = 4
_COMMITS = 3
_UNENCODABLE = (BSONError, DocumentTooLarge, OverflowError, ValueError, TypeError)
Chosen = list[tuple[Incoming, list[int]]]


class _Refused(Exception):
    """Rows that the server refuses, by table and row number."""

    def __init__(self, rows: Incoming, reasons: Mapping[int, str]) -> None:
        super().__init__()
        self.rows = rows
        self.reasons = reasons


class _NotOurs(Exception):
    """The marker is not as the batch expects it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class MongoApplier:
    """See `engine.Applier`."""

    def __init__(self, node: NodeConfig, group: str, tables: Sequence[Table], sources: Sequence[str]) -> None:
        self._node = node
        self._group = group
        self._sources = sorted(set(sources))
        self._layouts = {table.name: Layout(table, node) for table in tables}
        self._db = connect(node)
        self._session: ClientSession | None = None

    def apply(self, batch: ApplyBatch) -> Applied:
        """See `engine.Applier`."""
        tables = incoming(batch.tables, self._layouts)
        held = [rows.held(i, reason) for rows in tables for i, reason in rows.refused.items()]
        with translated(self._node.name):
            try:
                with contextlib.suppress(
                    _Refused
                ):  # perhaps only because a document has changed since the look
                    return self._commit(batch.marker, _live(tables), held, look_first=True)
                for _ in range(_ROUNDS):
                    try:
                        return self._commit(batch.marker, _live(tables), held)
                    except _Refused as refusal:
                        held += _leave_out(refusal)
                held += self._try_each(batch.marker, tables)
                while True:
                    try:
                        return self._commit(batch.marker, _live(tables), held)
                    except _Refused as refusal:
                        held += _leave_out(refusal)
            except _NotOurs as other:
                return self._not_ours(batch.marker, other.outcome)

    def close(self) -> None:
        """See `engine.Applier`."""
        if self._session is not None:
            with contextlib.suppress(PyMongoError):
                self._session.end_session()
            self._session = None
        self._db.client.close()

    def _commit(
        self, marker: Marker, chosen: Chosen, held: list[HeldRow], *, look_first: bool = False
    ) -> Applied:
        """One transaction.

        Args:
            marker: the batch's marker.
            chosen: the rows.
            held: the rows that are left out.
            look_first: read the documents before the transaction, not in it.
        """
        looked = self._plan(None, marker, chosen) if look_first else None
        with self._transaction(marker.shard) as session:
            plans = self._plan(session, marker, chosen) if looked is None else looked
            self._write(session, marker, chosen, plans)
            found = Findings(held, [(plan.layout.name, key) for plan in plans for key in plan.missing])
            if found:
                put_state(self._db, self._group, findings_name(marker.shard), found.dump(marker), session)
            for attempt in range(1, _COMMITS + 1):
                try:
                    session.commit_transaction()
                    break
                except PyMongoError as error:
                    if not error.has_error_label("UnknownTransactionCommitResult"):
                        raise
                    if attempt == _COMMITS:
                        message = "whether the transaction was committed is not known"
                        raise NodeUnavailable(message, node=self._node.name) from error
        return Applied(Outcome.COMMITTED, found.held, found.missing)

    def _not_ours(self, marker: Marker, outcome: Outcome) -> Applied:
        kept = get_state(self._db, self._group, findings_name(marker.shard))
        found = Findings.load(kept, marker) if kept and outcome is Outcome.ALREADY else Findings()
        return Applied(outcome, found.held, found.missing)

    def _try_each(self, marker: Marker, tables: Sequence[Incoming]) -> list[HeldRow]:
        held: list[HeldRow] = []
        for rows, numbers in _live(tables):
            for i in numbers:
                try:
                    with self._transaction(marker.shard) as session:
                        one = [(rows, [i])]
                        self._write(session, marker, one, self._plan(session, marker, one))
                except _Refused as refusal:
                    held += _leave_out(refusal)
        return held

    @contextlib.contextmanager
    def _transaction(self, shard: int) -> Iterator[ClientSession]:
        """A transaction that is aborted unless the body commits it."""
        if self._session is None:
            self._session = open_session(self._db, self._group, shard)
        session = self._session
        session.start_transaction(read_concern=SNAPSHOT, write_concern=MAJORITY)
        try:
            yield session
        finally:
            if session.in_transaction:
                with contextlib.suppress(PyMongoError):
                    session.abort_transaction()

    def _plan(self, session: ClientSession | None, marker: Marker, chosen: Chosen) -> list[Plan]:
        self._check(session, marker)
        plans = []
        for rows, numbers in chosen:
            plan = make_plan(rows, numbers, self._find(session, rows, numbers), self._sources)
            if plan.refused:
                raise _Refused(rows, plan.refused)
            plans.append(plan)
        return plans

    def _write(self, session: ClientSession, marker: Marker, chosen: Chosen, plans: Sequence[Plan]) -> None:
        self._replace_marker(session, marker, sum(len(p.changes) + len(p.inserts) for p in plans))
        # What is there an application may be about to change: the sooner it is ours, the fewer conflicts.
        work = [(rows, plan) for (rows, _), plan in zip(chosen, plans, strict=True)]
        parts = [(rows, p.changes) for rows, p in work] + [(rows, p.inserts) for rows, p in work]
        for rows, numbered in parts:
            if numbered:
                self._run(session, rows, numbered)

    def _check(self, session: ClientSession | None, marker: Marker) -> None:
        key = {"_id": marker_id(marker.group, marker.shard)}
        stored = self._db[MARKER].find_one(key, {"epoch": 1, "seq": 1}, session=session)
        found = None if stored is None else (int(stored["epoch"]), int(stored["seq"]))
        if found != (marker.epoch, marker.after):
            raise _NotOurs(refusal(found, marker))

    def _replace_marker(self, session: ClientSession, marker: Marker, events: int) -> None:
        document = to_document(marker, events)
        condition = {"_id": document["_id"], "epoch": marker.epoch, "seq": marker.after}
        if not self._db[MARKER].replace_one(condition, document, session=session).matched_count:
            self._check(session, marker)
            message = "the marker changed while it was being written"
            raise Contention(message, node=self._node.name)

    def _find(
        self, session: ClientSession | None, rows: Incoming, numbers: Sequence[int]
    ) -> dict[bytes, Document]:
        # Copied rows come only where there is none, and an insert that finds one after all says so.
        ids = [rows.ids[i] for i in numbers if not rows.copied[i]]
        collection = self._db[rows.layout.collection]
        documents = list(find_ids(collection, ids, rows.layout.heads, session=session))
        keys = rows.layout.decode_ids([d["_id"] for d in documents]).to_pylist()
        return dict(zip(keys, documents, strict=True))

    def _run(self, session: ClientSession, rows: Incoming, numbered: Sequence[Numbered]) -> None:
        writes = [write for _, write in numbered]
        collection = self._db[rows.layout.collection]
        try:
            result: BulkWriteResult = collection.bulk_write(writes, ordered=True, session=session)
        except BulkWriteError as error:
            raise _blame(error, rows, numbered, self._node.name) from error
        except _UNENCODABLE as error:
            bad = {i: reason for i, _ in numbered if (reason := _unencodable(rows.document(i)))}
            if not bad:
                raise
            raise _Refused(rows, bad) from error
        if result.matched_count + result.inserted_count + result.deleted_count != len(writes):
            message = "a document changed while it was being written"
            raise Contention(message, node=self._node.name)


def _live(tables: Sequence[Incoming]) -> Chosen:
    return [(rows, list(rows.live)) for rows in tables]


def _leave_out(refusal: _Refused) -> list[HeldRow]:
    rows = refusal.rows
    rows.live = [i for i in rows.live if i not in refusal.reasons]
    return [rows.held(i, reason) for i, reason in refusal.reasons.items()]


def _blame(error: BulkWriteError, rows: Incoming, numbered: Sequence[Numbered], node: str) -> Exception:
    """Which row it was, or that the whole transaction must be tried again."""
    failures = error.details.get("writeErrors") or []
    if not failures or error.has_error_label("TransientTransactionError"):
        return Contention("the transaction was aborted", node=node)
    first = failures[0]
    code, row = first.get("code", 0), numbered[first["index"]][0]
    if code in CONTENTION or (code == DUPLICATE_KEY and list(first.get("keyPattern", {})) == ["_id"]):
        kind = Occupied if code == DUPLICATE_KEY and rows.copied[row] else Contention
        return kind(first.get("errmsg", "write conflict"), node=node)
    if code in UNAVAILABLE:
        return classify(error, node)
    return _Refused(rows, {row: f"({code}) {first.get('errmsg', '')[:300]}"})


def _unencodable(document: Document) -> str:
    """Why the driver cannot encode a document; empty if it can."""
    try:
        size = len(bson.encode(document))
    except _UNENCODABLE as error:
        return f"it is no BSON document: {error}"[:300]
    return f"the document has {size} bytes, more than MongoDB's 16 MB" if size > 16 * 1024 * 1024 else ""
