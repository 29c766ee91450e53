"""The socket of a replica: what stands between the application and the network."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar

import httpx2
import pytest
from websockets.asyncio.client import connect

from api.app import create_app
from api.backend import Backend
from api.listening import Listening
from api.routes import stream
from api.stream import Listener
from cluster.config_api import ApiConfig
from cluster.servers.process import free_port
from replication.errors import Terminal
from tests.fixtures.api_bed import PATIENCE, Bed
from tests.fixtures.until import until


@pytest.fixture
def api(bed: Bed) -> ApiConfig:
    return replace(bed.backend.api, port=free_port())


@pytest.fixture
def listening(bed: Bed, api: ApiConfig) -> Iterator[Listening]:
    with closing(Listening(create_app(bed.backend), api)) as found:
        yield found


def test_it_answers_and_does_not_say_what_it_is_made_of(listening: Listening, api: ApiConfig) -> None:
    answer = httpx2.get(f"{api.url}/health/live")
    assert answer.status_code == 200
    assert "server" not in answer.headers
    listening.check()


@pytest.mark.parametrize("more_api", ["rate: {subject: 1000000, address: 3}"])
def test_an_address_is_who_connects_and_not_what_it_says(listening: Listening, api: ApiConfig) -> None:
    asked = [
        httpx2.get(f"{api.url}/sync/status", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(5)
    ]
    assert 429 in {answer.status_code for answer in asked}


def test_replicas_listen_at_one_address_and_one_that_ends_leaves_it_to_the_others(
    bed: Bed, listening: Listening, api: ApiConfig
) -> None:
    other = Listening(create_app(bed.backend), api)
    listening.close()
    for _ in range(20):
        assert httpx2.get(f"{api.url}/health/live").status_code == 200
    other.close()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{api.url}/health/live")
    with pytest.raises(Terminal, match="has ended"):
        other.check()


def test_an_address_that_another_program_has_is_refused(away: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Terminal, match="in use"):
            Listening(create_app(away), ApiConfig(port=port))


class Counted(Listener):
    """Listeners that a test can ask how often they had to read the log."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


def test_what_a_client_does_not_read_is_not_kept_and_it_misses_nothing(
    bed: Bed, listening: Listening, api: ApiConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "Listener", Counted)
    monkeypatch.setattr(Counted, "made", [])
    hub = bed.backend.hub
    hub._most = 100
    rows, text = 4_000, "x" * 4_000

    def write() -> None:
        for start in range(0, rows, 200):
            with bed.databases["a"].transaction() as transaction:
                for key in range(start, start + 200):
                    transaction.insert("orders", {"id": key, "name": text})
            bed.wait_row("b", start + 199, text)

    async def run() -> None:
        with socket.socket() as narrow:
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            narrow.connect(("127.0.0.1", api.port))
            narrow.setblocking(False)
            address = f"ws://127.0.0.1:{api.port}/audit/stream?kind=change"
            async with connect(
                address,
                sock=narrow,
                additional_headers=bed.keys.bearer("auditor"),
                compression=None,
                max_queue=1,
                max_size=None,
            ) as client:
                await asyncio.to_thread(write)
                [listener] = Counted.made
                await asyncio.to_thread(until, lambda: hub.places["changes/orders"] >= rows)
                assert listener._places["changes/orders"] < rows, "nothing is made for it"
                found: list[int] = []
                while len(found) < rows:
                    message = json.loads(await asyncio.wait_for(client.recv(), PATIENCE))
                    found += [r["id"] for r in message["records"]]
                assert found == list(range(rows))
                assert listener.caught_up

    asyncio.run(run())
