"""What the driver's errors mean to us.

    connection, election, shutdown, timeout      NodeUnavailable
    write conflict, TransientTransactionError    Contention
    change stream that cannot be resumed         LogLost
    anything else                                Terminal

Codes: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

from replication.errors import Contention, LogLost, NodeUnavailable, SyncError, Terminal

WRITE_CONFLICT = 112
DUPLICATE_KEY = 11000
VALIDATION_FAILED = 121
UNAUTHORIZED = 13
UNKNOWN_STAGE = frozenset({40324, 40575})
NAMESPACE_EXISTS = 48
CONTENTION = frozenset({WRITE_CONFLICT, 24, 246, 251, 225, 256})
"""WriteConflict, LockTimeout, SnapshotUnavailable, and what an aborted transaction answers."""
LOST = frozenset({286, 280, 260, 136, 9, 222})
"""ChangeStreamHistoryLost, ChangeStreamFatalError, InvalidResumeToken, CappedPositionLost, FailedToParse,
CloseChangeStream: what a change stream answers whose place is gone."""
UNAVAILABLE = frozenset(
    {
        6,
        7,
        43,
        50,
        63,
        89,
        91,
        133,
        134,
        150,
        189,
        234,
        237,
        262,
        9001,
        10107,
        11600,
        11602,
        13388,
        13435,
        13436,
    }
)
"""The change stream specification's resumable errors, and what stands for a server that is away."""
TOO_LARGE = 10334
RESNAPSHOT = "accept the gap with: sync-worker reset NODE; it marks the gap and copies anew"


def classify(error: PyMongoError, node: str, *, stream: bool = False) -> SyncError:
    """Our error for the driver's.

    Args:
        error: what the driver raised.
        node: the node's name.
        stream: whether it was raised by reading the change stream.
    """
    message = _message(error)
    if isinstance(error, OperationFailure):
        code = error.code or 0
        if stream and (code in LOST or error.has_error_label("NonResumableChangeStreamError")):
            return LogLost(
                f"the oplog no longer reaches back to our position: {message}", node=node, hint=RESNAPSHOT
            )
        if stream and code == TOO_LARGE:
            return Terminal(
                f"a change is larger than one reply: {message}",
                node=node,
                hint="MongoDB 6.0.9 and later split such events",
            )
        if code in CONTENTION or (not stream and error.has_error_label("TransientTransactionError")):
            return Contention(message, node=node)
        if code in UNAVAILABLE or isinstance(error, (CursorNotFound, ExecutionTimeout)):
            return NodeUnavailable(message, node=node)
        hint = "grant the privilege; sync-worker check lists them" if code == UNAUTHORIZED else ""
        return Terminal(message, node=node, hint=hint)
    away = (AutoReconnect, ConnectionFailure, WaitQueueTimeoutError, InvalidOperation)
    if isinstance(error, away) or error.has_error_label("TransientTransactionError"):
        return NodeUnavailable(message, node=node)
    return Terminal(message, node=node)


@contextmanager
def translated(node: str, *, stream: bool = False) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except PyMongoError as error:
        raise classify(error, node, stream=stream) from error


def _message(error: PyMongoError) -> str:
    code = f" ({error.code})" if isinstance(error, OperationFailure) and error.code else ""
    return f"{type(error).__name__}{code}: {str(error).split(', full error')[0][:300]}"
