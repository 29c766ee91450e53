"""The HTTP interface, as `up` starts it: it is of the layer above, so it is found by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from cluster.config import GroupConfig


class Interface(Protocol):
    """See `api.serving.Serving`."""

    def begin(self) -> None:
        """Begin once, on a thread of its own; returns at once."""

    def stop(self) -> None:
        """End, before this process leaves Ray."""


class NoInterface:
    """That of a group whose configuration has no `api`."""

    def begin(self) -> None:
        """Nothing begins."""

    def stop(self) -> None:
        """Nothing ends."""


def interface_of(config: GroupConfig, log_level: str, *, own_ray: bool) -> Interface:
    """The interface of a group.

    Args:
        config: the group.
        log_level: for the process that answers.
        own_ray: the Ray that it runs on ends with this process.
    """
    if config.api is None:
        return NoInterface()
    return cast(Interface, import_module("api.serving").Serving(config, log_level, own_ray=own_ray))
