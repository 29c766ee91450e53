"""One tree of errors. An error says whether to try again or to stop.

    SyncError
    ├── Transient              try again, with backoff
    │   ├── NodeUnavailable    the connection or the server is away
    │   ├── Contention         deadlock, serialization failure, write conflict
    │   │   └── Occupied       a row of an initial copy meets one that the node holds
    │   └── Superseded         the resolvers began a new epoch; read again from where they stand
    └── Terminal               stop; somebody must act
        ├── ConfigError        the configuration is wrong; names the path and the fix
        │   └── ShardsDiffer     the markers are of another number of shards than it says
        ├── PreflightFailed    a node cannot take part as it is set up
        ├── LogLost            the log no longer reaches back to our position
        ├── SchemaChanged      a mapped table is no longer what it was
        ├── Fenced             a newer incarnation is at work; this one must end
        └── RowRefused         the node refuses this row; others may pass
            └── RowsUnreadable   rows that were read are no rows of the table; the others are in it

Every error carries the node, the position where it is known, and a hint; it survives pickling, since
it crosses actors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SyncError(Exception):
    """Root of the tree.

    Args:
        message: what happened, one sentence.
        node: the node it happened at.
        position: the order in that node's log, if known.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, node: str = "", position: int | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.position = position
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{hint}"


def _rebuild(kind: type[SyncError], message: str, state: dict[str, Any]) -> SyncError:
    error = kind.__new__(kind, message)
    error.__dict__.update(state)
    error.args = (message,)
    return error


class Transient(SyncError):
    """Try again, with backoff."""


class NodeUnavailable(Transient):
    """The connection or the server is away."""


class Contention(Transient):
    """Another transaction was in the way: deadlock, serialization failure, write conflict."""


class Occupied(Contention):
    """A row of an initial copy was to be inserted where the node holds one: look, and leave it out."""


class Superseded(Transient):
    """The resolvers began a new epoch meanwhile; the log must be read again from where they stand."""


class Terminal(SyncError):
    """Trying again will not help; somebody must act."""


class ConfigError(Terminal):
    """The configuration is wrong; the message names the path in the file, the hint the fix."""


class ShardsDiffer(ConfigError):
    """The markers were written under another number of shards than the configuration names."""


class PreflightFailed(Terminal):
    """A node cannot take part as it is set up."""


class LogLost(Terminal):
    """The log no longer reaches back to our position: a re-snapshot is needed."""


class SchemaChanged(Terminal):
    """A mapped table is no longer what it was.

    `table` is set where the change itself was found: in the node's log, or between two starts. `fits` says
    that the mapped columns can still be read.
    """

    table: str = ""
    fits: bool = False

    def on(self, table: str, *, fits: bool = False) -> SchemaChanged:
        """The same error, saying which table was changed."""
        self.table, self.fits = table, fits
        return self


class Fenced(Terminal):
    """A newer incarnation is at work; this one must end."""


class RowRefused(Terminal):
    """The node refuses this row, whatever else is in the transaction."""


class RowsUnreadable(RowRefused):
    """Some of the rows that were read cannot be read as rows of the table; `rows` has the others.

    Attributes:
        rows: the rows that can be read, an Arrow record batch.
        unreadable: canonical key and reason of each of the rest; an empty key if that is what cannot be read.
        found: how many rows there were, so that the end of a table is known.
    """

    rows: Any
    unreadable: Sequence[tuple[bytes, str]]
    found: int

    @classmethod
    def of(
        cls, message: str, node: str, rows: Any, unreadable: Sequence[tuple[bytes, str]], found: int
    ) -> RowsUnreadable:
        """The error for a read that had `found` rows."""
        error = cls(message, node=node, hint="correct or remove it")
        error.rows, error.unreadable, error.found = rows, tuple(unreadable), found
        return error
