"""The interface with Redis: it goes on without it, says so, and shares what it counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from cluster.cli import main
from cluster.sharing.address import RedisConfig
from cluster.sharing.redis import RedisStore
from tests.fixtures.api_bed import Bed
from tests.fixtures.redis import RedisServer, local_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One to be killed."""
    with local_server() as found:
        yield found


@pytest.fixture
def beside(server: RedisServer) -> str:
    """The configuration's sections beside `api`."""
    return f'redis: {{url: "{server.url}"}}\n'


def test_the_interface_says_that_redis_is_away_and_goes_on(bed: Bed, server: RedisServer) -> None:
    client = bed.client("viewer")
    bed.wait_for(lambda: client.get("/health").json()["status"] == "ok")
    assert client.get("/sync/status").json()["redis"] == {"kind": "redis", "away_since": "", "error": ""}
    bed.wait_for(lambda: 'api_redis_up{replica="0"} 1.0' in client.get("/metrics").text)
    server.kill()
    bed.wait_for(lambda: client.get("/health").json()["status"] == "degraded")
    health = client.get("/health")
    assert health.status_code == 200
    assert ("redis_away", "redis") in [(t["what"], t["part"]) for t in health.json()["troubles"]]
    assert str(server.port) not in health.text, "everybody may ask for it"
    redis = client.get("/sync/status").json()["redis"]
    assert redis["away_since"]
    assert redis["error"].startswith("ConnectionError")
    assert 'api_redis_up{replica="0"} 0.0' in client.get("/metrics").text
    server.start()
    bed.wait_for(lambda: client.get("/health").json()["status"] == "ok")
    bed.wait_for(lambda: 'api_redis_up{replica="0"} 1.0' in client.get("/metrics").text)


def test_a_cached_status_is_forgotten_when_somebody_acts(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.backend.CACHED_SECONDS", 600.0)
    client = bed.client("operator")
    assert client.get("/sync/status").json()["shards"][0]["paused"] == {}
    assert client.post("/sync/pause", json={"nodes": ["a"]}).status_code == 200
    bed.wait_for(lambda: list(client.get("/sync/status").json()["shards"][0]["paused"]) == ["a"])


@pytest.mark.parametrize("more_api", ["rate: {subject: 20, address: 1000000}"])
def test_replicas_count_a_subject_together(bed: Bed, server: RedisServer) -> None:
    with closing(RedisStore(RedisConfig(server.url), "shop")) as other:
        assert [other.hit("subject", "alice", 20) for _ in range(20)] == [0.0] * 20
    client, began = bed.client("viewer"), time.monotonic()
    statuses = [client.get("/sync/status").status_code for _ in range(20)]
    assert statuses.count(200) <= 1 + 20 * (time.monotonic() - began) / 60
    assert set(statuses) <= {200, 429}


def test_check_says_whether_redis_is_there(
    bed: Bed, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> list[dict[str, str]]:
        assert main(["check", "-c", bed.config.source, "--json"]) == 0
        found: list[dict[str, str]] = json.loads(capsys.readouterr().out)["redis"]
        return found

    assert check() == []
    server.kill()
    [finding] = check()
    assert (finding["level"], finding["subject"]) == ("warning", "redis")
    assert finding["message"].startswith("ConnectionError")
    assert "start it, or correct redis.url" in finding["remedy"]
    assert main(["check", "-c", bed.config.source]) == 0
    assert "\nRedis\n  warning: redis: ConnectionError" in capsys.readouterr().out


def test_a_schema_is_kept_for_all_replicas(bed: Bed, server: RedisServer) -> None:
    client = bed.client("viewer")
    found = client.get("/sync/schema")
    assert found.status_code == 200
    [orders] = found.json()["tables"]
    assert (orders["table"], [c["column"] for c in orders["columns"]]) == ("orders", ["id", "name"])
    with closing(RedisStore(RedisConfig(server.url), "shop")) as other:
        assert other.get("schema", "") == found.content
        other.put("schema", "", b'{"group":"shop","tables":[]}', 30)
    assert client.get("/sync/schema").json()["tables"] == [], "the nodes are not asked again"
    server.kill()
    bed.wait_for(lambda: bed.backend.shared.health().away_since)
    assert client.get("/sync/schema").content == found.content
