"""What a user may do, by recorded answers of `connectionStatus`."""

from __future__ import annotations

from typing import Any

import pytest

from replication.engines.mongodb.preflight import privilege_findings

READ_WRITE = ["find", "insert", "update", "remove", "createCollection", "changeStream", "listIndexes"]
DB_ADMIN = ["collMod", "createCollection", "dropCollection"]


def auth(*privileges: tuple[dict[str, Any], list[str]], roles: bool = True) -> dict[str, Any]:
    return {
        "authenticatedUsers": [{"user": "sync", "db": "shop"}],
        "authenticatedUserRoles": [{"role": "some", "db": "shop"}] if roles else [],
        "authenticatedUserPrivileges": [{"resource": r, "actions": a} for r, a in privileges],
    }


ALL = {"db": "shop", "collection": ""}


@pytest.mark.parametrize(
    "info",
    [
        {"authenticatedUsers": [], "authenticatedUserRoles": [], "authenticatedUserPrivileges": []},
        auth((ALL, READ_WRITE), (ALL, DB_ADMIN)),
        auth(({"db": "", "collection": ""}, READ_WRITE + DB_ADMIN)),
        auth(({"anyResource": True}, READ_WRITE + DB_ADMIN)),
        auth(({"db": "shop", "collection": "orders"}, READ_WRITE + DB_ADMIN)),
        auth(),
    ],
)
def test_enough_privileges(info: dict[str, Any]) -> None:
    assert privilege_findings(info, "shop", ["orders"]) == []


@pytest.mark.parametrize(
    ("info", "level", "lacks"),
    [
        (auth((ALL, READ_WRITE)), "warning", "collMod"),
        (auth((ALL, ["find", "changeStream"])), "error", "collMod, createCollection, insert, remove, update"),
        (auth(({"db": "other", "collection": ""}, READ_WRITE + DB_ADMIN)), "error", "find"),
        (auth(({"db": "shop", "collection": "items"}, READ_WRITE + DB_ADMIN)), "error", "find"),
        (auth(roles=False), "error", "changeStream"),
    ],
)
def test_missing_privileges_are_named(info: dict[str, Any], level: str, lacks: str) -> None:
    (finding,) = privilege_findings(info, "shop", ["orders"])
    assert (finding.level, finding.subject) == (level, "orders")
    assert lacks in finding.message
    assert 'role: "readWrite", db: "shop"' in finding.remedy
