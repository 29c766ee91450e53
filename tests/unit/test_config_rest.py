"""The column of the rest: which settings go with it."""

from __future__ import annotations

import pytest

from tests.unit.test_config import MINIMAL, complaints, read


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rest: id", "'id' is a key column | name a json column of its own"),
        ("rest: extra\n    exclude: [extra]", "'extra' is excluded | it must reach every node"),
        (
            "rest: extra\n    columns: {extra: {mongo: more}}",
            "'extra' has a place in the documents under 'columns' | leave that out",
        ),
        ("rest: []", "expected text, found a list | "),
    ],
)
def test_mistakes_about_the_column_of_the_rest(line: str, found: str) -> None:
    text = MINIMAL.replace("  orders: {key: [id]}\n", f"  orders:\n    key: [id]\n    {line}\n")
    assert complaints(text) == [f"sync.yaml:8: tables.orders.rest: {found}"]


def test_the_rest_is_of_documents() -> None:
    text = MINIMAL.replace("{key: [id]}", "{key: [id], rest: extra}")
    assert read(text).tables[0].rest == "extra"
    other = text.replace('engine: mongodb, dsn: "mongodb', 'engine: mysql, dsn: "mysql')
    hint = "leave it out: it holds fields of documents"
    assert complaints(other) == [f"sync.yaml:6: tables.orders.rest: no node is a MongoDB node | {hint}"]
