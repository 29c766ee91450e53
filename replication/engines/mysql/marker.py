"""Our tables, and the marker as a row.

The marker row with the shard `NO_SHARD` comes first where epochs are raised: a transaction that begins with
it is no echo. Names and order of the columns are what the log's reader decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replication.engines.mysql.config import MARKER, NO_SHARD, STATE, WATERMARK
from replication.engines.mysql.literals import quoted_bytes, quoted_text
from replication.marker import Marker

MARKER_COLUMNS = ("grp", "shard", "shards", "epoch", "seq", "state", "versions")
WATERMARK_COLUMNS = ("grp", "ident", "n")
_OPTIONS = "ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
TABLES = (
    f"""CREATE TABLE IF NOT EXISTS {MARKER} (
        grp varchar(255) NOT NULL, shard int NOT NULL, shards int NOT NULL, epoch bigint NOT NULL,
        seq bigint NOT NULL, state longtext NOT NULL, versions longblob NOT NULL, PRIMARY KEY (grp, shard)
    ) {_OPTIONS}""",
    f"""CREATE TABLE IF NOT EXISTS {WATERMARK} (
        grp varchar(255) NOT NULL PRIMARY KEY, ident varchar(255) NOT NULL, n bigint NOT NULL
    ) {_OPTIONS}""",
    f"""CREATE TABLE IF NOT EXISTS {STATE} (
        name varchar(512) NOT NULL PRIMARY KEY, value longtext NOT NULL
    ) {_OPTIONS}""",
)
LOCK = (
    f"INSERT INTO {MARKER} (grp, shard, shards, epoch, seq, state, versions) "
    f"VALUES (%s, {NO_SHARD}, 0, 0, 0, '{{}}', '') ON DUPLICATE KEY UPDATE seq = 0"
)
"""Makes the first row of a transaction that raises epochs, or locks it."""
PUT_STATE = (
    f"INSERT INTO {STATE} (name, value) VALUES (%s, %s) AS given ON DUPLICATE KEY UPDATE value = given.value"
)
SELECT_MARKERS = (
    f"SELECT grp, shard, shards, epoch, seq, state, versions FROM {MARKER} "
    f"WHERE grp = %s AND shard <> {NO_SHARD} ORDER BY shard"
)


def load_marker(row: Sequence[Any]) -> Marker:
    """The marker in a row of `MARKER_COLUMNS`."""
    group, shard, shards, epoch, seq, state, versions = row
    return Marker.load(group, shard, shards, epoch, seq, state, bytes(versions))


def insert_marker(marker: Marker) -> tuple[str, list[Any]]:
    """Store a marker where there is none: the statement and its parameters."""
    statement = (
        f"INSERT INTO {MARKER} (grp, shard, shards, epoch, seq, state, versions) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE seq = seq"
    )
    m = marker
    return statement, [m.group, m.shard, m.shards, m.epoch, m.seq, m.state(), m.versions]


def set_marker(marker: Marker) -> bytes:
    """Replace a marker, on condition that it is our turn: `epoch` and `after` are what is stored."""
    values = b"shards = %d, seq = %d, state = %s, versions = %s" % (
        marker.shards, marker.seq, quoted_text(marker.state()), quoted_bytes(marker.versions),
    )  # fmt: skip
    turn = b"grp = %s AND shard = %d AND epoch = %d AND seq = %d" % (
        quoted_text(marker.group), marker.shard, marker.epoch, marker.after,
    )  # fmt: skip
    return b"UPDATE %s SET %s WHERE %s" % (MARKER.encode(), values, turn)


def put_state(name: str, value: str) -> bytes:
    """`PUT_STATE` with its parameters in it."""
    return PUT_STATE.encode() % (quoted_text(name), quoted_text(value))


def state_name(group: str, name: str) -> str:
    """Under which name a group's state is stored; groups may share a database."""
    return f"{group}/{name}"
