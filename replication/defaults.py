"""Column defaults that mean the same in every SQL dialect."""

from __future__ import annotations

import re

import pyarrow as pa

from replication.types import CanonicalType, Kind

_CAST = re.compile(r"^(.*?)(::[\w\" ]+(\(\d+(,\d+)?\))?(\[\])?)+$", re.DOTALL)
_LITERAL = re.compile(r"(?i)^(-?\d+(\.\d+)?|'([^'\\]|'')*'|true|false|null)$")
_NOW = re.compile(r"(?i)^(now\(\)|(current_timestamp|localtimestamp|transaction_timestamp)(\(\d?\))?)$")
_TODAY = re.compile(r"(?i)^\(?(current_date|curdate)(\(\))?\)?$")
_TRUTH = {"1": "TRUE", "b'1'": "TRUE", "true": "TRUE", "0": "FALSE", "b'0'": "FALSE", "false": "FALSE"}
_TEMPORAL = frozenset({Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
_DAY = re.compile(r"^\d{4}-\d\d-\d\d$")
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?$")
_NUMBERS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64, Kind.NUMERIC})
_TEXTS = frozenset({Kind.TEXT, Kind.JSON, Kind.UUID})
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


def literal(text: str, kind: Kind) -> str | None:
    """A value as a literal that every SQL dialect reads; None where there is none.

    Args:
        text: the value as its server prints it, an instant in UTC.
        kind: its canonical kind.
    """
    if kind is Kind.BOOLEAN:
        return {"t": "TRUE", "true": "TRUE", "1": "TRUE", "f": "FALSE", "false": "FALSE", "0": "FALSE"}.get(
            text
        )
    if kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        text = text.removesuffix("+00")
        return f"'{text}'" if _MOMENT.match(text) else None
    if kind is Kind.DATE:
        return f"'{text}'" if _DAY.match(text) else None
    if kind in _NUMBERS:
        return text if _LITERAL.match(text) else None
    quoted = "'" + text.replace("'", "''") + "'"
    return quoted if kind in _TEXTS and _LITERAL.match(quoted) else None


def literal_value(literal: str, type: CanonicalType) -> pa.Array:
    """The value of a literal that `literal` made, as an array of one."""
    text = literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
    match type.kind:
        case Kind.BOOLEAN:
            return pa.array([text == "TRUE"])
        case Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return pa.array([text]).cast(pa.timestamp("us")).view(type.arrow)
    return pa.array([text]).cast(type.arrow)
