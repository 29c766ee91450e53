"""What routes act on: the running group, its configuration and its audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.remote import Handle
from api.access import Principal
from api.denials import Denials
from api.metrics import Requests
from api.operations import Operations
from api.stream import Hub
from cluster.audit_log import open_keys, open_view
from cluster.commands.status import state_json
from cluster.config import GroupConfig
from cluster.config_api import ApiConfig
from cluster.launch import GroupState, state_of
from cluster.running import Way, way_inside
from cluster.waiting import read_note
from replication.audit.access import View
from replication.audit.feed import Feed
from replication.audit.keys import Keyring

STATE_SECONDS = 5.0


class Backend:
    """One group, as the interface reaches it.

    Args:
        config: the group.
        parts: looks the group's parts up, by name; empty when it does not run.
    """

    def __init__(self, config: GroupConfig, parts: Callable[[], Mapping[str, Handle]]) -> None:
        self.config = config
        self.parts = parts
        self.api = config.api or ApiConfig()
        self.denials = Denials(parts)
        self.operations = Operations()
        self.requests = Requests()
        self.hub = Hub(lambda: Feed(config.audit_path, self.keys()))

    def way(self, who: Principal) -> Way:
        """How somebody acts on the group: one at a time, and on record under their name."""
        return way_inside(self.config, self.parts, who.subject)

    def state(self) -> GroupState | None:
        """What the group says of itself; None when it does not run.

        Raises:
            TimeoutError, NodeUnavailable: a part does not answer.
        """
        return state_of(self.parts(), STATE_SECONDS)

    def state_json(self, state: GroupState) -> dict[str, Any]:
        """The same as `status --json` prints it."""
        return state_json(self.config, state, read_note(self.config.audit_path))

    def view(self, who: Principal) -> View:
        """What somebody sees of the records: everything that shows a row or a key goes through it."""
        return open_view(self.config, who.role.name.lower())

    def words(self, who: Principal) -> View:
        """The same for texts alone, for which no key is needed."""
        return View(who.role.name.lower(), self.config.audit.access)

    def keys(self) -> Keyring | None:
        """The keys that open the audit log, where it is encrypted."""
        return open_keys(self.config.audit_path, self.config.audit)
