"""What `up` does when one of Ray's own daemons is lost.

Without its raylet or its control store (`gcs_server`), calls neither end nor fail. A Ray that `up` has
started is made anew together with the whole process, which goes on from the markers like after any other
kill. A cluster that others run is theirs to mend: `up` ends with a message.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
CLUSTER_LOOK_SECONDS = 2.0
MISSES = 3
"""So often a cluster's daemon must refuse before it counts as lost."""
LONGEST_PAUSE = 30.0
CALM_SECONDS = 60.0
"""After so long without a loss, the next one is answered at once again."""
_LOSSES = "SYNC_WORKER_RAY_LOSSES"
_ENVIRONMENT = dict(os.environ)
"""As this process was started; Ray changes it."""
UNABLE = 2


class RayWatch:
    """Watches Ray's daemons in a thread of its own, from its making to `stop`.

    Args:
        address: the cluster's address, None for a Ray that this process has started.
        before: called before this process ends or begins anew; frees what others wait for.
    """

    def __init__(self, address: str | None, before: Callable[[], object]) -> None:
        from ray._private import worker

        self._node: Any = worker._global_node
        self._address = address
        self._before = before
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look away; Ray is about to be shut down."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        if self._address is None:
            while not self._stopping.wait(LOOK_SECONDS):
                if lost := self._dead_daemon():
                    self._begin_anew(lost)
            return
        missed = 0
        while not self._stopping.wait(CLUSTER_LOOK_SECONDS):
            lost = self._silent_daemon()
            missed = missed + 1 if lost else 0
            if missed == MISSES:
                self._give_up(lost)

    def _dead_daemon(self) -> str:
        for name in ("gcs_server", "raylet"):
            for info in self._node.all_processes.get(name, []):
                if info.process.poll() is not None:
                    return name
        return ""

    def _silent_daemon(self) -> str:
        host, _, port = self._node.gcs_address.rpartition(":")
        places: list[tuple[str, int, Any]] = [("gcs_server", socket.AF_INET, (host, int(port)))]
        if (path := self._node.raylet_socket_name) and os.path.exists(path):
            places.append(("raylet", socket.AF_UNIX, path))
        for name, family, place in places:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(CLUSTER_LOOK_SECONDS)
                try:
                    probe.connect(place)
                except OSError:
                    return name
        return ""

    def _begin_anew(self, lost: str) -> NoReturn:
        """Clean up and run this program again in this process's place."""
        calm = time.monotonic() - self._began > CALM_SECONDS
        losses = 0 if calm else int(_ENVIRONMENT.get(_LOSSES, "0"))
        pause = min(0.5 * 2**losses, LONGEST_PAUSE)
        log.error("ray_lost", extra={"daemon": lost, "begins_anew_in": pause})
        self._end_daemons()
        self._leave()
        time.sleep(pause)
        environment = {**_ENVIRONMENT, _LOSSES: str(losses + 1)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)

    def _give_up(self, lost: str) -> NoReturn:
        log.error("ray_lost", extra={"daemon": lost, "address": self._address})
        self._leave()
        print(
            f"error: the Ray cluster at {self._address} has lost its {lost}\n"
            "hint: mend the cluster, then start 'sync-worker up' again: it goes on where it was",
            file=sys.stderr,
            flush=True,
        )
        os._exit(UNABLE)

    def _leave(self) -> None:
        with suppress(Exception):  # whatever it is, this process ends
            self._before()

    def _end_daemons(self) -> None:
        """The workers end with their raylet."""
        for infos in list(self._node.all_processes.values()):
            for info in infos:
                with suppress(ProcessLookupError):
                    os.kill(info.process.pid, signal.SIGKILL)
                with suppress(Exception):
                    info.process.wait(5)
