"""Notices the end of a connection, which the driver alone would mend unseen."""

from __future__ import annotations

from typing import Any

from pymongo.monitoring import ConnectionPoolListener


class Connection(ConnectionPoolListener):
    """Listens to the driver's connection pool; called from the driver's threads.

    Attributes:
        lost: whether a connection has ended since this was made.
    """

    def __init__(self) -> None:
        self.lost = False

    def connection_closed(self, event: Any) -> None:
        """A connection has ended."""
        self.lost = True

    def pool_cleared(self, event: Any) -> None:
        """The server is away, or no longer the primary."""
        self.lost = True

    def _ignore(self, event: Any) -> None:
        """Nothing that concerns us."""

    pool_created = pool_ready = pool_closed = _ignore
    connection_created = connection_ready = _ignore
    connection_check_out_started = connection_check_out_failed = _ignore
    connection_checked_out = connection_checked_in = _ignore
