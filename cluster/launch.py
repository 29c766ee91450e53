"""The group on Ray: which actors there are, with every option, in data-flow order.

    capture NODE ─▶ resolver N ─▶ applier NODE/N ─▶ database
         ▲               └──────▶ audit
    copy NODE

An applier, the audit log, a capture and a copy restart alone: Ray makes them again and repeats the calls that
were on their way, which the marker and the audit log's high-water marks make harmless; a copy goes on after
its last durable chunk. A resolver holds what cannot be repeated, so when one is lost the whole group starts a
new incarnation from the markers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import ray

from actors.backfill import CopyStatus
from actors.pipeline import copied_from, prepare
from actors.resolver import ShardStatus
from cluster.processes import (
    ApplierProcess,
    AuditProcess,
    CaptureProcess,
    CopyProcess,
    GroupPlan,
    ResolverProcess,
    settled,
)
from replication.errors import NodeUnavailable, SyncError

log = logging.getLogger(__name__)


class RayHandle:
    """An actor's handle in the shape of `actors.remote.Handle`."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def call(self, method: str, *args: Any) -> Future[Any]:
        """See `Handle`. Errors come as they were raised; a lost actor is `NodeUnavailable`."""
        done: Future[Any] = Future()
        answer: Future[Any] = getattr(self.actor, method).remote(*args).future()
        answer.add_done_callback(lambda answered: _pass_on(answered, done))
        return done


def _pass_on(answered: Future[Any], done: Future[Any]) -> None:
    error = answered.exception()
    if error is None:
        done.set_result(answered.result())
    elif isinstance(error, ray.exceptions.RayTaskError):
        done.set_exception(error.cause if isinstance(error.cause, SyncError) else error)
    else:
        done.set_exception(NodeUnavailable(f"an actor was lost: {type(error).__name__}"))


def namespace(group: str) -> str:
    """The Ray namespace of a group's actors."""
    return f"sync-worker-{group}"


def connect(address: str | None, group: str) -> None:
    """Join the cluster at `address`, or start Ray on this machine.

    Ray's own lines go through our logging; what each part logs is in Ray's log folder and its dashboard.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if not address:
        options |= {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    ray.init(address=address or "local", namespace=namespace(group), **options)


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started here ends."""
    ray.shutdown()


def ask(address: str, group: str) -> tuple[list[ShardStatus], dict[str, list[CopyStatus]]] | None:
    """The state of a running group: its shards, and by node its copies. None when it does not run there."""
    try:
        connect(address, group)
    except (ConnectionError, RuntimeError):
        return None
    names: list[str] = ray.util.list_named_actors()
    handles = {name: RayHandle(ray.get_actor(name)) for name in names}
    shards = [h.call("status").result() for n, h in sorted(handles.items()) if n.startswith("resolver ")]
    copies = {
        n.removeprefix("copy "): h.call("status").result() for n, h in handles.items() if n[:5] == "copy "
    }
    return (shards, copies) if shards else None


class Group:
    """One incarnation of a group: its actors.

    Args:
        plan: the group.
    """

    def __init__(self, plan: GroupPlan) -> None:
        self.plan = plan
        engines = plan.engines()
        names = list(engines)
        markers = prepare(plan.group, engines, plan.tables, plan.shards)
        self.audit = _actor(AuditProcess, "audit", plan, restarts=True)
        self.appliers = {
            (n, s): _actor(ApplierProcess, f"applier {n}/{s}", plan, n, restarts=True)
            for n in names
            for s in range(plan.shards)
        }
        self.resolvers = [
            _actor(
                ResolverProcess, f"resolver {s}", plan, s,
                {n: markers[n][s] for n in names},
                {n: self.appliers[n, s] for n in names},
                self.audit, threads=16,
            )
            for s in range(plan.shards)
        ]  # fmt: skip
        self.captures = {
            n: _actor(CaptureProcess, f"capture {n}", plan, n, self.resolvers, restarts=True, threads=4)
            for n in names
        }
        self.copies = {
            n: _actor(CopyProcess, f"copy {n}", plan, n, self.captures[n], restarts=True, threads=2)
            for n in copied_from(plan.tables, names)
        }

    @property
    def parts(self) -> list[RayHandle]:
        """Every actor, in data-flow order."""
        readers = [*self.copies.values(), *self.captures.values()]
        return [*readers, *self.resolvers, *self.appliers.values(), self.audit]

    def streaming(self) -> bool:
        """Whether every log is connected."""
        return all(c.call("streaming").result() for c in self.captures.values())

    def check(self) -> BaseException | None:
        """The first error that ended a part, if any. An actor that is being made again is waited for."""
        lasting = [*self.copies.values(), *self.captures.values(), *self.resolvers]
        errors = settled([part.call("health") for part in lasting], 60)
        return errors[0] if errors else None

    def heartbeat(self) -> None:
        """Store how far idle logs have been read."""
        settled([r.call("heartbeat") for r in self.resolvers], 60)

    def copied(self) -> bool:
        """Whether every initial copy is durable."""
        return all(c.call("finished").result() for c in self.copies.values())

    def status(self) -> list[ShardStatus]:
        """Every shard's state."""
        return [r.call("status").result() for r in self.resolvers]

    def stop(self) -> None:
        """Stop reading, let what is on its way to the databases finish, close the audit log, end."""
        for parts in (self.copies.values(), self.captures.values(), self.appliers.values(), self.resolvers):
            _report(settled([part.call("close") for part in parts], 30))
        _report(settled([self.audit.call("close")], 30))
        self.kill()

    def kill(self) -> None:
        """End the actors at once."""
        for part in self.parts:
            ray.kill(part.actor, no_restart=True)


def _actor(kind: type, name: str, *args: Any, restarts: bool = False, threads: int = 1) -> RayHandle:
    """Make an actor. It asks for no CPU of its own: a group has more parts than a laptop has cores.

    The class takes the part's name, which process lists, log prefixes and the dashboard show.
    """
    made: Any = ray.remote(type(name, (kind,), {})).options(
        name=name,
        num_cpus=0,
        max_concurrency=threads,
        max_restarts=-1 if restarts else 0,
        max_task_retries=-1 if restarts else 0,
    )
    return RayHandle(made.remote(*args))


def _report(errors: Sequence[BaseException]) -> None:
    for error in errors:
        log.warning("unclean_stop", extra={"error": str(error)})
