"""The processes of a group that `sync-worker up` runs on a Ray of its own, as the machine shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

DAEMONS = "raylet", "gcs_server"
"""Ray's own, on every machine of a cluster and on its head."""


def find(up: int, part: str) -> psutil.Process | None:
    """The process of a part such as `resolver 0`, of one of Ray's daemons, or `up` itself.

    Args:
        up: the process id of `up`.
        part: its name.

    Returns:
        None where no such process runs now.
    """
    root = psutil.Process(up)
    if part == "up":
        return root
    title = f"ray::{part}"
    for child in root.children(recursive=True):
        with suppress(psutil.Error):
            found = " ".join(child.cmdline()).strip()
            if found == title or found.startswith((title + ".", title + ":")):
                return child
            if part in DAEMONS and Path(child.exe()).name == part:
                return child
    return None


def used_seconds(up: int) -> float:
    """Processor seconds of `up` and all that it started."""
    return float(sum(t.user + t.system for t in _each(up, "cpu_times")))


def memory_bytes(up: int) -> int:
    """Memory of `up` and all that it started; what several share counts once (proportional set size)."""
    return int(sum(m.pss for m in _each(up, "memory_full_info")))


def _each(up: int, what: str) -> Iterator[Any]:
    root = psutil.Process(up)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.Error):
            yield getattr(process, what)()
