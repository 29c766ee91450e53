"""What a running group says of itself, by asking its parts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass

from actors.archiving import ArchiveStatus
from actors.backfill import CopyStatus
from actors.guard import GuardStatus
from actors.publisher import PublisherStatus
from actors.remote import Handle
from actors.shard_status import ShardStatus
from replication.errors import SyncError
from replication.retries import RetryStatus

GUARD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class GroupState:
    """What a running group says of itself: shards, by node its copies, ways to the nodes, retries, Kafka, the
    audit log's archive.

    `kafka` is None where it is not configured, and while the publisher is being made again; so is `archive`.
    """

    shards: list[ShardStatus]
    copies: dict[str, list[CopyStatus]]
    guards: list[GuardStatus]
    retries: RetryStatus | None
    kafka: PublisherStatus | None = None
    archive: ArchiveStatus | None = None


def state_of(handles: Mapping[str, Handle], seconds: float | None = None) -> GroupState | None:
    """What the parts of a group say of it. None when there are none.

    Args:
        handles: the parts.
        seconds: how long each may take; None for however long it takes.

    Raises:
        TimeoutError: one takes longer.
        NodeUnavailable: one is lost.
    """
    guards = guards_of(handles)
    asked = {n: h.call("status") for n, h in sorted(handles.items()) if n.startswith(("resolver ", "copy "))}
    answers = {n: call.result(seconds) for n, call in asked.items()}
    shards = [a for n, a in answers.items() if n.startswith("resolver ")]
    copies = {n.removeprefix("copy "): a for n, a in answers.items() if n.startswith("copy ")}
    if not shards:
        return None
    of_log = [handles["audit"].call(what) for what in ("retries", "archived")] if "audit" in handles else []
    retries, archive = [call.result(seconds) for call in of_log] or [None, None]
    return GroupState(shards, copies, guards, retries, _publishing(handles), archive)


def _publishing(handles: Mapping[str, Handle]) -> PublisherStatus | None:
    if "publisher" not in handles:
        return None
    with suppress(SyncError, TimeoutError):  # it is being made again, which holds nobody up
        status: PublisherStatus = handles["publisher"].call("publishing").result(GUARD_SECONDS)
        return status
    return None


def guards_of(handles: Mapping[str, Handle], seconds: float = GUARD_SECONDS) -> list[GuardStatus]:
    """The ways of the parts to their nodes; one that is being made again is left out."""
    kinds = ("capture ", "applier ", "copy ")
    calls = [h.call("guard") for name, h in sorted(handles.items()) if name.startswith(kinds)]
    wait(calls, seconds)
    return [c.result() for c in calls if c.done() and c.exception() is None]
