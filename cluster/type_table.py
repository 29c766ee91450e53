"""Makes docs/types.md: what becomes of every type on every engine.

Example:
  python -m cluster.type_table > docs/types.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replication.engines.creation import created
from replication.engines.mongodb.declare import declaration
from replication.engines.mysql.types import canonical
from replication.engines.postgres.types import local_type
from replication.pairing import ACCEPTS, Declaration, Pairing, Verdict, pair
from replication.types import CanonicalType, Kind

_POSTGRES: Sequence[tuple[str, int]] = (
    ("smallint", 21), ("integer", 23), ("bigint", 20), ("oid", 26), ("real", 700),
    ("double precision", 701), ("numeric", 1700), ("numeric(12,2)", 1700), ("boolean", 16),
    ("text", 25), ("character varying(20)", 1043), ("character(5)", 1042), ("name", 19), ("bytea", 17),
    ("date", 1082), ("time without time zone", 1083), ("time(0) without time zone", 1083),
    ("timestamp without time zone", 1114), ("timestamp(0) without time zone", 1114),
    ("timestamp with time zone", 1184), ("uuid", 2950), ("json", 114), ("jsonb", 3802),
    ("bit(5)", 1560), ("interval", 1186), ("interval(3)", 1186), ("inet", 869),
    ("int4range", 3904), ("integer[]", 1007), ("numeric[]", 1231), ("numeric(12,2)[]", 1231),
    ("text[]", 1009), ("date[]", 1182),
)  # fmt: skip
"""Declarations with the object id of their type."""
_MYSQL = (
    "tinyint", "tinyint(1)", "smallint", "smallint unsigned", "mediumint", "int", "int unsigned", "bigint",
    "bigint unsigned", "year", "bit(1)", "bit(5)", "decimal(12,2)", "decimal(65,30)", "float", "double",
    "char(5)", "varchar(20)", "text", "longtext", "enum('a','b')", "set('x','y')", "binary(4)",
    "varbinary(20)", "longblob", "date", "time", "time(6)", "datetime", "datetime(3)", "datetime(6)",
    "timestamp", "timestamp(6)", "json", "geometry",
)  # fmt: skip
_ENGINES = {"postgres": "PostgreSQL", "mysql": "MySQL", "mongodb": "MongoDB"}
_HEAD = """\
# Types

Made from the code by `make docs`; a change here is lost.

Every value that goes around comes back the same, or narrowed by a rule that stands here, or its row is held:
set aside with its reason, and nothing about it changed. Columns whose types do not fit each other are refused
by `sync-worker check`, which names both types and the statement that mends it.

- *same*: what comes back is what was there.
- *narrowed*: the other node keeps less, always down and never to the nearest. The wider value stays where it
  is: a value that comes back equal to its narrowed form changes nothing. `verify` compares by the same rule.
  In a key nothing is narrowed: such a pair is refused, or the row is held.
- *held*: rows with such a value go to hold; all others flow on. The other way too, what the first column
  cannot hold is held: a text that is no `inet` for one, or one that PostgreSQL would print otherwise, as
  `10.0.0.1/32`, and an item that `numeric(12,2)[]` would round. A domain counts as what it is made of.

The column that a table's `rest` names holds the fields of a document that no other column maps, as a JSON
object. To MongoDB, null, a JSON null and an empty object are no such fields, which comes back as null: a
narrowing. What is no object, or names a field that is mapped, begins with `$` or holds a dot, is held.

A text column takes any value of MongoDB's: a string as it is, the text of an ObjectId, a UUID or a date, and
everything else, code too, as extended JSON. In the document it stays what it is until the text is changed.

The tables show the column that `create_tables` makes. A column that is there already is judged by its own
declaration: `datetime` beside PostgreSQL's `timestamp` is narrowed down to the second, and `varchar(20)`
beside `text` holds what is longer. `sync-worker check` shows what applies to each column of a group.
"""


def declarations(engine: str) -> Iterator[Declaration]:
    """The types of an engine that the table shows; of MongoDB the canonical kinds."""
    if engine == "postgres":
        for native, oid in _POSTGRES:
            local = local_type(oid)
            yield Declaration(CanonicalType(local.kind, native, local.item), engine)
        yield Declaration(CanonicalType(local_type(1 << 20, enum=True).kind, "an enum"), engine)
    elif engine == "mysql":
        for native in _MYSQL:
            type = canonical(native.partition("(")[0].split()[0], native)
            yield Declaration(type, engine)
    else:
        for kind in Kind:
            yield Declaration(CanonicalType(kind, item=Kind.INT64 if kind is Kind.LIST else None), engine)


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for engine in _ENGINES for line in _table(engine)), *_accepted()])


def _table(engine: str) -> Iterator[str]:
    others = list(_ENGINES)
    heads = [_ENGINES[engine], "canonical", *(f"at {_ENGINES[other]}" for other in others)]
    yield f"## From {_ENGINES[engine]}\n"
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for wide in declarations(engine):
        native = wide.type.native or declaration(wide.type)
        cells = [f"`{native}`" if native != "an enum" else native, wide.type.kind.value]
        for other in others:
            made = created(wide, other)
            shown = declaration(wide.type) if other == "mongodb" else made.type.native
            text = describe(pair(wide, made))
            cells.append(f"`{shown}`: {text}" if other != engine and shown else text)
        yield f"| {' | '.join(cells)} |"
    yield ""


def describe(pairing: Pairing) -> str:
    """An answer in a few words."""
    parts = [pairing.verdict.value + (f": {pairing.rule}" if pairing.verdict is not Verdict.SAME else "")]
    parts += [f"held: {', '.join(pairing.held)}"] if pairing.held else []
    return "; ".join(parts)


def _accepted() -> Iterator[str]:
    yield "## Columns that are there already\n"
    yield "Beside its own kind a column may be of another one than the node of highest priority declares.\n"
    yield f"| declared there | {' | '.join(f'fits on {_ENGINES[engine]}' for engine in ACCEPTS)} |"
    yield "|---" * (len(ACCEPTS) + 1) + "|"
    for kind in Kind:
        fits = [", ".join(sorted({kind, *ACCEPTS[engine].get(kind, ())})) for engine in ACCEPTS]
        yield f"| {kind} | {' | '.join(fits)} |"
    yield ""


if __name__ == "__main__":
    print(render(), end="")
