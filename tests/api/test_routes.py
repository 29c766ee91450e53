"""What the routes answer, against a group at work and its audit log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.backend import Backend
from replication.audit.proofs import check
from tests.fixtures.api_bed import Bed
from tests.fixtures.gate import Gate
from tests.fixtures.until import until


def ended(client: TestClient, begun: Any) -> dict[str, Any]:
    """An operation once it is over."""
    assert begun.status_code == 202, begun.text

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(begun.headers["Location"]).json()
        return found if found["state"] != "running" else None

    return until(look)


def troubles(client: TestClient) -> set[tuple[str, str]]:
    """What is wrong, and with what."""
    return {(t["what"], t["part"]) for t in client.get("/health").json()["troubles"]}


def test_health_and_status_of_a_group_at_work(bed: Bed) -> None:
    client = bed.client("viewer")
    bed.write("a", 1, "one")
    bed.wait_row("b", 1, "one")
    bed.wait_for(lambda: not client.get("/sync/status").json()["shards"][0]["replaying"])
    health = client.get("/health", headers={"Authorization": ""})
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    status = client.get("/sync/status").json()
    assert status["group"] == "shop"
    assert [n["breaker"] for n in status["nodes"]] == ["closed", "closed"]
    assert status["shards"][0]["changes"] == 1


def test_health_names_what_is_wrong(bed: Bed) -> None:
    client = bed.client()
    bed.wait_for(lambda: client.get("/health").json()["status"] == "ok")
    bed.databases["b"].stop()
    try:
        bed.wait_for(lambda: ("node_away", "b") in troubles(client))
        assert client.get("/health").json()["status"] == "degraded"
        assert client.get("/health").status_code == 200
    finally:
        bed.databases["b"].start()


def test_health_of_a_group_that_does_not_run(away: Backend) -> None:
    client = TestClient(create_app(away), base_url="http://127.0.0.1")
    health = client.get("/health")
    assert (health.status_code, health.json()["ready"], health.json()["live"]) == (503, False, True)
    assert health.json()["troubles"][0]["what"] == "not_running"
    assert client.get("/health/live").status_code == 200
    status = client.get("/sync/status")
    assert (status.status_code, status.json()["hint"]) == (503, "start it: sync-worker up")
    paused = client.post("/sync/pause", json={"nodes": ["nix"]})
    assert (paused.status_code, paused.json()["detail"]) == (422, "no node called 'nix'")


def test_a_node_is_paused_and_resumed_under_the_name_of_who_did_it(bed: Bed) -> None:
    client = bed.client("operator")
    paused = client.post("/sync/pause", json={"nodes": ["b"]})
    assert paused.status_code == 200, paused.text
    assert (list(paused.json()["paused"]), paused.json()["changed"]) == (["b"], ["b"])
    bed.write("a", 1, "one")
    bed.wait_for(lambda: client.get("/sync/status").json()["shards"][0]["backlog"]["b"] == 1)
    assert ("node_paused", "b") in troubles(client)
    assert bed.databases["b"].rows("orders") == []
    assert client.post("/sync/resume", json={"nodes": ["b"]}).json()["paused"] == {}
    bed.wait_row("b", 1, "one")
    for kind in ("paused", "resumed"):
        assert [json.loads(r["detail"]) for r in bed.records(kind)] == [{"by": "alice", "node": "b"}]


def test_a_table_is_paused_and_resumed(bed: Bed) -> None:
    client = bed.client("operator")
    paused = client.post("/sync/pause", json={"tables": ["orders"]})
    assert paused.status_code == 200, paused.text
    assert (list(paused.json()["paused_tables"]), paused.json()["changed_tables"]) == (["orders"], ["orders"])
    bed.write("a", 1, "one")

    def held_back() -> int:
        [shard] = client.get("/sync/status").json()["shards"]
        return shard["held_back"]["b"].get("orders", 0)

    bed.wait_for(lambda: held_back() == 1)
    assert client.get("/health").json()["troubles"][0]["what"] == "table_paused"
    assert bed.databases["b"].rows("orders") == []
    refused = client.post("/sync/pause", json={"tables": ["nix"]})
    assert (refused.status_code, refused.json()["detail"]) == (422, "no table called 'nix'")
    assert client.post("/sync/pause", json={}).status_code == 422
    assert client.post("/sync/resume", json={"tables": ["orders"]}).json()["paused_tables"] == {}
    bed.wait_row("b", 1, "one")
    for kind in ("paused", "resumed"):
        assert [json.loads(r["detail"]) for r in bed.records(kind)] == [{"by": "alice", "table": "orders"}]


def test_another_command_at_work_is_a_conflict(bed: Bed) -> None:
    from api.access import Principal, Role

    with bed.backend.way(Principal("bob", Role.OPERATOR, "")).open():
        answer = bed.client("operator").post("/sync/pause", json={"nodes": ["b"]})
    assert (answer.status_code, answer.json()["hint"]) == (409, "wait until it has ended")


def test_a_table_is_copied_again(bed: Bed) -> None:
    client = bed.client("operator")
    for key in range(5):
        bed.write("a", key, f"n{key}")
    bed.wait_row("b", 4, "n4")
    found = ended(client, client.post("/sync/backfill", json={"table": "orders", "source": "a"}))
    assert (found["state"], found["result"], found["by"]) == ("done", {"rows": 5}, "alice")
    assert client.get("/sync/operations").json() == [found]
    detail = json.loads(bed.records("backfill_finished")[0]["detail"])
    assert detail == {"by": "alice", "table": "orders", "from": "a", "rows": 5}
    wrong = client.post("/sync/backfill", json={"table": "nix"})
    assert (wrong.status_code, wrong.json()["hint"]) == (422, "there are orders")
    assert client.get("/sync/operations/nix").status_code == 404


def test_the_readers_of_a_copy_at_work_are_changed(bed: Bed, gate: Gate) -> None:
    client = bed.client("operator")
    bed.write("a", 1, "one")
    bed.wait_row("b", 1, "one")
    copying = client.post("/sync/backfill", json={"table": "orders", "source": "a"})
    bed.wait_for(lambda: gate.waiting == 1)
    asked = {"table": "orders", "source": "a", "workers": 3}
    changed = ended(client, client.post("/sync/backfill", json=asked))
    assert (changed["state"], changed["result"], changed["asked"]) == ("done", {"workers": 3}, asked)
    detail = json.loads(bed.records("backfill_resized")[0]["detail"])
    assert detail == {"by": "alice", "table": "orders", "from": "a", "workers": 3}
    where = copying.headers["Location"]
    bed.wait_for(lambda: client.get(where).json()["progress"].get("workers") == 3)
    gate.opened.set()
    found = ended(client, copying)
    assert (found["state"], found["result"]) == ("done", {"rows": 1})
    assert found["progress"]["seconds_left"] is None
    assert client.post("/sync/backfill", json=asked | {"workers": 65}).status_code == 422


def test_what_is_on_record_is_applied_again(bed: Bed) -> None:
    client = bed.client("operator")
    bed.write("a", 1, "one")
    bed.write("a", 2, "two")
    bed.wait_row("b", 2, "two")
    found = ended(client, client.post("/sync/replay", json={"key": "1", "table": "orders"}))
    assert found["state"] == "done", found
    assert found["result"]["done"] == [{"table": "orders", "sent": 1, "deleted": 0}]
    assert client.post("/sync/replay", json={}).status_code == 422
    assert client.post("/sync/replay", json={"since": "soon"}).json()["detail"] == "'soon' is not a time"


def test_the_audit_log_is_asked_page_by_page(bed: Bed) -> None:
    client = bed.client("auditor")
    for key in range(5):
        bed.write("a", key, f"n{key}")
    bed.wait_row("b", 4, "n4")
    ids: list[str] = []
    cursor = None
    while True:
        asked = {"kind": "change", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/audit/logs", params=asked).json()
        if not page["records"]:
            break
        ids += [r["id"] for r in page["records"]]
        cursor = page["next"]
    assert ids == [0, 1, 2, 3, 4]
    bed.write("a", 9, "late")
    bed.wait_row("b", 9, "late")
    later = client.get("/audit/logs", params={"kind": "change", "cursor": cursor}).json()["records"]
    assert [r["name"] for r in later] == ["late"], "the cursor goes on with what comes later"
    one = client.get("/audit/logs", params={"key": "3", "op": "insert", "node": "a"}).json()["records"]
    assert [r["name"] for r in one if r["stream"].startswith("changes")] == ["n3"]
    assert client.get("/audit/logs", params={"cursor": "nonsense"}).status_code == 422
    misspelt = client.get("/audit/logs", params={"tabel": "orders"})
    assert (misspelt.status_code, misspelt.json()["hint"]) == (422, "did you mean 'table'?")
    assert client.get("/audit/logs", params={"limit": 0}).json()["errors"][0]["at"] == "query.limit"


def test_a_record_is_proven(bed: Bed) -> None:
    client = bed.client("auditor")
    assert client.get("/audit/head").status_code in (200, 404)
    bed.write("a", 1, "one")
    bed.wait_row("b", 1, "one")
    [record] = client.get("/audit/logs", params={"kind": "change"}).json()["records"]
    bed.wait_for(lambda: client.get(f"/audit/proof/{record['_id']}").status_code == 200)
    proof = client.get(f"/audit/proof/{record['_id']}")
    assert check(proof.json())["record"].to_pylist()[0]["name"] == "one"
    head = client.get("/audit/head").json()
    assert (head["group"], head["streams"]["changes/orders"]["records"]) == ("shop", 1)
    assert client.get("/audit/proof/changes/orders/99").status_code == 404
    assert client.get("/audit/proof/changes/orders/x").status_code == 422


@pytest.mark.parametrize("bed", ["manual"], indirect=True)
def test_an_open_conflict_is_resolved(bed: Bed) -> None:
    client = bed.client("operator")
    asked = {"nodes": ["a", "b"]}
    assert client.post("/sync/pause", json=asked).status_code == 200
    bed.write("a", 1, "of a")
    bed.write("b", 1, "of b")
    assert client.post("/sync/resume", json=asked).status_code == 200
    bed.wait_for(lambda: client.get("/conflicts", params={"state": "open"}).json()["conflicts"])
    [conflict] = client.get("/conflicts", params={"state": "open"}).json()["conflicts"]
    assert (conflict["kind"], conflict["policy"], conflict["key_text"]) == ("insert_insert", "manual", "1")
    assert {conflict["left"]["name"], conflict["right"]["name"]} == {"of a", "of b"}
    assert client.get(f"/conflicts/{conflict['id']}").json() == conflict
    bed.wait_for(lambda: ("conflicts_open", "conflicts") in troubles(client))
    wrong = client.post(f"/conflicts/{conflict['id']}/resolve", json={"take": "nix"})
    assert (wrong.status_code, wrong.json()["hint"]) == (422, "take the row of a or b")
    done = client.post(f"/conflicts/{conflict['id']}/resolve", json={"take": "a", "set": {"name": "both"}})
    assert done.status_code == 200, done.text
    assert [d.rows("orders") for d in bed.databases.values()] == [[{"id": 1, "name": "both"}]] * 2
    again = client.post(f"/conflicts/{conflict['id']}/resolve", json={"take": "a"})
    assert (again.status_code, again.json()["detail"]) == (409, "the conflict is resolved")
    assert json.loads(bed.records("conflict_resolved")[0]["detail"])["by"] == "alice"
    assert client.get("/conflicts/00000000").status_code == 404


def test_what_nobody_has_foreseen_says_nothing_of_itself(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        message = "a secret"
        raise RuntimeError(message)

    monkeypatch.setattr(bed.backend, "state", broken)
    answer = bed.client().get("/sync/status")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
