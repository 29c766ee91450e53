"""The format of our own tables on a node.

A release that changes them raises `FORMAT`; `sync-worker db migrate` brings them there, and no `up` reads
what it does not know. It is kept beside the groups' states, for all groups of the database.
"""

from __future__ import annotations

from replication.errors import PreflightFailed

FORMAT = 1
FORMAT_NAME = "/format"
"""Under which name it is kept; no group's state is called so, since a group has a name."""


def must_be_made(found: int, node: str) -> bool:
    """Whether our own tables have to be made, as they are not for format 0.

    Raises:
        PreflightFailed: they are of a format that this release does not know.
    """
    if found > FORMAT:
        message = f"our own tables are of format {found}, made by a newer release; this one knows {FORMAT}"
        raise PreflightFailed(message, node=node, hint="start the release that made them, or a newer one")
    return found == 0
