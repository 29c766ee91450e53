"""The group on Ray: which actors there are, with every option, in data-flow order.

    capture NODE ─▶ resolver N ─▶ applier NODE/N ─▶ database
         ▲               └──────▶ audit
    copy NODE ─▶ reader NODE/N, of which there are more or fewer
    publisher, which reads the audit log's files

Every part restarts alone. Ray makes an applier, the audit log, a capture and a copy again and repeats the
calls that were on their way, which the marker and the audit log's high-water marks make harmless; a copy goes
on with what is not durable, and makes a reader that is lost again. A resolver holds what cannot be repeated:
when one was lost, `Group.renew` raises the epoch, and the resolvers begin again from the markers while every
other process stays.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import ray

from actors.audit import NoteRecords
from actors.guard import GuardStatus
from actors.pipeline import copied_from, prepare
from actors.reading import Assignment, Read
from actors.remote import Handle
from actors.shard_status import ShardStatus
from cluster.channel import Channel
from cluster.group_state import GroupState, guards_of, state_of
from cluster.lean_ray import own_ray
from cluster.pausing import read_pauses
from cluster.plan import GroupPlan
from cluster.processes import ApplierProcess, AuditProcess, ResolverProcess, settled
from cluster.publishing import PublisherProcess
from cluster.reading_processes import CaptureProcess, CopyProcess, ReaderProcess
from replication.errors import NodeUnavailable, SyncError
from replication.marker import Marker

log = logging.getLogger(__name__)
ASIDE = frozenset(
    {
        *("guard", "give_up", "listening", "measured", "open_holds", "held_since"),
        *("tell_retries", "retries", "publishing"),
    }
)
"""What a part answers beside its work, however long that takes."""
RENEW_SECONDS, BEGIN_SECONDS, ANSWER_SECONDS = 30.0, 120.0, 5.0
SOON_SECONDS = 0.5
STARTS = 3
"""For the first call to a resolver, whose process starts together with those of all other parts."""


class RayHandle:
    """An actor in the shape of `actors.remote.Handle`.

    It travels as the name alone: Ray would keep a handle among an actor's arguments in the object store, and
    could not make the actor again once that is lost.
    """

    def __init__(self, name: str, actor: Any, namespace: str | None = None) -> None:
        self.name, self.actor, self._namespace = name, actor, namespace

    def __reduce__(self) -> tuple[Any, ...]:
        return RayHandle.named, (self.name, self._namespace)

    @classmethod
    def named(cls, name: str, namespace: str | None = None) -> RayHandle:
        """Look an actor up. It blocks, so it must not happen where Ray delivers answers."""
        return cls(name, ray.get_actor(name, namespace), namespace)

    def call(self, method: str, *args: Any) -> Future[Any]:
        """See `Handle`. Errors come as they were raised; a lost actor is `NodeUnavailable`."""
        done: Future[Any] = Future()
        called = getattr(self.actor, method)
        if method in ASIDE:
            called = called.options(concurrency_group="aside")
        answer: Future[Any] = called.remote(*args).future()
        answer.add_done_callback(lambda answered: _pass_on(answered, done))
        return done


@dataclass(frozen=True, slots=True)
class Straight:
    """An actor as the part calls it whose changes go to it: beside Ray, see `cluster.channel`.

    Unless Ray has been told to encrypt what it carries, which a channel does not.

    Attributes:
        actor: the actor.
        repeats: see `Channel`.
    """

    actor: RayHandle
    repeats: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _straight, (self.actor, self.repeats)


def _straight(actor: RayHandle, repeats: bool) -> Handle:
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return actor
    return Channel(actor.name, lambda: actor.call("listening").result(), repeats=repeats)


class RayReader:
    """A reader of an initial copy in a process of its own, which ends with the copy's.

    It has no name in the cluster: nobody but the copy knows it, and the copy may make the next one at once.
    """

    def __init__(self, plan: GroupPlan, node: str, capture: Handle, number: int) -> None:
        kind: Any = ray.remote(type(f"reader {node}/{number}", (ReaderProcess,), {}))
        self._actor: Any = kind.options(num_cpus=0, max_restarts=0).remote(plan, node, capture)
        self._handle = RayHandle("", self._actor)

    def read(self, assignment: Assignment) -> Read:
        """See `actors.reading.Reader`."""
        read: Read = self._handle.call("read", assignment).result()
        return read

    def close(self) -> None:
        """See `actors.reading.Reader`."""
        ray.kill(self._actor)


def _pass_on(answered: Future[Any], done: Future[Any]) -> None:
    error = answered.exception()
    if error is None:
        done.set_result(answered.result())
    elif isinstance(error, ray.exceptions.RayTaskError):
        done.set_exception(error.cause if isinstance(error.cause, SyncError) else error)
    else:
        done.set_exception(NodeUnavailable(f"an actor was lost: {error}"))


def namespace(group: str) -> str:
    """The Ray namespace of a group's actors."""
    return f"sync-worker-{group}"


def connect(address: str | None, group: str, *, dashboard: bool = True) -> None:
    """Join the cluster at `address`, or start Ray on this machine, with its `dashboard` or without.

    Ray's own lines go through our logging; what each part logs is in Ray's log folder and its dashboard.

    Raises:
        NodeUnavailable: Ray does not start on this machine.
        ConnectionError: there is no cluster at `address`.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if not address:
        options |= {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    for attempt in range(1, STARTS + 1):
        try:
            with nullcontext() if address else own_ray(dashboard=dashboard):
                ray.init(address=address or "local", namespace=namespace(group), **options)
            return
        except Exception as error:  # Ray has no class of its own for daemons that are slow to start
            if address or "startup" not in str(error):
                raise
            ray.shutdown()
            log.warning("ray_not_started", extra={"attempt": attempt, "error": str(error)})
    message = f"Ray did not start on this machine in {STARTS} attempts"
    hint = "see its logs in /tmp/ray/session_latest/logs; the machine may have too much to do"
    raise NodeUnavailable(message, hint=hint)


def gcs_address() -> str:
    """The address of the cluster that this process has joined, for others to join it."""
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started here ends."""
    ray.shutdown()


def join(address: str, group: str) -> dict[str, RayHandle]:
    """The parts of a group that runs at `address`, by name; empty when it does not run there."""
    if not address or not _answers(address):
        return {}
    try:
        connect(address, group)
    except (ConnectionError, RuntimeError):
        return {}
    return parts()


def _answers(address: str) -> bool:
    """Whether anybody listens there; Ray would look for minutes for a cluster that was killed."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return True  # `auto`, or what Ray alone understands
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def parts() -> dict[str, RayHandle]:
    """The parts of the group whose cluster this process has joined, by name."""
    names: list[str] = ray.util.list_named_actors()
    return {name: RayHandle.named(name) for name in names}


def parts_of(group: str) -> dict[str, RayHandle]:
    """The same for a process whose own namespace is another; a part that is being made is left out."""
    space, found = namespace(group), {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == space:
            with suppress(ValueError):  # it has ended since
                found[actor["name"]] = RayHandle.named(actor["name"], space)
    return found


def ask(address: str, group: str) -> GroupState | None:
    """The state of a running group. None when it does not run there."""
    return state_of(join(address, group))


class Group:
    """One incarnation of a group: its actors.

    Args:
        plan: the group.
    """

    def __init__(self, plan: GroupPlan) -> None:
        self.plan = plan
        engines = plan.engines()
        names = list(engines)
        self._markers = self._prepare()
        self.audit = _actor(AuditProcess, "audit", plan)
        self.appliers = {
            (n, s): _actor(ApplierProcess, f"applier {n}/{s}", plan, n, s)
            for n in names
            for s in range(plan.shards)
        }
        self.resolvers = [
            _actor(
                ResolverProcess, f"resolver {s}", plan, s,
                {n: Straight(self.appliers[n, s]) for n in names},
                Straight(self.audit), repeats=False, threads=16,
            )
            for s in range(plan.shards)
        ]  # fmt: skip
        ways = [Straight(r, repeats=False) for r in self.resolvers]
        self.captures = {n: _actor(CaptureProcess, f"capture {n}", plan, n, ways, threads=4) for n in names}
        self.copies = {
            n: _actor(CopyProcess, f"copy {n}", plan, n, self.captures[n], RayReader, threads=2)
            for n in copied_from(plan.tables, names)
        }
        self.publishers = [_actor(PublisherProcess, "publisher", plan)] if plan.kafka else []

    @property
    def parts(self) -> list[RayHandle]:
        """Every actor, in data-flow order."""
        readers = [*self.copies.values(), *self.captures.values()]
        return [*readers, *self.resolvers, *self.appliers.values(), self.audit, *self.publishers]

    def begin(self) -> None:
        """Set the resolvers to work."""
        self.audit.call("health").result(BEGIN_SECONDS)  # from here on commands tell us of pauses
        pauses = read_pauses(self.plan.engines())
        for kind, since in (("node", pauses.since), ("table", pauses.tables)):
            for name, at in since.items():
                log.warning(f"{kind}_paused", extra={"group": self.plan.group, kind: name, "since": at})
        aside = self.audit.call("aside").result(BEGIN_SECONDS)
        for s, resolver in enumerate(self.resolvers):
            own = {n: markers[s] for n, markers in self._markers.items()}
            resolver.call("begin", own, pauses, aside).result(BEGIN_SECONDS)

    def streaming(self) -> bool:
        """Whether every log is connected."""
        return all(c.call("streaming").result() for c in self.captures.values())

    def check(self) -> BaseException | None:
        """The first error that ended a part, if any. A reader that is being made again is waited for."""
        readers = [*self.copies.values(), *self.captures.values()]
        errors = settled([part.call("health") for part in readers], 60)
        shards = settled([r.call("health") for r in self._begun()], 60)
        errors += [e for e in shards if not isinstance(e, NodeUnavailable)]  # it is lost, see `lost`
        return errors[0] if errors else None

    def lost(self) -> bool:
        """Whether a resolver was made again, or ended by a passing error, so that `renew` is due."""
        return len(self._begun()) < len(self.resolvers)

    def renew(self) -> None:
        """Start a new incarnation of the resolvers, once all of them are there.

        Raises:
            Transient: not yet; try again.
        """
        for resolver in self.resolvers:  # none may hear of the next epoch before it begins it
            resolver.call("suspend").result(RENEW_SECONDS)
        self._markers = self._prepare()
        self.begin()

    def note(self, kind: str, details: Sequence[Mapping[str, str]]) -> None:
        """Put what the program did on record."""
        if details:
            self.audit.call("write", [NoteRecords(kind, dict(d)) for d in details]).result(RENEW_SECONDS)

    def heartbeat(self) -> None:
        """Store how far idle logs have been read."""
        settled([r.call("heartbeat") for r in self.resolvers], 60)

    def copied(self) -> bool:
        """Whether every initial copy is durable."""
        return all(c.call("finished").result() for c in self.copies.values())

    def status(self) -> list[ShardStatus]:
        """Every shard's state."""
        return [r.call("status").result() for r in self.resolvers]

    def guards(self) -> list[GuardStatus]:
        """The ways of the parts to their nodes, of those that answer soon."""
        return guards_of({part.name: part for part in self.parts}, SOON_SECONDS)

    def stop(self) -> None:
        """Stop reading, let what is on its way finish, close the audit log, publish what it holds, end."""
        for part in self.appliers.values():
            part.call("give_up")  # a node that is away would keep it from closing
        for parts in (self.copies.values(), self.captures.values(), self.appliers.values(), self.resolvers):
            _report(settled([part.call("close") for part in parts], 30))
        _report(settled([self.audit.call("close")], 30))
        _report(settled([p.call("close") for p in self.publishers], 30))
        self.kill()

    def _prepare(self) -> dict[str, list[Marker]]:
        return prepare(self.plan.group, self.plan.engines(), self.plan.tables, self.plan.shards)

    def _begun(self) -> list[RayHandle]:
        """The resolvers that are at work. One that does not answer is made again."""
        begun = []
        for resolver, epoch in [(r, r.call("epoch")) for r in self.resolvers]:
            try:
                if epoch.result(RENEW_SECONDS):
                    begun.append(resolver)
            except NodeUnavailable:
                pass
            except TimeoutError:
                ray.kill(resolver.actor, no_restart=False)
        return begun

    def kill(self) -> None:
        """End the actors at once."""
        for part in self.parts:
            ray.kill(part.actor, no_restart=True)


def _actor(kind: type, name: str, *args: Any, repeats: bool = True, threads: int = 1) -> RayHandle:
    """Make an actor, made again whenever it is lost. It asks for no CPU of its own: a group has more parts
    than a laptop has cores.

    The class takes the part's name, which process lists, log prefixes and the dashboard show.

    Args:
        kind: the class.
        name: the part's name.
        args: what it is made from.
        repeats: calls that were on their way when it was lost are made again.
        threads: how many calls it answers at once.
    """
    remote: Any = ray.remote(concurrency_groups={"aside": 1})  # type: ignore[call-overload]
    of_ray = {"host": staticmethod(ray.util.get_node_ip_address)}
    made: Any = remote(type(name, (kind,), of_ray)).options(
        name=name,
        num_cpus=0,
        max_concurrency=threads,
        max_restarts=-1,
        max_task_retries=-1 if repeats else 0,
    )
    return RayHandle(name, made.remote(*args))


def _report(errors: Sequence[BaseException]) -> None:
    for error in errors:
        log.warning("unclean_stop", extra={"error": str(error)})
