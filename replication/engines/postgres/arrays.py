"""PostgreSQL's array literals and JSON arrays, there and back.

    {1,NULL,3}             [1,null,3]
    {"a b",NULL,"NULL"}    ["a b",null,"NULL"]
    {{1,2},{3,4}}          [[1,2],[3,4]]

Numbers and booleans are JSON's own, except what JSON cannot hold exactly: numerics, NaN and infinities are
strings. Lower bounds other than one are dropped, as JSON arrays have none.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replication.types import Kind

_BARE = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
_BOUNDS = re.compile(r"^[\[\]0-9:+-]+=")
_TOKEN = re.compile(r'[{},]|"(?:[^"\\]|\\.)*"|[^{},"]+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_FLOATS = {Kind.FLOAT32, Kind.FLOAT64}


def array_to_json(column: pa.Array, item: Kind) -> pa.Array:
    """Array literals to JSON arrays.

    Args:
        column: utf8 literals as the server prints them; nulls stay null.
        item: the kind of the items.
    """
    if item in _BARE and not pc.any(pc.match_substring(column, "=")).as_py():
        text = pc.replace_substring(pc.replace_substring(column, "{", "["), "}", "]")
        return pc.replace_substring(text, "NULL", "null")
    values = [None if text is None else _dump(_parse(text, item)) for text in column.to_pylist()]
    return pa.array(values, pa.utf8())


def json_to_array(column: pa.Array) -> pa.Array:
    """JSON arrays to array literals. A text that is no JSON array is passed on for the server to refuse."""
    values = [None if text is None else _literal_of(text) for text in column.to_pylist()]
    return pa.array(values, pa.utf8())


def _parse(text: str, item: Kind) -> list[Any]:
    stack: list[list[Any]] = [[]]
    for token in _TOKEN.findall(_BOUNDS.sub("", text)):
        if token == "{":
            inner: list[Any] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token == "}":
            stack.pop()
        elif token != ",":
            stack[-1].append(_value(token, item))
    whole: list[Any] = stack[0][0]
    return whole


def _value(token: str, item: Kind) -> Any:
    if token[0] == '"':
        return _ESCAPE.sub(r"\1", token[1:-1])
    if token == "NULL":
        return None
    if item in _BARE:
        return int(token)
    if item is Kind.BOOLEAN:
        return token == "t"
    if item in _FLOATS:
        number = float(token)
        # Floats beyond JSON, as strings that the server reads again.
        return token if number != number or number in (float("inf"), float("-inf")) else number
    return token


def _dump(value: list[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Number(str):
    """A JSON number as it was written: longer ones than a float holds must not be rounded."""


def _literal_of(text: str) -> str:
    try:
        value = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except json.JSONDecodeError:
        return text
    return _literal(value) if isinstance(value, list) else text


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case list():
            return "{" + ",".join(map(_literal, value)) + "}"
        case bool():
            return "t" if value else "f"
        case _Number():
            return value
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            return _literal(_spell(value))


def _spell(value: Any) -> str:
    """JSON text with its numbers as they were written."""
    match value:
        case _Number():
            return value
        case dict():
            return "{" + ",".join(f"{_spell(name)}:{_spell(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_spell, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)
