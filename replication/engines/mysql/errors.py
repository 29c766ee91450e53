"""Which of the project's errors a MySQL error is, by its number.

Numbers are from the server's error message reference and, from 2000 to 2999, the client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

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

DUPLICATE_KEY = 1062
READ_ERROR = 1236
"""Whatever the sender of the binlog has to say; its text tells."""

_CONTENTION = frozenset({1180, 1205, 1213, 1317, 1689, 3024, 3058, 3101, 3572})
"""Error during commit, lock wait timeout, deadlock, query interrupted, table lock wait aborted, execution
time exceeded, user lock deadlock, transaction rolled back by the cluster, lock not free at once."""
_AWAY = frozenset(
    {1021, 1037, 1038, 1040, 1041, 1042, 1043, 1045, 1049, 1053, 1077, 1078, 1079, 1080, 1081, 1114,
     1129, 1152, 1158, 1159, 1160, 1161, 1184, 1189, 1190, 1203, 1218, 1226, 1290, 1836, 3032, 3118,
     3168, 3169, 4031}
)  # fmt: skip
"""Full disk or memory, too many connections, bad handshake, shutdown, network errors, read-only after a
failover, offline mode, session killed; and refused logins, as a server gives while it is being restored."""
_ROW = frozenset(
    {1048, 1062, 1063, 1118, 1136, 1138, 1153, 1169, 1216, 1217, 1242, 1263, 1264, 1265, 1292, 1300,
     1364, 1365, 1366, 1367, 1369, 1406, 1411, 1416, 1424, 1425, 1426, 1438, 1441, 1451, 1452, 1525,
     1526, 1557, 1586, 1644, 1645, 1690, 1748, 1761, 1762, 1859, 1906, 3037, 3038, 3055, 3105, 3140,
     3141, 3144, 3146, 3147, 3150, 3156, 3157, 3516, 3548, 3616, 3617, 3643, 3732, 3751, 3752, 3819,
     3903, 3906, 3907}
)  # fmt: skip
"""Not null, unique, foreign key, check, range, length, format, JSON, geometry, partition, SIGNAL in a
trigger: the row is at fault."""
_SCHEMA = frozenset({1051, 1054, 1091, 1146, 1347, 1356, 1932})
_PRIVILEGE = frozenset({1044, 1095, 1142, 1143, 1227, 1370, 1419})
_LOST = frozenset({1789, 4077})
_LOST_TEXTS = (
    "purged required binary logs",
    "purged binary logs containing GTIDs",
    "Could not find first log file name",
    "could not find next log",
    "has already been purged",
    "impossible position",
    "has more GTIDs than",
)
_BROKEN = (pymysql.InterfaceError, pymysql.OperationalError, pymysql.InternalError)
"""Without a number they come from the driver: the connection is closed or out of step."""

SNAPSHOT_HINT = "accept the gap with: sync-worker reset NODE; it marks the gap and copies anew"


def classify(error: pymysql.MySQLError, node: str, position: int | None = None) -> SyncError:
    """The project's error for a driver's error. Messages of the server never hold the password."""
    code, text = code_of(error), reason(error)
    if lost(code, text):
        return LogLost(text, node=node, position=position, hint=SNAPSHOT_HINT)
    if code in _CONTENTION:
        return Contention(text, node=node, position=position)
    if refuses_row(error):
        return RowRefused(text, node=node, position=position)
    if code in _AWAY or 2000 <= code < 3000:
        return NodeUnavailable(text, node=node, position=position)
    if code in _SCHEMA:
        hint = "compare the table with the configuration, then run `sync-worker check`"
        return SchemaChanged(text, node=node, position=position, hint=hint)
    if code in _PRIVILEGE:
        hint = "grant it, or run `sync-worker check` for the statement"
        return PreflightFailed(text, node=node, position=position, hint=hint)
    if code == 0 and isinstance(
        error, pymysql.InterfaceError | pymysql.OperationalError | pymysql.InternalError
    ):
        return NodeUnavailable(text, node=node, position=position)
    return Terminal(text, node=node, position=position)


def code_of(error: BaseException) -> int:
    """The error's number, 0 if it has none."""
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) else 0


def lost(code: int, text: str) -> bool:
    """Whether the server says that the binlog no longer reaches back to our position."""
    return code in _LOST or (code == READ_ERROR and any(part in text for part in _LOST_TEXTS))


def refuses_row(error: BaseException) -> bool:
    """Whether smaller parts of the same batch may succeed."""
    return code_of(error) in _ROW


def reason(error: BaseException) -> str:
    """One line for the operator: number and message."""
    code = code_of(error)
    text = " ".join(str(error.args[1] if len(error.args) > 1 else error).split())
    return f"{code}: {text}" if code else text or type(error).__name__


@contextmanager
def translated(node: str) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise classify(error, node) from error
