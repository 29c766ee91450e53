"""The application on Ray Serve, beside a group that `up` runs.

It begins once the group is ready, on a thread of its own: the group never waits for it, and goes on without
it where it cannot begin. It ends with the Ray that `up` has started; on a cluster of others it is taken away.
"""

from __future__ import annotations

import logging
import ssl
import threading
from functools import partial
from typing import Any

from api.app import create_app
from api.backend import Backend
from api.listening import Listening, bound
from api.tokens import KeySet
from cluster.config import GroupConfig
from cluster.config_api import ApiConfig
from cluster.launch import RayHandle, parts_of
from cluster.logs import configure_logging, secrets_of
from cluster.sharing.local import LocalStore
from cluster.sharing.on_ray import ACTOR
from replication.errors import ConfigError, SyncError

log = logging.getLogger(__name__)
BEGIN_SECONDS = 120.0
HEAD = "node:__internal_head__"
"""A resource of the node that a cluster begins with: all replicas listen at one machine's address."""


class Serving:
    """The interface of one run of `up`.

    Args:
        config: the group; it has an `api`.
        log_level: for the process that answers.
        own_ray: this `up` has started Ray, and ends it.
    """

    def __init__(self, config: GroupConfig, log_level: str, *, own_ray: bool) -> None:
        assert config.api is not None
        self._config = config
        self._api = config.api
        self._log_level = log_level
        self._own_ray = own_ray
        self._running = False
        self._kept: Any = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, unless it has; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="api", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it, if it has to be done by hand."""
        if self._thread is None or self._own_ray:
            return
        self._thread.join(BEGIN_SECONDS)
        if self._running:
            from ray import serve

            serve.delete(_name(self._config))
            log.info("api_stopped", extra={"group": self._config.group})

    def _run(self) -> None:
        detail = {"group": self._config.group, "url": self._api.url}
        try:
            check(self._api)
            self._kept = _serve(self._config, self._log_level)
        except SyncError as error:
            log.error("api_not_started", extra={**detail, "error": error.message, "hint": error.hint})
        except Exception as error:  # the group does its work without it
            log.exception("api_not_started", extra={**detail, "error": str(error)})
        else:
            self._running = True
            open_to = "everybody on this machine: there is no api.auth" if not self._api.auth else "tokens"
            log.info("api_ready", extra={**detail, "open_to": open_to, "replicas": self._api.replicas})


def check(api: ApiConfig) -> None:
    """See what would keep the interface from beginning.

    Raises:
        ConfigError: a file is not what it must be.
        Terminal: the port is taken.
    """
    if api.auth and not api.auth.is_remote:
        KeySet(api.auth.jwks).find("")
    if api.tls:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                api.tls.certificate, api.tls.key
            )
        except OSError as error:
            message = f"api.tls: {api.tls.certificate}, {api.tls.key}: {error.strerror or error}"
            raise ConfigError(message, hint="give a certificate and its own key, in PEM") from error
    bound(api.host, api.port, shared=False).close()


class Replica:
    """What Serve keeps alive: a process that listens at the interface's address.

    Args:
        config: the group.
        log_level: for this process.
    """

    def __init__(self, config: GroupConfig, log_level: str) -> None:
        from ray.serve import get_replica_context

        configure_logging(log_level, secrets_of(config.addresses) | config.secrets)
        several = config.api is not None and config.api.replicas > 1
        actor = partial(RayHandle.named, ACTOR, _space(config)) if several else None
        replica = str(get_replica_context().rank.rank)
        backend = Backend(config, partial(parts_of, config.group), actor, replica)
        self._listening = Listening(create_app(backend), backend.api)

    def check_health(self) -> None:
        """Serve asks now and then, and makes a replica again that raises."""
        self._listening.check()

    def __del__(self) -> None:
        if (listening := getattr(self, "_listening", None)) is not None:
            listening.close()


def _serve(config: GroupConfig, log_level: str) -> Any:
    """Start Serve without a proxy, and the replicas, which listen themselves; gives what must be kept."""
    from ray import serve

    api = config.api
    assert api is not None
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(proxy_location="Disabled", logging_config=quiet)

    shared = _share(config) if api.replicas > 1 else None
    here = {"num_cpus": 0, "resources": {HEAD: 0.001}}
    deployment = serve.deployment(name="api", ray_actor_options=here, num_replicas=api.replicas)(Replica)
    serve.run(deployment.bind(config, log_level), name=_name(config), route_prefix=None, logging_config=quiet)
    return shared


def _share(config: GroupConfig) -> Any:
    """The actor with what replicas share; it ends with its last handle, which the caller keeps."""
    import ray

    options: dict[str, Any] = {"name": ACTOR, "namespace": _space(config), "num_cpus": 0, "max_restarts": -1}
    return ray.remote(LocalStore).options(**options, max_concurrency=8, get_if_exists=True).remote()


def _space(config: GroupConfig) -> str:
    """A Ray namespace beside that of the group, all of whose actors are its parts."""
    return f"sync-worker-api-{config.group}"


def _name(config: GroupConfig) -> str:
    return f"sync-worker-{config.group}"
