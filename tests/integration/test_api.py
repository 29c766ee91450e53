"""The HTTP interface of `sync-worker up`, as somebody uses it over the network: TLS, two replicas, Redis."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pymongo import MongoClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from cluster.servers.process import free_port
from tests.fixtures.commands import ask, config_text, read_until, sync_worker
from tests.fixtures.redis import RedisServer, local_server
from tests.fixtures.until import until

PATIENCE = 180.0


def certificate(folder: Path) -> None:
    """A certificate for localhost that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))


def write_config(folder: Path, postgres: str, mongodb: str, port: int, redis: str) -> Path:
    config = folder / "sync.yaml"
    api = (
        f"{{port: {port}, replicas: 2, rate: {{subject: 100000, address: 100000}}, "
        "tls: {certificate: tls.crt, key: tls.key}, "
        "auth: {jwks: keys.json, issuer: here, audience: sync-worker}}"
    )
    text = config_text({"pg": postgres, "mongo": mongodb}, shards=1, api=api, redis=f'{{url: "{redis}"}}')
    config.write_text(text)
    return config


wait_for = partial(until, patience=PATIENCE, pause=0.5)


def test_the_interface_of_a_running_group(postgres_db: str, mongodb_db: str, tmp_path: Path) -> None:
    port = free_port()
    certificate(tmp_path)
    with (
        local_server() as redis,
        psycopg.connect(postgres_db, autocommit=True) as sql,
        MongoClient(mongodb_db) as client,
    ):
        config = write_config(tmp_path, postgres_db, mongodb_db, port, redis.url)
        tokens = {role: ask(config, "token", "--role", role)[1].strip() for role in ("viewer", "operator")}
        sql.execute("CREATE TABLE orders (id int PRIMARY KEY, name text)")
        docs = client.get_default_database()["orders"]
        with subprocess.Popen(sync_worker(config, "up"), stderr=subprocess.PIPE, text=True) as up:
            try:
                read_until(up.stderr, '"api_ready"')
                trusted = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
                alone = httpx2.Limits(max_keepalive_connections=0)  # each request asks any replica
                with httpx2.Client(
                    base_url=f"https://localhost:{port}", verify=trusted, timeout=60, limits=alone
                ) as web:
                    uses(web, tokens, sql, docs)
                    asyncio.run(listens(f"wss://localhost:{port}/audit/stream", trusted, tokens, sql))
                    goes_on_without_a_replica(web, up.pid)
                    goes_on_without_redis(web, tokens, config, redis)
            finally:
                up.terminate()
                up.communicate(timeout=PATIENCE)
        assert up.returncode == 0


def uses(web: httpx2.Client, tokens: dict[str, str], sql: psycopg.Connection[Any], docs: Any) -> None:
    viewer, operator = ({"Authorization": f"Bearer {token}"} for token in tokens.values())
    wait_for(lambda: web.get("/health").json()["status"] == "ok")
    assert web.get("/sync/status").status_code == 401
    assert web.get("/audit/logs", headers=viewer).status_code == 403
    assert web.post("/sync/pause", json={"nodes": ["mongo"]}, headers=operator).status_code == 200
    sql.execute("INSERT INTO orders VALUES (1, 'one')")

    def waiting() -> bool:
        status = web.get("/sync/status", headers=viewer).json()
        return bool(status["shards"][0]["backlog"]["mongo"] == 1)

    wait_for(waiting)
    assert docs.count_documents({}) == 0
    assert web.get("/health").json()["troubles"][0]["what"] == "node_paused"
    assert web.post("/sync/resume", json={"nodes": ["mongo"]}, headers=operator).json()["paused"] == {}
    wait_for(lambda: docs.find_one({"_id": 1, "name": "one"}))
    assert copied(web, viewer, operator)["result"] == {"rows": 1}
    metrics = web.get("/metrics", headers=viewer).text
    assert 'sync_changes_total{node="pg",shard="0",table="orders"} 1.0' in metrics
    for name in ("sync_lag_ms{", "audit_write_tps ", "conflict_rate ", "queue_depth{", "error_ratio{"):
        assert f"\n{name}" in metrics

    def denied() -> Any:
        asked = {"kind": "operator", "limit": 1000}
        records = web.get("/audit/logs", params=asked, headers=operator).json()["records"]
        return {r["kind"] for r in records} >= {"api_denied", "paused", "resumed", "backfill_finished"}

    wait_for(denied)


def copied(web: httpx2.Client, viewer: dict[str, str], operator: dict[str, str]) -> Any:
    """A table is copied; whichever replica is asked knows of it."""
    begun = web.post("/sync/backfill", json={"table": "orders"}, headers=operator)
    place = begun.headers["Location"]
    wait_for(lambda: {web.get(place, headers=viewer).status_code for _ in range(10)} == {200})

    def ended() -> Any:
        found = web.get(place, headers=viewer).json()
        return found if found.get("state", "running") != "running" else None

    return wait_for(ended)


def goes_on_without_a_replica(web: httpx2.Client, up: int) -> None:
    """The other one answers meanwhile, and the lost one is made again."""

    def replicas() -> set[int]:
        found = set()
        for process in psutil.Process(up).children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if " ".join(process.cmdline()).startswith("ray::ServeReplica:"):
                    found.add(process.pid)
        return found

    before = replicas()
    assert len(before) == 2
    psutil.Process(min(before)).kill()

    def answers() -> bool:
        with suppress(httpx2.ConnectError, httpx2.ReadError):  # the lost one's threads end one by one
            return bool(web.get("/health/live").status_code == 200)
        return False

    for _ in range(20):
        wait_for(answers)
    wait_for(lambda: len(replicas() - {min(before)}) == 2)
    wait_for(lambda: answers() and web.get("/health").json()["status"] == "ok")


def goes_on_without_redis(
    web: httpx2.Client, tokens: dict[str, str], config: Path, redis: RedisServer
) -> None:
    viewer, operator = ({"Authorization": f"Bearer {token}"} for token in tokens.values())

    def healths() -> set[str]:
        return {web.get("/health").json()["status"] for _ in range(8)}

    def replicas(name: str) -> set[str]:
        lines = web.get("/metrics", headers=viewer).text.splitlines()
        return {line.split('replica="')[1][0] for line in lines if line.startswith(name)}

    wait_for(lambda: replicas("api_requests_total{") == {"0", "1"})
    wait_for(lambda: healths() == {"ok"})
    redis.kill()
    wait_for(lambda: healths() == {"degraded"})
    assert web.get("/health").json()["troubles"][0]["what"] == "redis_away"
    assert copied(web, viewer, operator)["state"] == "done"
    assert "Redis does not answer" in ask(config, "status")[1]
    redis.start()
    wait_for(lambda: healths() == {"ok"})
    assert "Redis" not in ask(config, "status")[1]


async def listens(
    address: str, trusted: ssl.SSLContext, tokens: dict[str, str], sql: psycopg.Connection[Any]
) -> None:
    """The stream, over the network."""
    viewer, operator = ({"Authorization": f"Bearer {token}"} for token in tokens.values())
    for headers in ({}, viewer):
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, ssl=trusted, additional_headers=headers)
        assert refused.value.response.status_code == 403
    wanted = f"{address}?kind=change&node=pg"

    async def names(socket: ClientConnection) -> tuple[list[str], str]:
        message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
        return [r["name"] for r in message["records"]], message["next"]

    async with AsyncExitStack() as stack:
        joined = [connect(wanted, ssl=trusted, additional_headers=operator) for _ in range(6)]
        sockets = [await stack.enter_async_context(one) for one in joined]
        sql.execute("INSERT INTO orders VALUES (2, 'two')")
        for socket in sockets:  # some of either replica
            found, cursor = await names(socket)
            assert found == ["two"]
    sql.execute("INSERT INTO orders VALUES (3, 'three')")
    async with connect(f"{wanted}&cursor={cursor}", ssl=trusted, additional_headers=operator) as socket:
        assert (await names(socket))[0] == ["three"]


@pytest.mark.parametrize("taken", [True, False])
def test_what_keeps_the_interface_from_beginning_is_named(tmp_path: Path, taken: bool) -> None:
    import socket

    from api.serving import check
    from cluster.config_api import ApiConfig, AuthConfig, TlsConfig
    from replication.errors import ConfigError, Terminal

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if taken else free_port()
        api = ApiConfig(port=port)
        if taken:
            with pytest.raises(Terminal, match="in use") as refused:
                check(api)
            assert "another api.port" in refused.value.hint
            return
        check(api)
        with pytest.raises(ConfigError, match=r"none\.json"):
            check(ApiConfig(port=port, auth=AuthConfig(str(tmp_path / "none.json"), "i", "a")))
        with pytest.raises(ConfigError, match=r"none\.crt"):
            check(ApiConfig(port=port, tls=TlsConfig(tmp_path / "none.crt", tmp_path / "none.key")))
