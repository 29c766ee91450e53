"""Who is let in: on every route that the application has, so that none can be forgotten."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from api.access import OPEN, Role
from api.app import create_app
from api.backend import Backend
from api.guards import HEADERS
from api.tokens import FRESH_SECONDS, KeySet, read_keys
from cluster.commands.token import public_keys
from replication.errors import ConfigError, NodeUnavailable
from tests.fixtures.api_bed import ROLES, Bed, Keys, private_key


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(token: str) -> str:
    return token.split(".")[1]


def none(keys: Keys) -> str:
    head = json.loads(base64.urlsafe_b64decode(keys.token().split(".")[0] + "=="))
    return f"{part(head | {'alg': 'none'})}.{claims_of(keys.token('admin'))}."


def hs256(keys: Keys) -> str:
    """Signed with the public key, which everybody knows, as the secret."""
    pem = keys.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = json.loads(base64.urlsafe_b64decode(keys.token().split(".")[0] + "=="))
    body = f"{part(head | {'alg': 'HS256'})}.{claims_of(keys.token('admin'))}"
    return f"{body}.{part(hmac.new(pem, body.encode(), hashlib.sha256).digest())}"


def altered(keys: Keys) -> str:
    head, claims, signature = keys.token("viewer").split(".")
    raised = base64.urlsafe_b64decode(claims + "==").replace(b"viewer", b"admin")
    return f"{head}.{part(raised)}.{signature}"


BAD: dict[str, Callable[[Keys], str]] = {
    "alg none": none,
    "HS256 with the public key": hs256,
    "altered": altered,
    "wrong key": lambda k: k.token("admin", key=private_key("another")),
    "unknown kid": lambda k: k.token("admin", headers={"kid": "another"}),
    "no kid": lambda k: k.token("admin", headers={"kid": None}),
    "wrong audience": lambda k: k.token("admin", aud="another"),
    "no audience": lambda k: k.token("admin", aud=None),
    "wrong issuer": lambda k: k.token("admin", iss="https://another.test"),
    "expired": lambda k: k.token("admin", exp=int(time.time()) - 60),
    "without an end": lambda k: k.token("admin", exp=None),
    "not yet valid": lambda k: k.token("admin", nbf=int(time.time()) + 600),
    "without a subject": lambda k: k.token("admin", sub=None),
    "no token at all": lambda k: "nonsense",
}


def routes(bed: Bed) -> Iterator[tuple[str, str]]:
    """Every method and path of the application, with something in the place of parameters."""
    for route in iter_route_contexts(create_app(bed.backend).routes):
        assert route.path is not None
        path = re.sub(r"\{.*?\}", "x", route.path)
        for method in route.methods or {"WEBSOCKET"}:
            yield method, path


def ask(client: TestClient, method: str, path: str, headers: dict[str, str]) -> int:
    if method != "WEBSOCKET":
        return client.request(method, path, headers=headers).status_code
    try:
        with client.websocket_connect(path, headers=headers):
            return 101
    except WebSocketDisconnect:
        return 401


def test_the_application_has_the_routes_of_the_contract(bed: Bed) -> None:
    found = set(routes(bed))
    contract = {
        ("GET", "/health"),
        ("GET", "/sync/status"),
        ("POST", "/sync/replay"),
        ("POST", "/sync/pause"),
        ("POST", "/sync/resume"),
        ("POST", "/sync/backfill"),
        ("GET", "/audit/logs"),
        ("GET", "/audit/head"),
        ("GET", "/audit/proof/x"),
        ("GET", "/conflicts"),
        ("POST", "/conflicts/x/resolve"),
        ("GET", "/dlq"),
        ("POST", "/dlq/x/retry"),
    }
    assert contract <= found


@pytest.mark.parametrize("kind", [*BAD, "none sent", "basic"])
def test_a_bad_token_is_refused_on_every_route(bed: Bed, kind: str) -> None:
    headers = {"Authorization": f"Bearer {BAD[kind](bed.keys)}"} if kind in BAD else {}
    if kind == "basic":
        headers = {"Authorization": "Basic YWxpY2U6c2VjcmV0"}
    with bed.client(None) as client:
        for method, path in routes(bed):
            if path not in OPEN:
                assert ask(client, method, path, headers) == 401, (method, path)
    bed.backend.denials.write()
    denied = [json.loads(r["detail"]) for r in bed.records("api_denied")]
    asked = {(d["method"], d["path"]) for d in denied}
    assert asked == {(m, p) for m, p in routes(bed) if p not in OPEN}
    assert {d["address"] for d in denied} == {"192.0.2.7"}


def needed(bed: Bed) -> dict[tuple[str, str], int]:
    """The lowest role that each route answers."""
    found: dict[tuple[str, str], int] = {}
    with bed.client(None) as client:
        for role in reversed(ROLES):
            headers = bed.keys.bearer(role)
            for method, path in routes(bed):
                if path not in OPEN and ask(client, method, path, headers) not in (401, 403):
                    found[method, path] = Role[role.upper()]
    return found


def test_each_route_needs_a_role_and_lower_ones_are_refused_and_on_record(bed: Bed) -> None:
    lowest = needed(bed)
    assert set(lowest) == {(m, p) for m, p in routes(bed) if p not in OPEN}
    for (method, path), role in lowest.items():
        if method == "POST":
            assert role >= Role.OPERATOR, path
        elif path.startswith(("/audit", "/conflicts", "/dlq")):
            assert role >= Role.AUDITOR, "it shows what rows hold"
    bed.backend.denials.write()
    denied = [json.loads(r["detail"]) for r in bed.records("api_denied")]
    refused = {(d["method"], d["path"]) for d in denied if d["reason"] == "role" and d["subject"] == "alice"}
    assert refused == {place for place, role in lowest.items() if role > Role.VIEWER}


@pytest.mark.parametrize("role", [None, "root", "Viewer"])
def test_a_token_without_a_role_that_is_known_is_refused(bed: Bed, role: str | None) -> None:
    answer = bed.client(None).get("/sync/status", headers=bed.keys.bearer(role))
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert "viewer, auditor, operator, admin" in answer.json()["hint"]


def test_the_leeway_of_clocks(bed: Bed) -> None:
    late = bed.keys.bearer("viewer", exp=int(time.time()) - 5)
    assert bed.client(None).get("/sync/status", headers=late).status_code == 200


def test_a_refusal_names_the_fix_and_nothing_of_the_token(bed: Bed) -> None:
    token = BAD["altered"](bed.keys)
    answer = bed.client(None).get("/sync/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="sync-worker"')
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("urn:sync-worker:problem:unauthorized", 401)
    assert problem["hint"]
    bed.backend.denials.write()
    for text in (answer.text, str(bed.records("api_denied"))):
        assert not any(piece in text for piece in token.split("."))


def test_every_answer_has_the_headers(bed: Bed) -> None:
    client = bed.client("viewer")
    for path in ("/health", "/sync/status", "/nothing", "/audit/head"):
        answer = client.get(path)
        assert {n: answer.headers.get(n) for n in HEADERS} == HEADERS, path
    assert (
        "access-control-allow-origin"
        not in client.get("/health", headers={"Origin": "https://a.test"}).headers
    )
    assert client.get("/api/docs").status_code == 404
    assert bed.client(None).get("/api/openapi.json").status_code == 401


@pytest.mark.parametrize("more_api", ["cors: ['https://a.test']"])
def test_pages_of_a_configured_origin_may_ask(bed: Bed) -> None:
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Authorization"}
    client = bed.client(None)
    answer = client.options("/sync/status", headers={"Origin": "https://a.test", **asks})
    assert answer.headers["access-control-allow-origin"] == "https://a.test"
    answer = client.options("/sync/status", headers={"Origin": "https://b.test", **asks})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("more_api", ["development: true"])
def test_the_documentation_is_there_in_development_mode(bed: Bed) -> None:
    client = bed.client(None)
    assert client.get("/api/docs").status_code == 200
    document = client.get("/api/openapi.json").json()
    assert {"/health", "/sync/status", "/audit/proof/{id}"} <= set(document["paths"])


@pytest.mark.parametrize("more_api", ["max_body_bytes: 100"])
def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(bed: Bed) -> None:
    client = bed.client("operator")
    large = b'{"nodes": ["' + b"x" * 100 + b'"]}'
    assert client.post("/sync/pause", content=large).status_code == 413
    assert client.post("/sync/pause", content=iter([large[:50], large[50:]])).status_code == 413
    assert client.post("/sync/pause", content=iter([b'{"nodes": ', b'["x"]}'])).status_code == 422


@pytest.mark.parametrize("more_api", ["rate: {subject: 3, address: 1000}"])
def test_a_subject_asks_at_most_so_often(bed: Bed) -> None:
    client = bed.client(None)
    statuses = [client.get("/sync/status", headers=bed.keys.bearer()).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = client.get("/sync/status", headers=bed.keys.bearer(sub="bob"))
    assert answer.status_code == 200, "another subject"
    again = client.get("/sync/status", headers=bed.keys.bearer())
    assert 1 <= int(again.headers["Retry-After"]) <= 120


@pytest.mark.parametrize("more_api", ["rate: {subject: 1000, address: 3}"])
def test_an_address_asks_at_most_so_often_and_a_flood_is_one_record(bed: Bed) -> None:
    client = bed.client(None)
    assert [client.get("/health/live").status_code for _ in range(9)] == [200] * 3 + [429] * 6
    bed.backend.denials.write()
    denied = [json.loads(r["detail"]) for r in bed.records("api_denied")]
    assert sum(d["times"] for d in denied) == 6
    assert {d["reason"] for d in denied} == {"rate"}


def test_without_auth_only_programs_of_this_machine_are_answered(away: Backend) -> None:
    app = create_app(away)

    def status(base: str, **headers: str) -> int:
        return TestClient(app, base_url=base).get("/sync/operations", headers=headers).status_code

    assert status("http://127.0.0.1:3001") == 200
    assert status("http://localhost:3001", Origin="http://localhost:3001") == 200
    assert status("http://evil.test:3001") == 403, "a name that somebody let point to this machine"
    assert status("http://127.0.0.1:3001", Origin="https://evil.test") == 403, "a page in a browser here"


def test_keys_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    found = KeySet(str(keys.jwks))
    kid = json.loads(keys.jwks.read_text())["keys"][0]["kid"]
    assert found.find(kid) is not None
    keys.jwks.write_text(public_keys(private_key("another")) + " ")
    assert found.find(kid) is None
    keys.jwks.unlink()
    with pytest.raises(ConfigError, match=r"keys\.json"):
        found.find(kid)


def test_keys_at_an_address_are_fetched_when_they_are_old_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, now, fetched = Keys(tmp_path), [100.0], []
    text = keys.jwks.read_bytes()
    kid = json.loads(text)["keys"][0]["kid"]

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, _: int) -> bytes:
            return text

    def fetch(place: str, timeout: float) -> Answer:
        fetched.append(place)
        if not up:
            message = "away"
            raise OSError(message)
        return Answer()

    up = False
    monkeypatch.setattr("api.tokens.urlopen", fetch)
    found = KeySet("https://issuer.test/keys", lambda: now[0])
    with pytest.raises(NodeUnavailable):
        found.find(kid)
    up = True
    now[0] += 20
    assert found.find(kid)
    assert found.find(kid)
    assert [found.find(f"made up {n}") for n in range(50)] == [None] * 50
    assert len(fetched) == 2, "an unknown key does not make us ask again at once"
    up = False
    now[0] += FRESH_SECONDS + 1
    assert found.find(kid), "while the issuer is away, the keys that are known are good"
    assert len(fetched) == 3


@pytest.mark.parametrize("change", [{"kty": "EC"}, {"use": "enc"}, {"alg": "RS512"}, {"kid": None}])
def test_keys_of_another_kind_are_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    document = json.loads(Keys(tmp_path).jwks.read_text())
    [key] = document["keys"]
    key.update(change)
    if change.get("kid", "") is None:
        del key["kid"]
    assert read_keys(json.dumps(document).encode()) == {}
    with pytest.raises(ConfigError, match="no JWKS"):
        read_keys(b"<html>")
