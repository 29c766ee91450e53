"""What the parts' processes answer; no Ray is needed for it."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from actors.limits import Limits
from actors.shards import Aside
from cluster import launch
from cluster.pausing import Pauses
from cluster.plan import GroupPlan
from cluster.processes import ApplierProcess, ResolverProcess
from replication.errors import NodeUnavailable, SyncError, Terminal
from replication.marker import Marker
from replication.position import Position, order_of
from replication.schema import NodeConfig
from tests.unit.test_resolver import EPOCH, TABLE, insert


class Part:
    """Another process, whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[Future[Any]] = []

    def call(self, method: str, *args: Any) -> Future[Any]:
        self.asked.append(Future())
        if method == "write":
            self.asked[-1].set_result(None)
        return self.asked[-1]


@pytest.mark.parametrize(
    ("error", "at_work"), [(NodeUnavailable("an actor was lost"), 0), (Terminal("no use"), EPOCH)]
)
def test_a_resolver_that_a_passing_error_ended_waits_to_begin_again(
    tmp_path: Path, error: SyncError, at_work: int
) -> None:
    nodes = tuple(NodeConfig(n, "memory", f"memory://{n}") for n in "ab")
    applier = Part()
    plan = GroupPlan("g", nodes, (TABLE,), 1, tmp_path, Limits())
    resolver = ResolverProcess(plan, 0, dict.fromkeys("ab", applier), Part())
    assert resolver.epoch() == 0
    start = Position(order_of(1, 0), "")
    markers = {n: Marker("g", 0, 1, EPOCH, 0, resume=dict.fromkeys("ab", start)) for n in "ab"}
    resolver.begin(markers, Pauses(), Aside())
    assert resolver.epoch() == EPOCH
    resolver.feed("a", [insert(2)], EPOCH)
    applier.asked[0].set_exception(error)
    assert resolver.epoch() == at_work
    with pytest.raises(type(error)):
        resolver.health()
    resolver.begin(markers, Pauses(), Aside())
    assert resolver.epoch() == EPOCH
    assert resolver.health()
    resolver.close()


@pytest.mark.parametrize("failures", [0, 1, launch.STARTS])
def test_ray_that_is_slow_to_start_is_started_again(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    tried: list[str] = []

    def slow(**options: Any) -> None:
        tried.append(options["address"])
        if len(tried) <= failures:
            message = "The current node timed out during startup."
            raise Exception(message)  # noqa: TRY002  as Ray does

    monkeypatch.setattr(launch.ray, "init", slow)
    monkeypatch.setattr(launch.ray, "shutdown", lambda: None)
    if failures < launch.STARTS:
        launch.connect(None, "g")
    else:
        with pytest.raises(NodeUnavailable, match="did not start on this machine in 3 attempts"):
            launch.connect(None, "g")
    assert tried == ["local"] * min(failures + 1, launch.STARTS)


@pytest.mark.parametrize(("one_machine", "at"), [(True, "127.0.0.1"), (False, "localhost")])
def test_parts_of_one_machine_listen_at_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_machine: bool, at: str
) -> None:
    nodes = tuple(NodeConfig(n, "memory", f"memory://{n}") for n in "ab")
    plan = GroupPlan("g", nodes, (TABLE,), 1, tmp_path, Limits(), one_machine=one_machine)
    monkeypatch.setattr(ApplierProcess, "host", staticmethod(lambda: "localhost"))
    applier = ApplierProcess(plan, "a", 0)
    assert applier.listening().host == at
    assert applier.listening() == applier.listening()
    applier.close()
