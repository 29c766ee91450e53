"""Column defaults that mean the same in every SQL dialect."""

from __future__ import annotations

import re

from replication.types import Kind

_CAST = re.compile(r"^(.*?)(::[\w\" ]+(\(\d+(,\d+)?\))?(\[\])?)+$", re.DOTALL)
_LITERAL = re.compile(r"(?i)^(-?\d+(\.\d+)?|'([^'\\]|'')*'|true|false|null)$")
_NOW = re.compile(r"(?i)^(now\(\)|(current_timestamp|localtimestamp|transaction_timestamp)(\(\d?\))?)$")
_TODAY = re.compile(r"(?i)^\(?(current_date|curdate)(\(\))?\)?$")
_TRUTH = {"1": "TRUE", "b'1'": "TRUE", "true": "TRUE", "0": "FALSE", "b'0'": "FALSE", "false": "FALSE"}
_TEMPORAL = frozenset({Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
NOW = "CURRENT_TIMESTAMP"
TODAY = "CURRENT_DATE"


def portable_default(default: str, kind: Kind) -> str | None:
    """A default expression of some engine's dialect in a form that all of them read.

    Args:
        default: as `Column.default` has it.
        kind: the column's canonical kind.

    Returns:
        a number, a quoted text, TRUE, FALSE, NULL, `NOW` or `TODAY`; None where it means something only
        to its own engine, as a sequence does.
    """
    bare = _uncast(default.strip())
    if kind is Kind.BOOLEAN:
        return _TRUTH.get(bare.strip("'").lower() if bare[:2] != "b'" else bare)
    if kind in _TEMPORAL and _NOW.match(bare):
        return NOW
    if kind is Kind.DATE and _TODAY.match(bare):
        return TODAY
    if not _LITERAL.match(bare) or (kind in _TEMPORAL and bare.startswith("'0000")):
        return None
    return bare


def _uncast(default: str) -> str:
    """Without PostgreSQL's casts behind a literal."""
    match = _CAST.match(default)
    return match[1] if match and _LITERAL.match(match[1]) else default
