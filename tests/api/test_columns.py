"""What a role may not see is in no answer: every route and the stream are asked, with all there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from api.access import Role
from api.app import create_app
from cluster.commands.conflicts import conflict_id
from replication.audit.access import HASH_PREFIX, ROLES
from replication.audit.holds import hold_id, open_holds
from replication.audit.query import cursor_of
from replication.audit.undecided import undecided
from tests.fixtures.api_bed import Bed
from tests.fixtures.until import until

KEY = sha256(b"audit").hexdigest()
NAME = "Swordfish quixotic"
SET = "Zebra crossing at nine"
IDS = (8_765_432_109, 8_765_432_110, 8_765_432_111)
CANONICAL = [(number + (1 << 63)).to_bytes(8, "big").hex() for number in IDS]
TREATMENTS = ("hashed", "masked", "hidden")


@pytest.fixture(params=TREATMENTS)
def treatment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def more_audit(treatment: str) -> str:
    seen = f"{{viewer: {treatment}, admin: clear}}"
    return f", key: {KEY}, access: {{orders: {{id: {seen}, name: {seen}}}}}"


@pytest.fixture
def planted(bed: Bed) -> Bed:
    """Known values in every kind of record: changes, decisions, an open and a decided conflict, a row on hold
    whose reason quotes it, and what operators did.
    """
    assert bed.config.audit.access
    with bed.client("admin") as client:
        bed.databases["b"].faults.refuse = lambda table, row: (
            f"the value {row['name']} of {row['id']} is too long" if row["id"] == IDS[1] else None
        )
        asked = {"nodes": ["a", "b"]}
        assert client.post("/sync/pause", json=asked).status_code == 200
        for key in (IDS[0], IDS[2]):
            bed.write("a", key, NAME)
            bed.write("b", key, NAME[::-1])
        assert client.post("/sync/resume", json=asked).status_code == 200
        bed.write("a", IDS[1], NAME)
        bed.wait_for(lambda: len(client.get("/conflicts?state=open").json()["conflicts"]) == 2)
        bed.wait_for(lambda: client.get("/dlq").json()["holds"])
        [one] = [c for c in client.get("/conflicts").json()["conflicts"] if c["key_text"] == str(IDS[2])]
        taken = client.post(f"/conflicts/{one['id']}/resolve", json={"take": "a", "set": {"name": SET}})
        assert taken.status_code == 200, taken.text
        [hold] = client.get("/dlq").json()["holds"]
        assert NAME in client.post(f"/dlq/{hold['id']}/retry").json()["reason"]
        done = client.post("/sync/replay", json={"key": str(IDS[2]), "table": "orders"})
        bed.wait_for(lambda: client.get(done.headers["Location"]).json()["state"] == "done")
        bed.backend.operations.all()[0].node = "b"
        bed.backend.operations.all()[0].error = f"the value {NAME} is too long"
    return bed


def secrets(bed: Bed) -> list[bytes]:
    """What may be nowhere: the values in each form, and names that are made from them without a key."""
    texts = [NAME, NAME[::-1], SET, NAME.encode().hex(), *map(str, IDS), *CANONICAL]
    keys = bed.backend.keys()
    texts += [hold_id(h["node"], h["table"], h["key"]) for h in open_holds(bed.config.audit_path, keys)]
    texts += [conflict_id(ident) for ident in undecided(bed.config.audit_path, keys)]
    return [text.encode() for text in texts]


def records(client: TestClient) -> list[dict[str, Any]]:
    found, cursor = [], cursor_of({})
    while True:
        page = client.get("/audit/logs", params={"cursor": cursor, "limit": 100})
        if page.status_code != 200 or not page.json()["records"]:
            return found
        found += page.json()["records"]
        cursor = page.json()["next"]


def paths(client: TestClient, route: str) -> Iterator[str]:
    """The route, with all that this client may know to stand in its path."""

    def listed(path: str, name: str) -> list[str]:
        answer = client.get(path)
        found = answer.json() if answer.status_code == 200 else []
        return [one["id"] for one in (found if isinstance(found, list) else found[name])]

    names = {
        "/audit/proof/{id:path}": lambda: list({r["stream"]: r["_id"] for r in records(client)}.values()),
        "/conflicts/{id}": lambda: listed("/conflicts", "conflicts"),
        "/dlq/{id}": lambda: listed("/dlq", "holds"),
        "/sync/operations/{id}": lambda: listed("/sync/operations", ""),
    }
    if "{" not in route:
        yield route
    for known, find in names.items():
        if route.startswith(known):
            yield from (route.replace("{id:path}", i).replace("{id}", i) for i in find())


BODIES: dict[str, list[Any]] = {
    "/sync/pause": [{"nodes": ["nix"]}],
    "/sync/resume": [{"nodes": ["nix"]}],
    "/sync/backfill": [{"table": "orders", "source": "a"}],
    "/sync/replay": [{"since": "2020-01-01"}, {"key": "1", "table": "orders"}],
    "/conflicts/{id}/resolve": [{"take": "nix"}, {"take": "b"}],
}


def walk(bed: Bed, role: str) -> dict[str, bytes]:
    """All that a role gets to see, by method and route."""
    seen: dict[str, bytes] = {}
    with TestClient(create_app(bed.backend), headers=bed.keys.bearer(role)) as client:
        for route in iter_route_contexts(create_app(bed.backend).routes):
            assert route.path is not None
            for method in sorted(route.methods or {"WEBSOCKET"}):
                place = f"{method} {route.path}"
                if method == "WEBSOCKET":
                    seen[place] = streamed(bed, client, role)
                    continue
                if role == "admin" and method != "GET":
                    continue
                for path in paths(client, route.path):
                    for body in BODIES.get(route.path, [None]):
                        answer = client.request(method, path, json=body)
                        assert answer.status_code < 500, (place, answer.text)
                        if answer.status_code == 202:
                            ended(client)  # one command at a time acts on a group
                        heads = repr(sorted(answer.headers.items())).encode()
                        seen[place] = seen.get(place, b"") + heads + answer.content + b"\n"
        ended(client)
        seen["afterwards"] = client.get("/sync/operations").content + repr(records(client)).encode()
    return seen


def ended(client: TestClient) -> None:
    until(lambda: all(o["state"] != "running" for o in client.get("/sync/operations").json()))


def streamed(bed: Bed, client: TestClient, role: str) -> bytes:
    """The log from its beginning through the stream, and then a row that is written while it listens."""
    if role == "viewer":
        return b""
    there, seen = {r["_id"]: r for r in records(client)}, b""
    found: dict[str, dict[str, Any]] = {}

    def receive(socket: WebSocketTestSession) -> bytes:
        text = socket.receive_text()
        found.update({r["_id"]: r for r in json.loads(text)["records"]})
        return text.encode()

    with client.websocket_connect(f"/audit/stream?cursor={cursor_of({})}") as socket:
        while not there.keys() <= found.keys():
            seen += receive(socket)
        assert {ident: found[ident] for ident in there} == there, "as the pages show them"
        changes = sum(ident.startswith("changes/orders/") for ident in found)
        bed.write("a", IDS[0] + 10 + ROLES.index(role), NAME)
        while f"changes/orders/{changes}" not in found:
            seen += receive(socket)
    return seen


@pytest.mark.parametrize("bed", ["manual"], indirect=True)
def test_no_answer_holds_a_value_that_the_role_does_not_see(planted: Bed, treatment: str) -> None:
    kept = secrets(planted)
    everything = walk(planted, "admin")
    for place in ("GET /audit/logs", "GET /conflicts", "GET /conflicts/{id}", "GET /dlq", "afterwards"):
        assert NAME.encode() in everything[place], (place, "or this test could not fail")
        assert any(str(key).encode() in everything[place] for key in IDS), place
    assert NAME.encode() in everything["WEBSOCKET /audit/stream"]
    assert str(IDS[2]).encode() in everything["GET /sync/operations"]
    for role in ("viewer", "auditor", "operator"):
        seen = walk(planted, role)
        for place, answer in seen.items():
            for secret in kept:
                assert secret not in answer, (role, place, secret, answer[:2000])
    assert b'"again":true,"reason":"(not for the role operator)"' in seen["POST /dlq/{id}/retry"]
    assert b'"conflicts":[{' in seen["POST /conflicts/{id}/resolve"], "what it cannot see it can decide"
    with planted.client("auditor") as client:
        for record in records(client):
            if record["stream"] == "changes/orders":
                shape = {"hashed": HASH_PREFIX + "[0-9a-f]{32}", "masked": "[x ]+", "hidden": "None"}[
                    treatment
                ]
                assert re.fullmatch(shape, str(record.get("name"))), record
                assert ("_key" in record, "_changed" in record) == (treatment != "hidden",) * 2


@pytest.mark.parametrize("bed", ["manual"], indirect=True)
def test_asking_for_a_key_tells_nothing_that_is_not_seen(planted: Bed, treatment: str) -> None:
    with planted.client("operator") as client:
        for key in (str(IDS[0]), CANONICAL[0], "4711"):
            found = client.get("/audit/logs", params={"key": key, "table": "orders"})
            if treatment == "hashed":
                assert found.json()["records"] == [], "a key that is there, and one that is not"
            else:
                assert found.status_code == 403
                assert key not in found.text
            replayed = client.post("/sync/replay", json={"key": key, "table": "orders"})
            assert replayed.status_code == (202 if treatment == "hashed" else 403)
        if treatment != "hashed":
            assert client.get("/audit/logs", params={"key": "1"}).status_code == 403, "of all tables"
            planted.backend.denials.write()
            denied = [json.loads(r["detail"]) for r in records(client) if r.get("kind") == "api_denied"]
            assert {d["reason"] for d in denied} == {"column"}
            return
        changes = [r for r in records(client) if r["stream"] == "changes/orders"]
        wanted = changes[0]["_key"]
        assert re.fullmatch(HASH_PREFIX + "[0-9a-f]{32}", wanted)
        found = client.get("/audit/logs", params={"key": wanted}).json()["records"]
        assert [r["_id"] for r in found if r["stream"] == "changes/orders"] == [
            r["_id"] for r in changes if r["_key"] == wanted
        ], "equal keys look equal"
        assert {"conflicts", "changes/orders"} <= {r["stream"] for r in found}, "in every stream"
        ended(client)


def test_the_roles_of_the_interface_are_those_of_the_rules() -> None:
    assert tuple(role.name.lower() for role in Role) == ROLES
