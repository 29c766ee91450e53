"""What the driver's errors mean, and what a DSN may not say."""

from __future__ import annotations

import pickle

import pytest
from pymongo.errors import (
    AutoReconnect,
    CursorNotFound,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from replication.engines.mongodb.config import connect
from replication.engines.mongodb.errors import classify
from replication.errors import ConfigError, Contention, LogLost, NodeUnavailable, SyncError, Terminal
from replication.schema import NodeConfig


def failure(code: int, *labels: str) -> OperationFailure:
    return OperationFailure("why", code, {"errorLabels": list(labels), "ok": 0})


@pytest.mark.parametrize(
    ("error", "stream", "kind"),
    [
        (AutoReconnect("gone"), False, NodeUnavailable),
        (NetworkTimeout("slow"), True, NodeUnavailable),
        (ServerSelectionTimeoutError("none"), False, NodeUnavailable),
        (NotPrimaryError("stepped down"), False, NodeUnavailable),
        (CursorNotFound("no cursor", 43), True, NodeUnavailable),
        (InvalidOperation("closed"), False, NodeUnavailable),
        (failure(189), False, NodeUnavailable),
        (failure(11600), True, NodeUnavailable),
        (failure(112), False, Contention),
        (failure(251, "TransientTransactionError"), False, Contention),
        (failure(286), True, LogLost),
        (failure(280, "NonResumableChangeStreamError"), True, LogLost),
        (failure(260), True, LogLost),
        (failure(136), True, LogLost),
        (failure(286), False, Terminal),
        (failure(10334), True, Terminal),
        (failure(13), False, Terminal),
        (PyMongoError("strange"), False, Terminal),
    ],
)
def test_an_error_says_whether_to_try_again(error: PyMongoError, stream: bool, kind: type[SyncError]) -> None:
    found = classify(error, "mongo", stream=stream)
    assert type(found) is kind
    assert found.node == "mongo"
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
    if kind is LogLost:
        assert "sync-worker reset" in found.hint


@pytest.mark.parametrize(
    "dsn", ["mongodb://sync:hunter2@host:27017", "mongodb://sync:hunter2@host:port/x", "hunter2"]
)
def test_a_wrong_dsn_is_refused_without_repeating_it(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(NodeConfig("mongo", "mongodb", dsn))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
