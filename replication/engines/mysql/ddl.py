"""What a statement in the log does to tables: only as much SQL as it takes to tell.

A log of rows still has statements: everything that defines tables, and the writes of a session that switched
to another `binlog_format`. They come as the client or the server wrote them, comments included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--(?=\s|$)[^\n]*|\#[^\n]*|/\*!\d*|/\*(?!!).*?\*/|\*/)
      |`(?P<back>(?:[^`]|``)*)`
      |"(?P<double>(?:[^"\\]|""|\\.)*)"
      |(?P<text>'(?:[^'\\]|''|\\.)*')
      |(?P<word>[\w$\u0080-\uffff]+)
      |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH", "SELECT", "CALL", "DO"})
_PARTITIONS = frozenset({"DROP", "TRUNCATE", "EXCHANGE", "DISCARD", "IMPORT"})
_OPTIONS = frozenset({"ONLINE", "IGNORE", "IF", "EXISTS", "TEMPORARY", "TABLE", "TABLES", "NOT"})


class Does(StrEnum):
    """What a statement does."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    """Undo all or a part of the transaction: written only after a change that cannot be undone."""
    XA = "xa"
    """Begin, end or prepare a distributed transaction."""
    TRUNCATE = "truncate"
    DROP = "drop"
    RENAME = "rename"
    ALTER = "alter"
    """Change what a table is, and no row that the log does not show."""
    DROP_DATABASE = "drop database"
    PARTITION = "partition"
    """Remove or exchange rows by partitions or whole files, which no row event shows."""
    WRITE = "write"
    """Change rows, by the statement alone."""
    NOTHING = "nothing"
    """Nothing to any row, as far as a log of rows does not show it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement.

    Attributes:
        does: what it does.
        tables: database and name of the tables it does it to; of a rename the old and the new names.
    """

    does: Does
    tables: tuple[tuple[str, str], ...] = ()


_BEGIN = Statement(Does.BEGIN)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    word: str
    """In upper case; empty if it was quoted, and so is no keyword."""
    name: bool
    """It can be an identifier."""


def read_statement(text: str, database: str) -> Statement:
    """Tell what a statement does.

    Args:
        text: the statement.
        database: the default one, for names without.
    """
    if text == "BEGIN":  # nearly all of them are
        return _BEGIN
    tokens = list(_tokens(text))
    words = [t.word for t in tokens[:6]]
    match words:
        case ["BEGIN", *_] | ["START", "TRANSACTION", *_]:
            return _BEGIN
        case ["COMMIT", *_]:
            return Statement(Does.COMMIT)
        case ["ROLLBACK", *_]:
            return Statement(Does.ROLLBACK)
        case ["XA", "START" | "BEGIN" | "END" | "PREPARE", *_]:
            return Statement(Does.XA)
        case ["TRUNCATE", *_]:
            return Statement(Does.TRUNCATE, _names(tokens[1:], database))
        case ["DROP", "TABLE" | "TABLES", *_]:
            return Statement(Does.DROP, _names(tokens[2:], database))
        case ["DROP", "DATABASE" | "SCHEMA", *_]:
            name = next((t.text for t in tokens[2:] if t.word not in ("IF", "EXISTS")), "")
            return Statement(Does.DROP_DATABASE, ((name, ""),))
        case ["RENAME", "TABLE" | "TABLES", *_]:
            return Statement(Does.RENAME, _names(tokens[2:], database, between="TO"))
        case ["ALTER", "TABLE", *_] | ["ALTER", _, "TABLE", *_]:
            return _alter(tokens, database)
        case [first, *_] if first in _WRITES:
            return Statement(Does.WRITE)
    return Statement(Does.NOTHING)


def _alter(tokens: list[_Token], database: str) -> Statement:
    at = next(i for i, t in enumerate(tokens) if t.word == "TABLE") + 1
    names = _names(tokens[at:], database, several=False)
    words = [t.word for t in tokens]
    for i in range(at, len(words) - 1):
        if words[i] in _PARTITIONS and words[i + 1] in ("PARTITION", "TABLESPACE"):
            return Statement(Does.PARTITION, names)
        if words[i] == "RENAME" and words[i + 1] not in ("COLUMN", "INDEX", "KEY"):
            skip = words[i + 1] in ("TO", "AS", "=")
            return Statement(Does.RENAME, names + _names(tokens[i + 1 + skip :], database, several=False))
    return Statement(Does.ALTER if names else Does.NOTHING, names)


def _names(
    tokens: list[_Token], database: str, *, several: bool = True, between: str = ","
) -> tuple[tuple[str, str], ...]:
    """The names that a list of tables begins with, each with its database."""
    found = []
    at = 0
    while at < len(tokens) and tokens[at].word in _OPTIONS:
        at += 1
    while at < len(tokens) and tokens[at].name:
        parts = [tokens[at].text]
        at += 1
        if at + 1 < len(tokens) and tokens[at].text == ".":
            parts.append(tokens[at + 1].text)
            at += 2
        found.append((parts[0], parts[1]) if len(parts) > 1 else (database, parts[0]))
        if not several or at >= len(tokens) or tokens[at].word not in (",", between):
            break
        at += 1
    return tuple(found)


def _tokens(text: str) -> Iterator[_Token]:
    """Words, names and marks; what `/*! */` holds counts, as the server has it."""
    for match in _TOKEN.finditer(text):
        match match.lastgroup:
            case "back":
                yield _Token(match["back"].replace("``", "`"), "", True)
            case "double":
                yield _Token(match["double"].replace('""', '"'), "", True)
            case "word":
                yield _Token(match["word"], match["word"].upper(), True)
            case "text" | "mark":
                yield _Token(match[0], match[0], False)
