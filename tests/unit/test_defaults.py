"""Defaults in a form that every dialect reads."""

from __future__ import annotations

import pytest

from replication.defaults import NOW, TODAY, portable_default
from replication.types import Kind


@pytest.mark.parametrize(
    ("default", "kind", "expected"),
    [
        ("5", Kind.INT32, "5"),
        ("-1.5", Kind.NUMERIC, "-1.5"),
        ("'x'::character varying(20)", Kind.TEXT, "'x'"),
        ("'it''s'::text", Kind.TEXT, "'it''s'"),
        ("'a::b'", Kind.TEXT, "'a::b'"),
        ("'a::b'::text", Kind.TEXT, "'a::b'"),
        ("NULL::numeric(12,2)", Kind.NUMERIC, "NULL"),
        ("'{}'::integer[]", Kind.LIST, "'{}'"),
        ("'\\'", Kind.TEXT, None),
        ("(uuid())", Kind.TEXT, None),
        ("nextval('s'::regclass)", Kind.INT64, None),
        ("true", Kind.BOOLEAN, "TRUE"),
        ("1", Kind.BOOLEAN, "TRUE"),
        ("b'0'", Kind.BOOLEAN, "FALSE"),
        ("'0'", Kind.BOOLEAN, "FALSE"),
        ("2", Kind.BOOLEAN, None),
        ("now()", Kind.TIMESTAMPTZ, NOW),
        ("CURRENT_TIMESTAMP(6)", Kind.TIMESTAMP, NOW),
        ("now()", Kind.TEXT, None),
        ("(curdate())", Kind.DATE, TODAY),
        ("CURRENT_DATE", Kind.DATE, TODAY),
        ("'0000-00-00 00:00:00'", Kind.TIMESTAMP, None),
        ("'2024-01-01 00:00:00'", Kind.TIMESTAMP, "'2024-01-01 00:00:00'"),
    ],
)
def test_what_means_the_same_everywhere(default: str, kind: Kind, expected: str | None) -> None:
    assert portable_default(default, kind) == expected
