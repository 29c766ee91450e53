"""Which of the project's errors a PostgreSQL error is, by its SQLSTATE.

Codes are from appendix A of the PostgreSQL manual.
"""

from __future__ import annotations

import psycopg

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

_ROW_CLASSES = ("22", "23", "38", "39", "44", "54", "P0")
"""Data exceptions, integrity, routines, check options, size limits, RAISE: the row is at fault."""
_AWAY_CLASSES = ("08", "53", "57", "58")
_AWAY_CODES = {"25006", "55006", "3D000", "28000", "28P01"}
"""Read-only after a failover, slot still in use, and what a server says while it is being restored."""
_CONTENTION = {"40001", "40P01", "55P03", "57014"}
_SCHEMA = {"42P01", "42703", "42804", "3F000", "42P10"}
_SLOT_LOST = (
    "can no longer get changes from replication slot",
    "can no longer access replication slot",
    "has already been removed",
    "has been invalidated",
    "exceeded the maximum reserved size",
)

SNAPSHOT_HINT = "accept the gap with: sync-worker reset NODE; it marks the gap and copies anew"


def classify(error: psycopg.Error, node: str, position: int | None = None) -> SyncError:
    """The project's error for a driver's error. Messages of the server never hold the password."""
    code = error.sqlstate or ""
    text = _text(error)
    if lost(code, text):
        return LogLost(text, node=node, position=position, hint=SNAPSHOT_HINT)
    if code in _CONTENTION or (code == "0A000" and "cached plan" in text):
        # The latter: a prepared query whose columns have changed their type; a new connection reads them.
        return Contention(text, node=node, position=position)
    if refuses_row(error):
        return RowRefused(text, node=node, position=position)
    if code[:2] in _AWAY_CLASSES or code in _AWAY_CODES:
        return NodeUnavailable(text, node=node, position=position)
    if code in _SCHEMA:
        hint = "compare the table with the configuration, then run `sync-worker check`"
        return SchemaChanged(text, node=node, position=position, hint=hint)
    # A refusal while connecting comes without its code.
    if code == "42501" or (not code and "permission denied" in text):
        hint = "grant it, or run `sync-worker check` for the statement"
        return PreflightFailed(text, node=node, position=position, hint=hint)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return NodeUnavailable(text, node=node, position=position)
    return Terminal(text, node=node, position=position)


def lost(code: str, text: str) -> bool:
    """Whether the server says that a slot or its log is gone for good."""
    if code == "42704" and "replication slot" in text:
        return True
    return code in ("55000", "58P01", "22023", "") and any(part in text for part in _SLOT_LOST)


def refuses_row(error: psycopg.Error) -> bool:
    """Whether smaller parts of the same batch may succeed."""
    code = error.sqlstate
    if code is None:
        return isinstance(error, psycopg.DataError)
    return code[:2] in _ROW_CLASSES


def reason(error: psycopg.Error) -> str:
    """One line for the operator: code, message and detail."""
    parts = [error.sqlstate or "", _text(error), error.diag.message_detail or ""]
    return ": ".join(part for part in parts if part)


def _text(error: psycopg.Error) -> str:
    if error.diag.message_primary:
        return error.diag.message_primary
    return " ".join(str(error).split()) or type(error).__name__
