"""What a role sees of the audit log: for each table and column clear, hashed, masked or hidden. Pure.

Whatever shows records to somebody passes them through a `View`, at the end: filters work with what is
recorded. A record has a value in more than one place. The key is in `_key`, `key`, `key_text`, and in the
names of conflicts and holds; a row is in changes and in the images of conflicts; and what a node says when it
refuses a row, or what an operator did, is text in which anything may stand. A view knows them all, and where
it does not know a text to be free of values, it withholds it.

**Hashed** is HMAC-SHA-256 under a key of the log's own, cut to 128 bits: equal values of the same column look
equal, and nobody without the key can try values out. **Masked** shows the shape alone: letters and digits are
`x`, a few marks stay, what is long is cut; of bytes it shows how many. Null stays null in both.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

import orjson
import pyarrow as pa

from replication.audit.printing import printable_column
from replication.audit.records import (
    CHANGES,
    CONFLICTS,
    DECISIONS,
    ERASED,
    HOLDS,
    OPERATOR,
    payload_columns,
)
from replication.errors import ConfigError

ROLES = ("viewer", "auditor", "operator", "admin")
"""Each may what those before it may."""
EVERY = "*"
"""In the place of a column: every one that is not named."""
HASH_PREFIX = "hmac:"
_HASH_BYTES = 16
_MARKS = frozenset(" @.,:;-_/+")
_SHAPE_MOST = 40
_OPEN_KINDS = frozenset(
    {"api_denied", "paused", "resumed", "backfill_started", "backfill_resized"}
    | {"backfill_finished", "log_replaced"}
    | {f"{what}_{how}" for what in ("repair", "replay") for how in ("started", "finished")}
    | {f"audit_{what}" for what in ("tail_cut", "records_missing", "head_not_signed", "pruned")}
    | {"audit_keys_rotated", "subject_erasing", "subject_erased", "started", "stopped"}
)
"""Operator records whose detail holds no value of a row, and no key."""
_OPEN_FIELDS = ("by", "node", "table")


class NotForRole(ConfigError):
    """Something was asked for by a value that the role does not see."""


class Treatment(StrEnum):
    """What becomes of a value, the most open first."""

    CLEAR = "clear"
    HASHED = "hashed"
    MASKED = "masked"
    HIDDEN = "hidden"


_SEVERITY = {treatment: place for place, treatment in enumerate(Treatment)}
ByRole = Mapping[str, Treatment]


@dataclass(frozen=True, slots=True)
class TableRule:
    """What the roles see of one table.

    Attributes:
        key: its key columns.
        columns: by column, or `EVERY`, for each role what it sees; a column that is not in it is clear.
    """

    key: tuple[str, ...]
    columns: Mapping[str, ByRole] = field(default_factory=dict)


Rules = Mapping[str, TableRule]
"""For each mapped table; records of others are hidden from whoever does not see everything."""


class View:
    """The records as one role sees them.

    Args:
        role: one of `ROLES`.
        rules: None where everybody sees everything.
        secret: the key of hashes; needed where something is hashed or is not clear.
    """

    def __init__(self, role: str, rules: Rules | None, secret: bytes = b"") -> None:
        self.role = role
        self._rules = rules or {}
        self._secret = secret
        self.limited = any(not self._is_open(rule) for rule in self._rules.values())
        """Whether there is anything that it does not show in clear."""

    def _is_open(self, rule: TableRule) -> bool:
        return all(by_role[self.role] is Treatment.CLEAR for by_role in rule.columns.values())

    @property
    def withheld(self) -> str:
        """What stands in the place of a text that may hold values."""
        return f"(not for the role {self.role})"

    def of(self, table: str, column: str) -> Treatment:
        """What becomes of a column's values."""
        if not self.limited:
            return Treatment.CLEAR
        if (rule := self._rules.get(table)) is None:
            return Treatment.HIDDEN
        by_role = rule.columns.get(column) or rule.columns.get(EVERY)
        return by_role[self.role] if by_role else Treatment.CLEAR

    def of_key(self, table: str | None) -> Treatment:
        """What becomes of a table's keys: the strictest of their columns. None is all tables."""
        if not self.limited:
            return Treatment.CLEAR
        if table is None:
            return _strictest(self.of_key(t) for t in self._rules)
        if (rule := self._rules.get(table)) is None:
            return Treatment.HIDDEN
        return _strictest(self.of(table, column) for column in rule.key)

    def is_clear(self, table: str) -> bool:
        """Whether all of a table is shown."""
        return not self.limited or (table in self._rules and self._is_open(self._rules[table]))

    def text(self, table: str | None, text: str | None) -> str | None:
        """A text that may hold values of a table, or of any."""
        open_to = not self.limited if table is None else self.is_clear(table)
        return text if open_to or not text else self.withheld

    def may_ask(self, table: str | None) -> None:
        """Refuse to look for a key that is not seen: whether it is found would tell it.

        Raises:
            NotForRole: the keys of the table, or of one of all, are masked or hidden.
        """
        if self.of_key(table) in (Treatment.MASKED, Treatment.HIDDEN):
            what = f"keys of {table}" if table else "every table's keys"
            message = f"the role {self.role} does not see {what}, and cannot ask for one"
            raise NotForRole(message, hint="ask without a key, or for a table whose keys the role sees")

    def has_key(self, table: str, key: bytes, wanted: str, canonical: Iterable[bytes], text: str) -> bool:
        """Whether a record's key is the one that is asked for: as the role sees it."""
        seen = self.of_key(table)
        if seen is Treatment.CLEAR:
            return key in canonical or text == wanted
        return seen is Treatment.HASHED and self._key(table, key) == wanted

    def rows(self, stream: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Records of a stream. Columns that are hidden are left out; what is not clear is text."""
        kind, _, table = stream.partition("/")
        if not self.limited or (kind == CHANGES and self.is_clear(table)):
            return rows
        if kind == CHANGES:
            return self._changes(table, rows)
        if kind == DECISIONS:
            keys = zip(rows.column("_table").to_pylist(), rows.column("_key").to_pylist(), strict=True)
            return _with(rows, {"_key": [self._key(t, k) for t, k in keys]})
        shown = [self.entry(kind, row) for row in rows.to_pylist()]
        names = [n for n in rows.schema.names if n in payload_columns(stream, rows.schema.names)]
        return _with(rows, {name: [row[name] for row in shown] for name in names})

    def entry(self, kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """One record of the streams `conflicts`, `holds` or `operator`, with what was added for people."""
        if not self.limited or record.get(ERASED):
            return dict(record)
        shown: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            CONFLICTS: self._conflict,
            HOLDS: self._hold,
            OPERATOR: self._operator,
        }
        return {**record, **shown[kind](record)}

    def _changes(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        payload = payload_columns(f"{CHANGES}/{table}", rows.schema.names)
        names = [n for n in rows.schema.names if n in payload and n not in ("_key", "_have", "_changed")]
        treatments = {name: self.of(table, name) for name in names}
        new: dict[str, list[Any] | None] = {}
        if Treatment.HIDDEN in treatments.values():  # their bits tell of columns that are not there
            new |= dict.fromkeys(("_have", "_changed"))
        if (of_key := self.of_key(table)) is Treatment.HIDDEN:
            new["_key"] = None
        elif of_key is not Treatment.CLEAR:
            new["_key"] = [self._key(table, key) for key in rows.column("_key").to_pylist()]
        for name, treatment in treatments.items():
            if treatment is Treatment.HIDDEN:
                new[name] = None
            elif treatment is not Treatment.CLEAR:
                column = rows.column(name)
                values = column.to_pylist() if pa.types.is_binary(column.type) else printable_column(column)
                new[name] = [self._value(table, name, value) for value in values]
        return _with(rows, new)

    def _conflict(self, record: Mapping[str, Any]) -> dict[str, Any]:
        table = record["table"]
        images = {side: self._image(table, record[side]) for side in ("left_image", "right_image")}
        return images | self._named(table, record, record["ident"])

    def _hold(self, record: Mapping[str, Any]) -> dict[str, Any]:
        table, key = record["table"], record["key"]
        key = key.hex() if isinstance(key, bytes) else key
        named = self._named(table, record, f"{record['node']}/{table}/{key}")
        return {"reason": self.text(table, record["reason"])} | named

    def _operator(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if record["kind"] in _OPEN_KINDS:
            return {}
        detail = json.loads(record["detail"])
        kept = {n: detail[n] for n in _OPEN_FIELDS if isinstance(detail, dict) and n in detail}
        kept = {name: value for name, value in kept.items() if isinstance(value, str)}
        return {"detail": json.dumps(kept | {"withheld": self.withheld}, separators=(",", ":"))}

    def _named(self, table: str, record: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The key of a record about a row, and what is made from the key: its names."""
        treatment, key = self.of_key(table), record["key"]
        if treatment is Treatment.CLEAR:
            return {"key": key.hex() if isinstance(key, bytes) else key}
        shown = self._key(table, bytes.fromhex(key) if isinstance(key, str) else key)
        text = shown if treatment is Treatment.HASHED else self.withheld
        if treatment is Treatment.MASKED:
            text = masked(record["key_text"])
        ident = self._hash(table, "ident", name.encode())
        found = {"key": shown, "key_text": text, "ident": ident, "id": ident.removeprefix(HASH_PREFIX)[:8]}
        return {n: v for n, v in found.items() if n in record}

    def _image(self, table: str, text: str | None) -> str | None:
        if text is None or self.is_clear(table):
            return text
        image = {
            name: value if self.of(table, name) is Treatment.CLEAR else self._value(table, name, value)
            for name, value in json.loads(text).items()
            if self.of(table, name) is not Treatment.HIDDEN
        }
        return orjson.dumps(image).decode()

    def _key(self, table: str, key: bytes | None) -> str | None:
        """A canonical key; in clear it is hexadecimal."""
        treatment = self.of_key(table)
        if key is None or treatment is Treatment.CLEAR:
            return None if key is None else key.hex()
        return self._value(table, "_key", key, treatment)

    def _value(self, table: str, column: str, value: Any, treatment: Treatment | None = None) -> str | None:
        """A value that is not shown in clear."""
        treatment = treatment or self.of(table, column)
        if value is None or treatment is Treatment.HIDDEN:
            return None
        if treatment is Treatment.MASKED:
            return masked(value)
        return self._hash(table, column, value if isinstance(value, bytes) else _text(value).encode())

    def _hash(self, table: str, column: str, value: bytes) -> str:
        about = json.dumps([table, column]).encode() + b"\n"
        return HASH_PREFIX + hmac.digest(self._secret, about + value, "sha256")[:_HASH_BYTES].hex()


EVERYTHING = View(ROLES[-1], None)
"""Nothing is kept back."""


def masked(value: Any) -> str:
    """The shape of a value."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, bool):
        return "x"
    text = _text(value)
    shape = "".join(c if c in _MARKS else "x" if c.isalnum() else "?" for c in text[:_SHAPE_MOST])
    return shape + ("…" if len(text) > _SHAPE_MOST else "")


def complete(given: Mapping[str, Treatment]) -> ByRole:
    """What each role sees: one that is not named, what the one before it does; before the first, nothing."""
    found: dict[str, Treatment] = {}
    seen = Treatment.HIDDEN
    for role in ROLES:
        seen = found[role] = given.get(role, seen)
    return found


def shrinking(by_role: ByRole) -> tuple[str, str] | None:
    """Two roles of which the second sees less than the first, although it may do more."""
    open_to = {Treatment.HIDDEN: 0, Treatment.MASKED: 1, Treatment.HASHED: 1, Treatment.CLEAR: 2}
    for lower, higher in pairwise(ROLES):
        if open_to[by_role[higher]] < open_to[by_role[lower]]:
            return lower, higher
    return None


def _strictest(treatments: Iterable[Treatment]) -> Treatment:
    return max(treatments, key=_SEVERITY.__getitem__, default=Treatment.CLEAR)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _with(rows: pa.RecordBatch, new: Mapping[str, list[Any] | None]) -> pa.RecordBatch:
    """Rows with other values, as text, in some columns; without those that have None."""
    columns = {
        name: pa.array(new[name], pa.utf8()) if name in new else column
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
        if name not in new or new[name] is not None
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
