"""What changed between two shapes of a table, and what a policy makes of it. Pure: no connection, no Ray.

A change of a table is noticed in its node's log while the group runs, or by comparing with what the node had
when the group ran last. Either way the same comparison says what it is, and the table's policy what follows:

    on_alter      evolve   added and widened columns are carried to the other nodes; anything else halts
                  ignore   what the mapped columns survive is left alone; anything else halts
                  halt     any change halts
    on_truncate   carry    the rows are deleted on the other nodes
                  ignore   they stay there
                  halt
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from replication.change import SchemaChange
from replication.schema import Column, Table, TableSchema
from replication.types import CanonicalType, Kind


class Changed(StrEnum):
    """What happened to a column."""

    ADDED = "added"
    WIDENED = "widened"
    """It holds everything that it held before, and more."""
    NARROWED = "narrowed"
    """It holds less than before."""
    GONE = "gone"
    """Dropped or renamed."""
    RETYPED = "retyped"
    """Its values are others now."""


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """One column that is not what it was.

    Attributes:
        what: what happened.
        column: as it is now; of one that is gone, as it was.
        before: as it was; None if it is new.
    """

    what: Changed
    column: Column
    before: Column | None = None

    def __str__(self) -> str:
        name, now = self.column.name, _declared(self.column)
        match self.what:
            case Changed.ADDED:
                return f"column {name} was added ({now})"
            case Changed.GONE:
                return f"column {name} is gone"
        before = _declared(self.before) if self.before is not None else "?"
        return f"column {name} was {self.what} from {before} to {now}"


class Verdict(StrEnum):
    """What is done about a change that a log shows."""

    PASS = "pass"
    """Record it and go on."""
    CARRY = "carry"
    """Delete the rows of a TRUNCATE on the other nodes."""
    STOP = "stop"
    """End this incarnation: the change must be looked at, or settled by somebody."""


def verdict(table: Table, node: str, event: SchemaChange) -> Verdict:
    """What a table's policy makes of an event in `node`'s log."""
    if event.end.order <= table.accepted.get(node, -1):
        return Verdict.PASS
    match event.what:
        case "truncate" | "partition":
            if table.mapping.on_truncate == "ignore":
                return Verdict.PASS
            carried = table.mapping.on_truncate == "carry" and event.what == "truncate"
            return Verdict.CARRY if carried else Verdict.STOP
        # What is written there must be checked by the new declaration.
        case "alter" if event.fits and not event.resized and table.mapping.on_alter == "ignore":
            return Verdict.PASS
    return Verdict.STOP


def carried(policy: str, change: ColumnChange) -> bool:
    """Whether the policy carries a change to the other nodes."""
    return policy == "evolve" and change.what in (Changed.ADDED, Changed.WIDENED)


def ignored(policy: str, change: ColumnChange, agreed: Sequence[str]) -> bool:
    """Whether the policy leaves a change alone.

    Args:
        policy: `on_alter` of the table.
        change: what happened.
        agreed: the columns that travel.
    """
    if change.column.name not in agreed and change.what is not Changed.ADDED:
        return True  # it never left its node
    return policy == "ignore" and change.what in (Changed.ADDED, Changed.WIDENED, Changed.NARROWED)


def differences(before: TableSchema, now: TableSchema) -> list[ColumnChange]:
    """What happened to the columns between two readings of the same table on the same node.

    Defaults do not count: they say nothing of rows that exist.
    """
    return list(_differences(before, now))


def resizes(changes: Iterable[ColumnChange], table: Table) -> bool:
    """Whether a column that travels keeps more or less of a value than before."""
    travel = {c.name for c in table.schema.columns}
    return any(c.column.name in travel and c.before and c.before.type != c.column.type for c in changes)


def _differences(before: TableSchema, now: TableSchema) -> Iterator[ColumnChange]:
    old = {c.name: c for c in before.columns}
    for column in now.columns:
        was = old.pop(column.name, None)
        if was is None:
            yield ColumnChange(Changed.ADDED, column)
        elif (what := _compare(was, column)) is not None:
            yield ColumnChange(what, column, was)
    for column in old.values():
        yield ColumnChange(Changed.GONE, column)


def _compare(was: Column, now: Column) -> Changed | None:
    if was.generated != now.generated:
        return Changed.RETYPED
    wider, narrower = holds(now.type, was.type), holds(was.type, now.type)
    if not wider and not narrower:
        return Changed.RETYPED
    if (not wider) or (was.nullable and not now.nullable):
        return Changed.NARROWED
    return Changed.WIDENED if not narrower or (now.nullable and not was.nullable) else None


_NATIVE = re.compile(r"^([a-z]+(?: [a-z]+)*)(?:\((\d+)(?:,\s*(-?\d+))?\))?(.*)$", re.IGNORECASE | re.DOTALL)
_MEMBERS = re.compile(r"^(?:enum|set)\((.*)\)", re.IGNORECASE | re.DOTALL)
_MEMBER = re.compile(r"'((?:[^']|'')*)'")
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_KIND_BITS = {Kind.INT16: 16, Kind.INT32: 32, Kind.INT64: 64}
_INTEGERS = frozenset(_KIND_BITS)
_SIZES = {"tiny": 255, "": 65_535, "medium": 16_777_215}
_UNBOUNDED = 1 << 40


def holds(have: CanonicalType, wanted: CanonicalType) -> bool:
    """Whether a column of type `have` holds every value of a column of type `wanted`.

    Lengths and precisions count as far as the native declarations name them; what they do not tell is taken
    for unbounded.
    """
    if have == wanted:
        return True
    if wanted.kind in _INTEGERS and have.kind in _INTEGERS:
        return _integer_bits(have) >= _integer_bits(wanted)
    if wanted.kind in _INTEGERS and have.kind is Kind.NUMERIC:
        return _digits(have)[0] >= len(str(1 << (_integer_bits(wanted) - 1)))
    if (wanted.kind, have.kind) == (Kind.FLOAT32, Kind.FLOAT64):
        return True
    if have.kind is not wanted.kind or have.item is not wanted.item:
        return False
    match have.kind:
        case Kind.NUMERIC:
            return all(h >= w for h, w in zip(_digits(have), _digits(wanted), strict=True))
        case Kind.TEXT:
            return _holds_text(have, wanted)
        case Kind.BYTES:
            return _length(have) >= _length(wanted)
        case Kind.TIME | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return _fraction(have) >= _fraction(wanted)
        case Kind.OPAQUE:
            a, b = _parts(have.native), _parts(wanted.native)
            return a[0] == b[0] and (a[1] or 0) >= (b[1] or 0)
    return True


def _parts(native: str) -> tuple[str, int | None, int | None, str]:
    """Name, first and second number, and the rest of a native declaration, in lower case."""
    match = _NATIVE.match(native)
    if match is None:
        return native.lower(), None, None, ""
    size, scale = match[2], match[3]
    return match[1].lower(), int(size) if size else None, int(scale) if scale else None, match[4].lower()


def _integer_bits(type: CanonicalType) -> int:
    name, _, _, rest = _parts(type.native)
    first, _, more = name.partition(" ")
    bits = _BITS.get(first)
    if bits is None:
        return _KIND_BITS[type.kind]
    return bits + ("unsigned" in f"{more} {rest}")


def _digits(type: CanonicalType) -> tuple[int, int]:
    """Digits before and behind the point."""
    name, size, scale, _ = _parts(type.native)
    if name.startswith("bigint"):
        return 20, 0
    if size is None or not name.startswith(("numeric", "decimal")):
        return _UNBOUNDED, _UNBOUNDED
    return size - (scale or 0), scale or 0


def _holds_text(have: CanonicalType, wanted: CanonicalType) -> bool:
    mine, theirs = _members(have.native), _members(wanted.native)
    if mine is not None:
        return theirs is not None and set(mine) >= set(theirs)
    if theirs is not None:
        return _length(have) >= max(map(len, theirs), default=0)
    return _length(have) >= _length(wanted)


def _members(native: str) -> list[str] | None:
    match = _MEMBERS.match(native)
    return None if match is None else _MEMBER.findall(match[1])


def _length(type: CanonicalType) -> int:
    """Characters of a text, bytes of bytes."""
    name, size, _, rest = _parts(type.native)
    words = f"{name} {rest}"
    for suffix in ("text", "blob"):
        first = name.partition(" ")[0]
        # PostgreSQL's text has no limit; MySQL's names its character set, and a blob is MySQL's alone.
        if first.endswith(suffix) and (suffix == "blob" or "character set" in words):
            return _SIZES.get(first.removesuffix(suffix), _UNBOUNDED)
    if size is not None:
        return size
    return 1 if name in ("character", "char") else _UNBOUNDED


def _fraction(type: CanonicalType) -> int:
    """Digits of a second's fraction."""
    name, size, _, rest = _parts(type.native)
    if size is not None:
        return size
    return 0 if name in ("time", "datetime", "timestamp") and "zone" not in rest else 6


def _declared(column: Column) -> str:
    native = column.type.native.partition(" CHARACTER SET ")[0] or str(column.type.kind)
    return native if column.nullable else f"{native} not null"
