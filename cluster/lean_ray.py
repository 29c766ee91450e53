"""Ray on this machine, without the processes that a group has no use for.

Where no dashboard is asked for, Ray still starts the process that would show it, which reports usage to Ray's
makers; an autoscaler, which orders machines; and a log monitor, which brings what workers print to whoever
started them. They cost a second and a half of CPU at each start, and 270 MiB. `ray start` has options against
two of them, `ray.init` has none, so names of its own are replaced while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any


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
