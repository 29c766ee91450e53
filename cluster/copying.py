"""Copies that an operator asks a running group for: by how many readers, and within what bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.host import most_readers
from actors.reading import LocalReader, Reader, ReaderPool
from actors.remote import Handle, RemoteCapture
from cluster.config import GroupConfig, Limits
from replication.engine import Engine, StateStore
from replication.pacing import USUAL_BOUNDS, Bounds

Hire = Callable[[str, Handle, int], Reader]


def bounds_of(limits: Limits) -> Bounds:
    """What a copy may make the nodes bear."""
    return Bounds(limits.copy_lag_seconds, limits.copy_apply_seconds)


@dataclass(frozen=True, slots=True)
class Copying:
    """How a copy is made that an operator asks for.

    Attributes:
        bounds: see `Bounds`.
        hire: makes the readers of a node after the first, by number; all are of this process if None.
    """

    bounds: Bounds = USUAL_BOUNDS
    hire: Hire | None = None

    def readers(self, engine: Engine, capture: Handle, workers: int) -> ReaderPool:
        """Readers of a node, given its capture."""

        def make(number: int) -> Reader:
            if number and self.hire is not None:
                return self.hire(engine.node.name, capture, number)
            return LocalReader(engine.snapshot(), RemoteCapture(capture))

        return ReaderPool(make, workers, most_readers(engine))


IN_THIS_PROCESS = Copying()


def copying_of(config: GroupConfig) -> Copying:
    """The same for a process that has joined the group's Ray."""
    from actors.limits import Limits as PartLimits
    from cluster.launch import RayReader
    from cluster.plan import GroupPlan

    path = config.audit_path.absolute()
    plan = GroupPlan(
        config.group, config.nodes, (), config.shards, path, PartLimits(), "warning", config.audit
    )

    def hire(node: str, capture: Handle, number: int) -> Reader:
        return RayReader(plan, node, capture, number)

    return Copying(bounds_of(config.limits), hire)


class Apart:
    """Progress of copies that an operator asked for, apart from that of the initial copy."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def get_state(self, name: str) -> str | None:
        """See `StateStore`."""
        return self._store.get_state(f"again/{name}")

    def put_state(self, name: str, value: str) -> None:
        """See `StateStore`."""
        self._store.put_state(f"again/{name}", value)
