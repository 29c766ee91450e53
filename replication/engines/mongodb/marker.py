"""The marker as a document.

    _id       "<group>/<shard>"
    group, shard, shards, epoch, seq, state, versions     as in `engine`
    events    how many change-stream events follow it in its transaction; null if it was not written
              by a batch but by raising the epoch

It is always replaced as a whole, so that its event carries all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replication.engines.mongodb.config import Document
from replication.marker import Marker


def marker_id(group: str, shard: int) -> str:
    """The marker's `_id`."""
    return f"{group}/{shard}"


def to_document(marker: Marker, events: int | None) -> Document:
    """The document of a marker that `events` events follow; None where no batch wrote it."""
    return {
        "_id": marker_id(marker.group, marker.shard),
        "group": marker.group,
        "shard": marker.shard,
        "shards": marker.shards,
        "epoch": marker.epoch,
        "seq": marker.seq,
        "state": marker.state(),
        "versions": marker.versions,
        "events": events,
    }


def echoed_marker(document: Mapping[str, Any] | None, group: str) -> tuple[Marker, int] | None:
    """What a marker's event says of a batch: the marker, and how many events follow it.

    None if the event is of something else: another group, a raised epoch, a removed marker.
    """
    marker = load_marker(document, group)
    if document is None or marker is None or document["events"] is None:
        return None
    return marker, int(document["events"])


def load_marker(document: Mapping[str, Any] | None, group: str) -> Marker | None:
    """The marker in a document, or None if there is none or it is another group's."""
    if document is None or document["group"] != group:
        return None
    return Marker.load(
        group,
        int(document["shard"]),
        int(document["shards"]),
        int(document["epoch"]),
        int(document["seq"]),
        document["state"],
        bytes(document["versions"]),
    )
