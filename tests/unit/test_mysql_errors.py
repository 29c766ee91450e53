"""Which of our errors a server's number is."""

from __future__ import annotations

import pymysql
import pytest

from replication.engines.mysql.errors import classify, reason, refuses_row
from replication.errors import (
    Contention,
    LogLost,
    NodeUnavailable,
    PreflightFailed,
    RowRefused,
    SchemaChanged,
    SyncError,
    Terminal,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pymysql.OperationalError(2003, "cannot connect"), NodeUnavailable),
        (pymysql.OperationalError(2013, "lost connection"), NodeUnavailable),
        (pymysql.OperationalError(1045, "access denied"), NodeUnavailable),
        (pymysql.OperationalError(1053, "shutdown in progress"), NodeUnavailable),
        (pymysql.OperationalError(1290, "--super-read-only"), NodeUnavailable),
        (pymysql.OperationalError(4031, "disconnected for inactivity"), NodeUnavailable),
        (pymysql.InterfaceError(0, ""), NodeUnavailable),
        (pymysql.InternalError("Packet sequence number wrong"), NodeUnavailable),
        (pymysql.OperationalError(1213, "deadlock"), Contention),
        (pymysql.OperationalError(1205, "lock wait timeout"), Contention),
        (pymysql.IntegrityError(1062, "duplicate"), RowRefused),
        (pymysql.OperationalError(3819, "check constraint"), RowRefused),
        (pymysql.DataError(1406, "too long"), RowRefused),
        (pymysql.OperationalError(1644, "a trigger's SIGNAL"), RowRefused),
        (pymysql.ProgrammingError(1146, "no such table"), SchemaChanged),
        (pymysql.OperationalError(1054, "unknown column"), SchemaChanged),
        (pymysql.OperationalError(1142, "command denied"), PreflightFailed),
        (pymysql.OperationalError(1236, "source purged required binary logs"), LogLost),
        (
            pymysql.OperationalError(1236, "Could not find first log file name in binary log index file"),
            LogLost,
        ),
        (pymysql.OperationalError(1236, "A replica with the same server_uuid has connected"), Terminal),
        (pymysql.ProgrammingError(1064, "syntax"), Terminal),
    ],
)
def test_kinds(error: pymysql.MySQLError, kind: type[SyncError]) -> None:
    found = classify(error, "my", 7)
    assert type(found) is kind
    assert (found.node, found.position) == ("my", 7)
    assert refuses_row(error) == (kind is RowRefused)


def test_the_reason_is_one_line() -> None:
    assert reason(pymysql.DataError(1406, "Data too long\nfor column")) == "1406: Data too long for column"
    assert reason(pymysql.InternalError()) == "InternalError"
