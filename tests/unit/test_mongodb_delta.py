"""Before-image and description to after-image, as the change-event reference describes them."""

from __future__ import annotations

from typing import Any

import pytest

from replication.engines.mongodb.delta import (
    DeltaMismatch,
    NeedsBeforeImage,
    after_image,
    known_parts,
    touched,
)

BEFORE = {"_id": 1, "a": {"b": 1, "list": [1, {"x": 2}, 3]}, "top": [1, 2, 3], "7": "seven", "s": "text"}


def described(
    updated: dict | None = None, removed: tuple = (), cut: tuple = (), clear: dict | None = None
) -> dict[str, Any]:
    return {
        "updatedFields": updated or {},
        "removedFields": list(removed),
        "truncatedArrays": [{"field": f, "newSize": n} for f, n in cut],
        "disambiguatedPaths": clear or {},
    }


@pytest.mark.parametrize(
    ("description", "change"),
    [
        (described({"s": "new", "added": None}), {"s": "new", "added": None}),
        (described({"a.b": 5}), {"a": {"b": 5, "list": [1, {"x": 2}, 3]}}),
        (described({"a.list.1.x": 9}), {"a": {"b": 1, "list": [1, {"x": 9}, 3]}}),
        (described({"top.1": 9}), {"top": [1, 9, 3]}),
        (described({"top.3": 4}), {"top": [1, 2, 3, 4]}),
        (described({"top.5": 6}), {"top": [1, 2, 3, None, None, 6]}),
        (described(removed=("a.b",)), {"a": {"list": [1, {"x": 2}, 3]}}),
        (described(cut=(("top", 1),)), {"top": [1]}),
        (described({"a.list.0": 0}, cut=(("a.list", 2),)), {"a": {"b": 1, "list": [0, {"x": 2}]}}),
        (described({"a.c.d": 1}, clear={"a.c.d": ["a", "c.d"]}), {"a": BEFORE["a"] | {"c.d": 1}}),
        (described({"7": "sept"}), {"7": "sept"}),
        (described({"a.0": 1}, clear={"a.0": ["a", "0"]}), {"a": BEFORE["a"] | {"0": 1}}),
        (described({"top.0": 7}, clear={"top.0": ["top", 0]}), {"top": [7, 2, 3]}),
        (described(removed=("s.x",), clear={"s.x": ["s.x"]}), {}),
        ({"updatedFields": {"s": 1}, "removedFields": []}, {"s": 1}),
    ],
)
def test_after_images(description: dict, change: dict) -> None:
    kept = repr(BEFORE)
    assert after_image(BEFORE, description) == BEFORE | change
    assert repr(BEFORE) == kept


@pytest.mark.parametrize(
    "description",
    [described({"s.x": 1}), described({"no.x": 1}), described({"top.x": 1}), described(cut=(("s.x", 1),))],
)
def test_a_description_that_does_not_fit_is_an_error(description: dict) -> None:
    with pytest.raises(DeltaMismatch):
        after_image(BEFORE, description)


PATHS = [("_id",), ("s",), ("a", "b"), ("top",)]


@pytest.mark.parametrize(
    ("description", "known"),
    [
        (described({"s": 1}), {1: 1}),
        (described({"other": 1}, removed=("a.other",)), {}),
        (described({"a.b": {"deep": 1}}), {2: {"deep": 1}}),
        (described({"a": {"b": 7, "c": 8}}), {2: 7}),
        (described({"a": 5}), {2: None}),
        (described(removed=("a",)), {2: None}),
        (described(removed=("s",)), {1: None}),
        (described({"top": [1]}), {3: [1]}),
        (described(cut=(("other", 1),)), {}),
    ],
)
def test_what_is_known_without_a_before_image(description: dict, known: dict) -> None:
    assert known_parts(description, PATHS) == known


@pytest.mark.parametrize(
    "description",
    [
        described({"top.0": 1}),
        described({"a.b.c": 1}),
        described(removed=("a.b.c",)),
        described(cut=(("top", 1),)),
        described(cut=(("a.b.c", 1),)),
    ],
)
def test_a_change_inside_a_mapped_value_needs_the_before_image(description: dict) -> None:
    with pytest.raises(NeedsBeforeImage):
        known_parts(description, PATHS)


def test_the_fields_that_an_update_touches() -> None:
    description = {
        "updatedFields": {"a.b": 1, "c.d": 2, "e": 3},
        "removedFields": ["f.0"],
        "truncatedArrays": [{"field": "g.h", "newSize": 1}],
        "disambiguatedPaths": {"c.d": ["c.d"]},
    }
    assert touched(description) == {"a", "c.d", "e", "f", "g"}
