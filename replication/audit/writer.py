"""`AuditWriter`: the one writer of a group's audit log.

It gathers records in memory and writes them at `flush`; what was added before a `flush` that returned is
durable. There is no back-pressure inside: whoever adds decides when to flush, see `pending_rows`. Finished
segments are sealed on a thread of its own, so that a flush does not wait for Parquet. After an error the
writer refuses to go on: close it, open another, and add again what had not been flushed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from replication.audit import evidence, store
from replication.audit.heads import Signer, SignerUnavailable
from replication.audit.holds import HOLD_SCHEMA, HoldRecord
from replication.audit.keys import HASHING, Keyring, MasterKey, refuse_clear
from replication.audit.records import (
    CHANGES,
    CONFLICT_SCHEMA,
    CONFLICTS,
    DECISION_SCHEMA,
    DECISIONS,
    HOLDS,
    OPERATOR,
    ConflictRecord,
    as_columns,
    change_records,
    newer_than,
    operator_records,
    stamp,
)
from replication.audit.seals import Seals
from replication.audit.stream import ROLLING, Rolling, Stream
from replication.audit.subjects import Subjects
from replication.errors import ConfigError, Terminal

PRUNED = (CHANGES, DECISIONS)
"""The kinds that records are ever removed of: the others are few, and say what is still open."""
RECENT_CONFLICTS = 1_000_000
"""How many conflicts back a repeated one is recognised; a restart re-reads far fewer."""


class AuditWriter:
    """Writes a group's audit log. Used by one thread.

    Args:
        path: the log's folder; made if it does not exist.
        group: the group's name.
        now: the clock, microseconds since 1970.
        shards: how many shards the group has.
        rolling: when segments are finished and heads are signed.
        signer: signs the tree heads; without one, a key that is kept in the folder.
        keys: what new segments are encrypted with; in clear without them.
        subjects: the tables whose records have keys per subject.
        traced: the group has traces, so that records of changes have a column for them.

    Raises:
        AuditInUse: another process writes to this folder.
        ConfigError: it is another group's.
        AuditDamaged: acknowledged records are damaged.
        AuditKeyMissing: the log is encrypted, and not with these keys.
    """

    def __init__(
        self,
        path: Path,
        group: str,
        now: Callable[[], int],
        *,
        shards: int = 1,
        rolling: Rolling = ROLLING,
        signer: Signer | None = None,
        keys: Keyring | None = None,
        subjects: Subjects | None = None,
        traced: bool = False,
    ) -> None:
        self._root = path
        self._group = group
        self._now = now
        self._shards = shards
        self._rolling = rolling
        self._keys = keys
        self._subjects = subjects
        self._traced = traced
        self._streams: dict[str, Stream] = {}
        self._logs: dict[str, int] = {}
        self._lock = store.lock(path)
        self._sealer = ThreadPoolExecutor(1, "audit-seal")
        self._sealing: list[tuple[str, Future[str]]] = []
        self._pending = 0
        self.added: Counter[str] = Counter()
        """How many records were added by this writer, by kind of stream."""
        self._failed = False
        self._unsigned = False
        try:
            self._seals = Seals(path, group, signer or evidence.folder_signer(path), rolling.head_seconds)
            self._open()
        except BaseException:
            self._release()
            raise

    @property
    def pending_rows(self) -> int:
        """Records added since the last flush."""
        return self._pending

    def add_changes(self, node: str, shard: int, table: str, rows: pa.RecordBatch, trace: str = "") -> int:
        """Record captured changes; those at or below the highest order recorded already are dropped.

        Args:
            node: whose log they were read from.
            shard: the shard that owns their keys.
            table: canonical table name.
            rows: as `replication.change` describes, in log order, going on where the last call of this node,
                shard and table ended. Different changes must have different orders.
            trace: see `records`; empty if nobody follows their way.

        Returns:
            how many rows are new.
        """
        stream = self._stream(f"{CHANGES}/{table}")
        rows, last = newer_than(rows, self._mark(stream, node, shard))
        if rows.num_rows:
            records = change_records(node, shard, rows, self._now(), trace if self._traced else None)
            self._add(stream, records, self._mark_of(node, shard), f"{last:x}")
        return int(rows.num_rows)

    def add_decisions(self, decisions: pa.RecordBatch) -> bool:
        """Record what became of a batch, unless it or a later one of its node and shard is on record.

        Args:
            decisions: of one batch; the columns are `records.DECISION_SCHEMA`.

        Returns:
            whether it is new.
        """
        if not decisions.num_rows:
            return False
        names = ("_node", "_shard", "_epoch", "_seq")
        node, shard, epoch, seq = (decisions.column(name)[0].as_py() for name in names)
        stream, number = self._stream(DECISIONS), epoch << 64 | seq
        if number <= self._mark(stream, node, shard):
            return False
        columns = [decisions.column(f.name).cast(f.type) for f in DECISION_SCHEMA]
        rows = pa.RecordBatch.from_arrays(columns, schema=DECISION_SCHEMA)
        self._add(stream, stamp(rows, self._now()), self._mark_of(node, shard), f"{number:x}")
        return True

    def add_conflicts(self, conflicts: Sequence[ConflictRecord]) -> int:
        """Record conflicts; those whose `ident` is on record already are dropped. Gives how many are new."""
        new: dict[str, ConflictRecord] = {}
        for record in conflicts:
            if record.ident not in self._idents:
                new.setdefault(record.ident, record)
        if new:
            self._idents.update(dict.fromkeys(new))
            while len(self._idents) > RECENT_CONFLICTS:
                del self._idents[next(iter(self._idents))]
            rows = as_columns(list(new.values()), CONFLICT_SCHEMA)
            self._add(self._stream(CONFLICTS), stamp(rows, self._now()))
        return len(new)

    def add_holds(self, holds: Sequence[HoldRecord]) -> None:
        """Record rows that were set aside."""
        if holds:
            self._add(self._stream(HOLDS), stamp(as_columns(holds, HOLD_SCHEMA), self._now()))

    def add_operator(self, kind: str, detail: Any) -> None:
        """Record what an operator or the program itself did; `detail` becomes JSON."""
        text = json.dumps(detail, separators=(",", ":"))
        self._add(self._stream(OPERATOR), stamp(operator_records([(kind, text)]), self._now()))

    def begin_new_log(self, node: str) -> None:
        """From now on `node` has another log, whose orders may be lower: a restored or replaced database.

        Without this, its changes would be taken for ones that are on record. Durable when it returns.
        """
        self.add_operator("log_replaced", {"node": node})
        self.flush()
        self._logs[node] = self._log(node) + 1
        self._write_manifest()

    def rotate_keys(self, master: MasterKey | None = None) -> int:
        """Encrypt what comes with new data keys, or wrap all data keys by another master key.

        Args:
            master: the new master key; None for new data keys under the one that there is.

        Returns:
            how many data keys were made or wrapped.
        """
        if self._keys is None:
            message = f"the audit log in {self._root} is not encrypted"
            raise ConfigError(message, hint="set audit.key; what is recorded from then on is encrypted")
        self.add_operator("audit_keys_rotated", {"master_key": None if master is None else master.name})
        self.flush()
        return self._keys.rotate() if master is None else self._keys.rewrap(master)

    def erase(self, table: str, name: str, records: Mapping[str, int]) -> None:
        """Destroy a subject's key; on record before and after, with how many `records` it opens."""
        assert self._keys is not None  # else there was no such key
        self.add_operator("subject_erasing", {"table": table, "key": name, "records": dict(records)})
        self.flush()
        self._keys.subjects.destroy(name, self._now())
        self.add_operator("subject_erased", {"table": table, "key": name})
        self.flush()

    def prune(self, before: int, published: Mapping[str, int] | None = None) -> dict[str, int]:
        """Remove sealed segments of changes and decisions recorded before a time; keep their leaves.

        Every stream's newest segment stays. A head names what was removed before it is.

        Args:
            before: microseconds since 1970.
            published: where somebody must have read the changes first, how many of each stream have been.

        Returns:
            how many records were removed, by stream; none where nobody signs at the moment.
        """
        self.flush()

        def most(stream: Stream) -> int | None:
            waits = published is not None and stream.kind == CHANGES
            return (published or {}).get(stream.name, 0) if waits else None

        streams = [s for s in self._streams.values() if s.kind in PRUNED]
        going = [file for s in streams for file in s.sealed_before(before, most(s))]
        removed: Counter[str] = Counter()
        paths = []
        for name, file in going:
            if (digest := evidence.keep_leaves(file)) is not None:
                self._seals.sealed(f"{name}/{file.path.stem}{evidence.KEPT}", digest)
                removed[name] += store.count_rows(file)
                paths.append(file.path)
        if not paths:
            return {}
        self.add_operator("audit_pruned", {"before": before, "records": removed})
        self.flush()
        if not self._sign(self._flushed):
            return {}
        for path in paths:
            path.unlink()
            store.sync_folder(path.parent)
        return dict(removed)

    def flush(self) -> None:
        """Write all that was added; when this returns, it is durable.

        Raises:
            OSError: the disk refused; the writer is of no more use.
        """
        if self._failed:
            message = "the audit writer failed before and cannot go on"
            raise Terminal(message, hint="open a new one")
        # A second flush after half a one would put good records behind torn ones.
        self._failed = True
        self._check_sealing()
        now = self._now()
        # What is known of a batch besides its decisions comes first: they say that it is on record.
        for stream in sorted(self._streams.values(), key=lambda s: s.name == DECISIONS):
            if stream.waiting:
                stream.write(self._group, self._rolling, now)
            self._seal(stream)
        self._pending = 0
        self._flushed = now
        if self._seals.is_due(now):
            self._sign(now)
        self._failed = False

    def close(self) -> None:
        """Flush, finish sealing, let the folder go; after a failure, only the last. Safe to call twice."""
        if self._lock < 0:
            return
        try:
            if not self._failed:
                self.flush()
                self._sealer.shutdown(wait=True)
                self._check_sealing()
                self._sign(self._flushed)
                if self._pending:  # that it could not be signed
                    self.flush()
                self._write_manifest()
        finally:
            self._release()

    def _open(self) -> None:
        if self._keys is not None:
            self._keys.check()
            self._keys.current(HASHING)
        else:
            refuse_clear(self._root)
        manifest = store.read_manifest(self._root)
        if manifest is not None:
            self._check(manifest)
            self._logs = dict(manifest.logs)
        self._write_manifest()
        for name in store.streams(self._root):
            self._stream(name)
        self._idents = self._recent_idents()
        for stream in list(self._streams.values()):
            if stream.cut:
                self.add_operator("audit_tail_cut", {"stream": stream.name, "bytes": stream.cut})
        sizes = {name: stream.tree.size for name, stream in self._streams.items()}
        for name, (said, there) in self._seals.missing(sizes).items():
            self.add_operator("audit_records_missing", {"stream": name, "sealed": said, "found": there})
        self.flush()

    def _check(self, manifest: store.Manifest) -> None:
        if manifest.group != self._group:
            message = f"the audit log in {self._root} belongs to the group '{manifest.group}'"
            raise ConfigError(message, hint="give each group an audit path of its own")

    def _recent_idents(self) -> dict[str, None]:
        newest: list[str] = []
        for file in reversed(store.segments(store.stream_folder(self._root, CONFLICTS))):
            for batch in store.read_tail(file, self._keys):
                newest += reversed(batch.column("ident").drop_null().to_pylist())
            if len(newest) >= RECENT_CONFLICTS:
                break
        return dict.fromkeys(reversed(newest))

    def _mark_of(self, node: str, shard: int) -> str:
        return f"{node}/{shard}/{self._shards}/{self._log(node)}"

    def _mark(self, stream: Stream, node: str, shard: int) -> int:
        """The highest order recorded.

        Marks made under another number of shards count for all: those had read the log to one place.
        """
        highest = 0
        for mark, order in stream.added.items():
            of_node, of_shard, of_shards, of_log = mark.split("/")
            if (of_node, of_log) != (node, str(self._log(node))):
                continue
            if of_shards != str(self._shards) or of_shard == str(shard):
                highest = max(highest, int(order, 16))
        return highest

    def _log(self, node: str) -> int:
        return self._logs.get(node, 0)

    def _write_manifest(self) -> None:
        store.write_manifest(self._root, store.Manifest(self._group, self._shards, self._logs))

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = Stream(self._root, name, self._keys, self._subjects)
        return self._streams[name]

    def _add(self, stream: Stream, rows: pa.RecordBatch, mark: str = "", order: str = "") -> None:
        stream.add(rows, mark, order)
        self._pending += rows.num_rows
        self.added[stream.kind] += rows.num_rows

    def _seal(self, stream: Stream) -> None:
        for path in stream.to_seal:
            name = f"{stream.name}/{path.stem}.parquet"
            self._sealing.append((name, self._sealer.submit(store.seal, path, stream.name)))
        stream.to_seal = []

    def _check_sealing(self) -> None:
        done = [s for s in self._sealing if s[1].done()]
        self._sealing = [s for s in self._sealing if not s[1].done()]
        for name, future in done:
            self._seals.sealed(name, future.result())

    def _sign(self, now: int) -> bool:
        """Sign a head over all that is in the files. That nobody signs is on record, and stops nothing."""
        try:
            self._seals.sign({name: stream.head for name, stream in self._streams.items()}, now)
        except SignerUnavailable as error:
            if not self._unsigned:
                self.add_operator("audit_head_not_signed", {"error": error.message})
            self._unsigned = True
        else:
            self._unsigned = False
        return not self._unsigned

    def _release(self) -> None:
        self._sealer.shutdown(wait=True)
        for stream in self._streams.values():
            stream.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
