"""What routes act on: the running group, its configuration and its audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from actors.remote import Handle
from api.access import Principal
from api.denials import Denials
from api.metrics import Requests, Shown
from api.operations import Operations
from api.stream import End, Hub
from cluster.audit_log import open_keys, open_view
from cluster.commands.check import table_json
from cluster.commands.status import state_json
from cluster.config import GroupConfig
from cluster.config_api import ApiConfig
from cluster.group_state import GroupState, state_of
from cluster.running import Way, way_inside
from cluster.schema_state import as_agreed, load_states
from cluster.sharing.stores import open_store
from cluster.topology import open_catalogs, read_topology
from cluster.waiting import read_note
from replication.audit.access import View
from replication.audit.feed import Feed
from replication.audit.keys import Keyring

STATE_SECONDS = 5.0
CACHED_SECONDS = 1.0
"""A status from Redis is at most so old."""
SCHEMA_SECONDS = 30.0


class Backend:
    """One group, as the interface reaches it.

    Args:
        config: the group.
        parts: looks the group's parts up, by name; empty when it does not run.
        actor: looks up what replicas share where there is no Redis; None for a single replica.
        replica: which of the replicas this is.
    """

    def __init__(
        self,
        config: GroupConfig,
        parts: Callable[[], Mapping[str, Handle]],
        actor: Callable[[], Handle] | None = None,
        replica: str = "0",
    ) -> None:
        self.config = config
        self.parts = parts
        self.api = config.api or ApiConfig()
        self.shared = open_store(config, actor)
        self.denials = Denials(parts)
        self.operations = Operations(self.shared)
        self.requests = Requests(replica)
        self.shown = Shown(self.shared, replica, lambda: self.requests.measured(self.denials.totals))
        if self.api.replicas > 1:
            self.shown.begin()
        self.hub = Hub(self._open_feed)

    def close(self) -> None:
        """End what runs beside requests."""
        self.denials.close()
        self.shown.close()
        self.shared.close()

    def _open_feed(self) -> End:
        """The end of the log. What is encrypted on disk does not go through Redis in clear."""
        config, keys = self.config, self.keys()
        if config.redis is None or self.api.replicas == 1 or keys is not None:
            return Feed(config.audit_path, keys)
        from cluster.sharing.feed import SharedFeed

        return SharedFeed(config.redis, config.group, lambda: Feed(config.audit_path))

    def way(self, who: Principal) -> Way:
        """How somebody acts on the group: one at a time, and on record under their name."""
        return way_inside(self.config, self.parts, who.subject)

    def state(self) -> GroupState | None:
        """What the group says of itself; None when it does not run.

        Raises:
            TimeoutError, NodeUnavailable: a part does not answer.
        """
        return state_of(self.parts(), STATE_SECONDS)

    def status(self) -> dict[str, Any] | None:
        """The same as `status --json` prints it, with Redis from the cache; None when the group does not run.

        Raises:
            TimeoutError, NodeUnavailable: a part does not answer.
        """
        cached = self.shared.get("status", "") if self.config.redis else None
        if not cached:
            if (state := self.state()) is None:
                return None
            found = state_json(self.config, state, read_note(self.config.audit_path))
            cached = orjson.dumps(found)
            if self.config.redis:
                self.shared.put("status", "", cached, CACHED_SECONDS)
        status: dict[str, Any] = orjson.loads(cached)
        return status | ({"redis": asdict(self.shared.health())} if self.config.redis else {})

    def schema(self) -> bytes:
        """How every table is mapped, as JSON; every node was asked at most `SCHEMA_SECONDS` ago.

        Raises:
            InvalidConfig: the configuration does not fit the tables any more.
            NodeUnavailable: a node cannot be reached.
        """
        cached = self.shared.get("schema", "")
        if cached is None:
            config = self.config
            with open_catalogs(config) as catalogs:
                topology = as_agreed(read_topology(config, catalogs), load_states(config))
            tables = [table_json(config, topology, table) for table in topology.tables]
            cached = orjson.dumps({"group": config.group, "tables": tables})
            self.shared.put("schema", "", cached, SCHEMA_SECONDS)
        return cached

    def changed(self) -> None:
        """Somebody has acted on the group: what is cached of its status is old."""
        if self.config.redis:
            self.shared.put("status", "", b"", CACHED_SECONDS)

    def view(self, who: Principal) -> View:
        """What somebody sees of the records: everything that shows a row or a key goes through it."""
        return open_view(self.config, who.role.name.lower())

    def words(self, who: Principal) -> View:
        """The same for texts alone, for which no key is needed."""
        return View(who.role.name.lower(), self.config.audit.access)

    def keys(self) -> Keyring | None:
        """The keys that open the audit log, where it is encrypted."""
        return open_keys(self.config.audit_path, self.config.audit)
