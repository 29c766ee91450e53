"""What becomes of a column's values between the node that declares it and another node.

For each pair of declared types there is one answer: every value comes back as it was, or narrowed by a
declared rule, or the pair is refused before the start. Beside it stands what single values are held for:
such a row is set aside with its reason, and nothing about it is changed.

The engines ask it in preflight, `check` prints it, and docs/types.md is made from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from replication.declared import declared, second_digits
from replication.narrowing import CLOCKS, DECIMAL128_DIGITS, MILLISECONDS
from replication.types import CanonicalType, Kind

_INTEGERS = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
_EXACT_IN = {
    Kind.FLOAT32: frozenset({Kind.INT16}),
    Kind.FLOAT64: frozenset({Kind.FLOAT32, Kind.INT16, Kind.INT32}),
}
"""By the kind of a list's items that are rounded, the kinds that are not when they become such items."""
_WIDTH = {Kind.BOOLEAN: 1, Kind.INT16: 2, Kind.INT32: 4, Kind.INT64: 8}
_PLAIN = frozenset({Kind.TEXT, Kind.OPAQUE, Kind.JSON, Kind.UUID})
"""Kinds whose texts a PostgreSQL column of a text type keeps, and reads back, as they are."""
ACCEPTS: Mapping[str, Mapping[Kind, frozenset[Kind]]] = {
    "postgres": {
        Kind.INT32: frozenset({Kind.INT16}),
        Kind.INT64: frozenset({Kind.INT16, Kind.INT32}),
        Kind.FLOAT64: frozenset({Kind.FLOAT32, *_INTEGERS}),
        Kind.NUMERIC: _INTEGERS,
        Kind.UUID: frozenset({Kind.TEXT}),
        Kind.JSON: frozenset({Kind.TEXT}),
        Kind.LIST: frozenset({Kind.JSON, Kind.TEXT}),
        Kind.TEXT: _PLAIN,
        Kind.OPAQUE: _PLAIN,
    },
    "mysql": {
        Kind.BOOLEAN: _INTEGERS,
        Kind.INT16: _INTEGERS,
        Kind.INT32: _INTEGERS,
        Kind.INT64: frozenset({*_INTEGERS, Kind.NUMERIC}),
        Kind.FLOAT32: frozenset({Kind.FLOAT64}),
        Kind.NUMERIC: _INTEGERS,
        Kind.UUID: frozenset({Kind.TEXT, Kind.BYTES}),
        Kind.JSON: frozenset({Kind.TEXT}),
        Kind.LIST: frozenset({Kind.JSON, Kind.TEXT}),
        Kind.TIMESTAMPTZ: frozenset({Kind.TIMESTAMP}),
        Kind.TIMESTAMP: frozenset({Kind.TIMESTAMPTZ}),
        Kind.TEXT: frozenset({Kind.OPAQUE, Kind.BYTES}),
        Kind.OPAQUE: frozenset({Kind.TEXT}),
    },
}
"""By engine and canonical kind, the kinds of columns that can be read as it beside that kind itself."""
_SIZED = ("char", "varchar", "bit")
_BYTES_OF = {"tinytext": 255, "tinyblob": 255, "text": 65_535, "blob": 65_535}


class Verdict(StrEnum):
    """What becomes of the values."""

    SAME = "same"
    """What comes back is what was there."""
    NARROWED = "narrowed"
    """A rule says what the other node keeps; the wider value stays where it is."""
    REFUSED = "refused"
    """The pair is refused before the start."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """One answer.

    Attributes:
        verdict: what becomes of the values.
        rule: of a narrowing what it does, of a refusal why.
        held: values for which a row is held at the other node.
    """

    verdict: Verdict
    rule: str = ""
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """A column as one node declares it.

    Attributes:
        type: kind and native declaration.
        engine: whose dialect the native declaration is in.
    """

    type: CanonicalType
    engine: str

    @property
    def digits(self) -> int:
        """The digits of the second that it keeps."""
        if self.engine == "mongodb":
            return MILLISECONDS if self.type.kind is not Kind.TIME else 6
        return second_digits(self.type.native, self.engine)


def accepts(engine: str, kind: Kind, own: Collection[Kind]) -> bool:
    """Whether a column can be read as values of a canonical kind.

    Args:
        engine: the column's engine.
        kind: the canonical kind.
        own: the kinds that the column is by itself.
    """
    return kind in own or not ACCEPTS.get(engine, {}).get(kind, frozenset()).isdisjoint(own)


def items_fit(type: CanonicalType, other: CanonicalType) -> bool:
    """Whether no item of a list of one type is rounded in a list of another."""
    exact = _EXACT_IN.get(other.item) if other.kind is Kind.LIST and other.item is not None else None
    return type.kind is not Kind.LIST or exact is None or type.item in (other.item, *exact)


def pair(wide: Declaration, other: Declaration) -> Pairing:
    """What becomes of values of `wide`, which decides the canonical type, at the node of `other`."""
    kind = wide.type.kind
    if other.engine == "mongodb":
        if wide.engine == "mongodb":
            return Pairing(Verdict.SAME)
        rule = _document_rule(wide)
        return Pairing(Verdict.NARROWED if rule else Verdict.SAME, rule, tuple(_document_held(wide)))
    if not accepts(other.engine, kind, _kinds(other)) or not items_fit(wide.type, other.type):
        return Pairing(Verdict.REFUSED, f"{shown(other.type)} is not {shown(wide.type)}")
    held = tuple(_held(wide, other))
    if kind in CLOCKS and other.digits < wide.digits:
        return Pairing(Verdict.NARROWED, _down_to(other.digits), held)
    return Pairing(Verdict.SAME, held=held)


def shown(type: CanonicalType) -> str:
    """A type for people: the canonical kind, and the native declaration where it says more."""
    kind, native = type.kind.value, type.native.split(" CHARACTER SET ")[0]
    return f"{kind} ({native})" if native and native != kind else kind


def _kinds(d: Declaration) -> set[Kind]:
    own = {d.type.kind}
    if d.engine == "mysql" and d.type.kind is Kind.BOOLEAN:
        own.add(Kind.OPAQUE if declared(d.type.native).name == "bit" else Kind.INT16)
    return own


def _down_to(digits: int) -> str:
    names = {0: "the second", MILLISECONDS: "the millisecond"}
    return f"down to {names.get(digits, f'{digits} digits of the second')}"


def _document_rule(wide: Declaration) -> str:
    kind, own = wide.type.kind, declared(wide.type.native)
    if kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ) and wide.digits > MILLISECONDS:
        return _down_to(MILLISECONDS)
    if kind is Kind.NUMERIC and "unsigned" not in own.name and (own.size or 99) > DECIMAL128_DIGITS:
        return f"cut to {DECIMAL128_DIGITS} digits"
    if wide.type.rest:
        return "a bare JSON null and an empty object are null"
    return "a bare JSON null is null" if kind is Kind.JSON else ""


def _document_held(wide: Declaration) -> Iterator[str]:
    if wide.type.kind is Kind.NUMERIC and wide.engine == "postgres" and not declared(wide.type.native).size:
        yield "numbers of more than 6,145 digits before the point"
    if wide.type.rest:
        yield "JSON that is no object, or names a field that is mapped, begins with $ or holds a dot"
    if _any_number(wide) and wide.engine != "mysql":
        yield f"JSON numbers that have neither 64 bits nor at most {DECIMAL128_DIGITS} digits"


def _held(wide: Declaration, other: Declaration) -> Iterator[str]:
    kind = wide.type.kind
    if kind in _INTEGERS:
        if _WIDTH.get(other.type.kind, 8) < _WIDTH[kind] or (_unsigned(other) and not _unsigned(wide)):
            yield f"numbers that {_bare(other)} cannot hold"
    elif kind is Kind.NUMERIC:
        yield from _held_numbers(wide, other)
    elif kind in (Kind.FLOAT32, Kind.FLOAT64):
        if other.engine == "mysql" and wide.engine != "mysql":
            yield "NaN and infinities"
        if kind is Kind.FLOAT64 and other.type.kind is not Kind.FLOAT64:
            yield f"numbers that {_bare(other)} cannot hold"
    elif kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        if other.engine == "mysql":
            yield from _held_dates(wide, other)
        elif wide.engine not in ("postgres", "mysql"):
            yield "years before 4713 BC or beyond 294276"
    elif kind in (Kind.TEXT, Kind.OPAQUE):
        yield from _held_texts(wide, other)
        yield from _held_respelled(wide, other)
    elif kind is Kind.BYTES:
        yield from _held_bytes(wide, other)
    elif kind in (Kind.JSON, Kind.LIST) and other.type.kind is Kind.JSON:
        if other.engine == "mysql" and wide.engine != "mysql" and _any_number(wide):
            yield "JSON numbers that are neither integers of 64 bits nor doubles"
        if declared(other.type.native).name == "jsonb" and wide.engine != "postgres":
            yield "JSON with \\u0000"
    elif kind is Kind.LIST and other.type.native != wide.type.native and _size(other) is not None:
        yield f"items that {_bare(other)} would round or cut"


def _held_numbers(wide: Declaration, other: Declaration) -> Iterator[str]:
    if other.engine == "mysql" and wide.engine != "mysql":
        yield "NaN and infinities"
    if other.type.kind in _INTEGERS or _unsigned(other):
        if not (_unsigned(wide) and _unsigned(other)):
            yield f"numbers that {_bare(other)} cannot hold"
        return
    size, scale = _precision(other)
    if size is None:
        return
    wide_size, wide_scale = _precision(wide)
    if wide_size is None or wide_scale > scale or wide_size - wide_scale > size - scale:
        yield f"more than {size - scale} digits before the point or {scale} behind it"


def _held_dates(wide: Declaration, other: Declaration) -> Iterator[str]:
    name = declared(other.type.native).name
    if name.startswith("timestamp") and not (
        wide.engine == "mysql" and declared(wide.type.native).name.startswith("timestamp")
    ):
        yield "instants outside 1970 to 2038, infinities"
    elif wide.engine != "mysql":
        yield "years outside 1 to 9999, infinities"


def _held_texts(wide: Declaration, other: Declaration) -> Iterator[str]:
    own, source = declared(other.type.native), declared(wide.type.native)
    if own == source and wide.engine == other.engine:
        return
    written = wide.type.kind is Kind.TEXT and not source.name.startswith(("enum", "set"))
    if other.engine == "postgres" and wide.engine != "postgres" and written:
        yield "texts with U+0000"
    if other.engine == "mysql" and own.name.startswith(("enum", "set")):
        yield "what is no member"
        return
    if own.name in ("char", "character") and source.name not in ("char", "character"):
        yield "texts with blanks at the end"
    if own.size is not None and own.name.startswith(_SIZED):
        if source.size is None or source.size > own.size or not source.name.startswith(_SIZED):
            yield f"texts longer than {own.size} characters"
    elif other.engine == "mysql" and (limit := _BYTES_OF.get(own.name)):
        yield f"texts of more than {limit:,} bytes"


def _held_respelled(wide: Declaration, other: Declaration) -> Iterator[str]:
    """Texts that PostgreSQL reads as a type of its own and prints again, maybe otherwise."""
    own = other.type.kind
    if other.engine != "postgres" or own not in (Kind.OPAQUE, Kind.UUID, Kind.JSON):
        return
    bare = wide.type.native.partition("(")[0]
    if wide.engine != "postgres" or other.type.native not in (wide.type.native, bare):
        yield f"texts that {_bare(other)} would print otherwise, or not read"


def _held_bytes(wide: Declaration, other: Declaration) -> Iterator[str]:
    own, source = declared(other.type.native), declared(wide.type.native)
    if own == source or other.engine != "mysql":
        return
    if own.name == "binary":
        yield f"what is not {own.size} bytes long"
    elif own.name == "varbinary" and own.size is not None and (source.size is None or source.size > own.size):
        yield f"more than {own.size} bytes"
    elif limit := _BYTES_OF.get(own.name):
        yield f"more than {limit:,} bytes"


def _any_number(d: Declaration) -> bool:
    """Whether it is JSON with numbers of any size."""
    return d.type.kind is Kind.JSON or (d.type.kind is Kind.LIST and d.type.item in (None, Kind.NUMERIC))


def _bare(d: Declaration) -> str:
    return d.type.native.split(" CHARACTER SET ")[0] or d.type.kind.value


def _unsigned(d: Declaration) -> bool:
    return d.engine == "mysql" and "unsigned" in d.type.native


def _size(d: Declaration) -> int | None:
    return declared(d.type.native).size


def _precision(d: Declaration) -> tuple[int | None, int]:
    """Digits, and how many of them are behind the point; None if nothing says so."""
    own = declared(d.type.native)
    if d.type.kind in _INTEGERS:
        return {Kind.INT16: 5, Kind.INT32: 10, Kind.INT64: 19}[d.type.kind], 0
    if _unsigned(d) and own.name.startswith("bigint"):
        return 20, 0
    return own.size, own.scale or 0
