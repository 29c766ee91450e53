"""Locust's users: people and programs at the HTTP interface, and applications at the databases.

An application writes a row at its database, then looks at another one until the row is there: `write pg` is
the time of its commit, `pg → mongo` the time from that commit to the first sight elsewhere. Run it by
`make load`, or against a group of your own that maps a table `probes (id integer, token bigint)`:

    LOAD_CONFIG=sync.yaml LOAD_TOKEN=... locust -f load/locustfile.py
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from locust import HttpUser, User, between, task  # first of all: it makes sockets take turns

from cluster.config import GroupConfig, load
from cluster.demo.ends import ERRORS, End, open_end

CONFIG_VARIABLE, TOKEN_VARIABLE = "LOAD_CONFIG", "LOAD_TOKEN"
ROWS = 50
"""So many rows of its own each application writes to, again and again."""
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.005
_numbers = itertools.count()


def config() -> GroupConfig:
    """The group that is driven."""
    return load(os.environ.get(CONFIG_VARIABLE, "sync.yaml"))


class _Client(HttpUser):
    abstract = True
    host = "http://127.0.0.1:3001"

    def on_start(self) -> None:
        """Ask with the token, where there is one."""
        if (api := config().api) is not None:
            self.client.base_url = api.url
        if token := os.environ.get(TOKEN_VARIABLE):
            self.client.headers["Authorization"] = f"Bearer {token}"


class Watcher(_Client):
    """A dashboard, a probe, Prometheus."""

    weight = 2
    wait_time = between(0.2, 1.0)

    @task(3)
    def health(self) -> None:
        """A probe."""
        self.client.get("/health")

    @task(3)
    def status(self) -> None:
        """A dashboard."""
        self.client.get("/sync/status")

    @task(1)
    def metrics(self) -> None:
        """Prometheus."""
        self.client.get("/metrics")


class Auditor(_Client):
    """Somebody who reads the audit log, page by page, and conflicts."""

    weight = 1
    wait_time = between(0.2, 1.0)
    cursor = ""

    @task(4)
    def records(self) -> None:
        """The next page."""
        asked: dict[str, Any] = {"kind": "change", "limit": 100}
        asked |= {"cursor": self.cursor} if self.cursor else {}
        answer = self.client.get("/audit/logs", params=asked, name="/audit/logs")
        if answer.ok:
            self.cursor = answer.json()["next"]

    @task(1)
    def conflicts(self) -> None:
        """What is on record."""
        self.client.get("/conflicts", params={"limit": 20}, name="/conflicts")


class Application(User):
    """A program that writes to one database, and reads what it wrote at another."""

    weight = 4
    wait_time = between(0.02, 0.1)

    def on_start(self) -> None:
        """Connect, each to the next pair of nodes."""
        nodes = config().nodes
        number = next(_numbers)
        here, there = list(itertools.permutations(nodes, 2))[number % (len(nodes) * (len(nodes) - 1))]
        self._names = here.name, there.name
        self._here: End = open_end(here.engine, here.dsn)
        self._there: End = open_end(there.engine, there.dsn)
        self._ids = itertools.cycle(range(1 + number * ROWS, 1 + (number + 1) * ROWS))
        self._tokens = itertools.count(1)

    def on_stop(self) -> None:
        """Disconnect."""
        self._here.close()
        self._there.close()

    @task
    def write_and_look(self) -> None:
        """Write a row, and wait until it is at the other end."""
        row, token = next(self._ids), next(self._tokens)
        here, there = self._names
        began = time.perf_counter()
        try:
            self._here.probe(row, token)
            wrote = time.perf_counter()
            self._tell(f"write {here}", wrote - began)
            while self._there.token(row) != token:
                if time.perf_counter() - wrote > PATIENCE_SECONDS:
                    self._tell(f"{here} → {there}", PATIENCE_SECONDS, TimeoutError("it did not come"))
                    return
                time.sleep(LOOK_SECONDS)
            self._tell(f"{here} → {there}", time.perf_counter() - wrote)
        except ERRORS as error:
            self._tell(f"write {here}", time.perf_counter() - began, error)

    def _tell(self, name: str, seconds: float, error: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="db",
            name=name,
            response_time=1000 * seconds,
            response_length=0,
            exception=error,
            context={},
        )
