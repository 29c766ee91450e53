"""Ray on this machine: processes that give back what they free, and none that a group has no use for.

Where no dashboard is asked for, Ray still starts the process that would show it, which reports usage to Ray's
makers; an autoscaler, which orders machines; and a log monitor, which brings what workers print to whoever
started them. They cost a second and a half of CPU at each start, and 270 MiB. `ray start` has options against
two of them, `ray.init` has none, so names of its own are replaced while it runs.

Many threads of a part make batches, and others let go of them. The C library keeps up to eight heaps for each
processor, Arrow's usual allocator one for each thread, and what is free in one is of no use to others. In a
transaction of millions of rows a resolver grew by 180 MiB, and grows by 90 with two heaps for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

FEW_HEAPS = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""The environment of a process that has two heaps of the C library for all of its threads, and no others."""


@contextmanager
def own_ray(*, dashboard: bool) -> Iterator[None]:
    """The processes of a Ray that is started in the block have few heaps; without a `dashboard` it is lean.

    A variable that is set already stays as it is.
    """
    added = {name: value for name, value in FEW_HEAPS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with nullcontext() if dashboard else lean():
            yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def lean() -> Iterator[None]:
    """A Ray that is started in the block runs without these processes."""
    parameters = import_module("ray._private.parameter")
    services = import_module("ray._private.services")
    made = partial(parameters.RayParams, no_monitor=True, include_log_monitor=False)
    with _replaced(parameters, "RayParams", made), _replaced(services, "start_api_server", _no_server):
        yield


def _no_server(*_: object, **__: object) -> tuple[None, None]:
    """What Ray's own function gives where the server could not start, and need not."""
    return None, None


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    was = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, was)
