"""Rows to write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.fixtures.engines import EngineHarness

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
PLANES = [
    "a",
    "ß",
    "日本",
    "\uffee",
    "𝄞",
    "🜁",
    "\U00020000",
    "\U000e0041",
    "\U0010fffd",
    "e\u0301",
    "é",
    "",
    " ",
]
"""Text from every Unicode plane in use, composed and decomposed, and the empty one."""
NOTHING = {"qty": None, "price": None, "ratio": None, "flag": None, "at": None, "note": None}


def item(ident: int, **values: Any) -> dict[str, Any]:
    """A row of `items`."""
    return {
        "id": ident,
        "name": f"item {ident}",
        "qty": ident % 100,
        "price": Decimal(ident) / 4,
        "ratio": ident / 3,
        "flag": ident % 2 == 0,
        "at": AT,
        "note": f"note {ident}",
    } | values


def random_transactions(harness: EngineHarness, seed: int, count: int) -> Iterator[None]:
    """Run `count` transactions of one to five random writes each, over few keys and three tables."""
    choice = random.Random(seed)
    present: dict[str, set[tuple[Any, ...]]] = {"items": set(), "pairs": set(), "words": set()}
    for _ in range(count):
        with harness.transaction() as tx:
            for _ in range(choice.randint(1, 5)):
                table = choice.choice(list(present))
                key = _key(table, choice.randint(1, 6))
                held = present[table]
                if key not in held:
                    tx.insert(table, _row(table, key, choice.randint(0, 99)))
                    held.add(key)
                elif choice.random() < 0.6:
                    tx.update(table, key, _values(table, choice.randint(0, 99)))
                else:
                    tx.delete(table, key)
                    held.remove(key)
        yield


def _key(table: str, number: int) -> tuple[Any, ...]:
    return {"items": (number,), "pairs": (number, PLANES[number]), "words": (PLANES[number],)}[table]


def _row(table: str, key: tuple[Any, ...], value: int) -> dict[str, Any]:
    if table == "items":
        return item(key[0], qty=value)
    names = ("num", "code") if table == "pairs" else ("word",)
    return dict(zip(names, key, strict=True)) | _values(table, value)


def _values(table: str, value: int) -> dict[str, Any]:
    return {"items": {"qty": value}, "pairs": {"value": str(value)}, "words": {"meaning": str(value)}}[table]
