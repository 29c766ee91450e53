"""Places in a change stream.

Every event has a cluster time: 32 bits of seconds and a 32-bit counter, the high half of the order. All
events of a transaction share one, so the low half counts the events of a cluster time as the
stream shows them, from 1. The token is the `_data` of the event's resume token: the server resumes
behind exactly that event, and the count goes on from the order.

A resume token of MongoDB is a key string that begins with the cluster time, as type byte 0x82 and eight bytes
big-endian (mongo/src/mongo/db/storage/key_string). That is all we read of it, to tell how far an
idle stream has come. Servers with tokens of another form get a heartbeat instead, see `source`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bson import json_util
from bson.timestamp import Timestamp

from replication.position import Position, order_of, split_order

_KEY_STRING = re.compile(r"82([0-9A-F]{16})[0-9A-F]*", re.IGNORECASE)
_HALF = (1 << 32) - 1


def cluster_time(stamp: Timestamp) -> int:
    """A cluster time as the high half of an order."""
    return (stamp.time << 32) | stamp.inc


def timestamp(hi: int) -> Timestamp:
    """Undo `cluster_time`."""
    return Timestamp(hi >> 32, hi & _HALF)


def pack_token(token: Mapping[str, Any]) -> str:
    """A resume token as text."""
    data = token["_data"]
    if set(token) == {"_data"} and isinstance(data, str):
        return data
    return json_util.dumps(token, json_options=json_util.CANONICAL_JSON_OPTIONS)


def unpack_token(text: str) -> dict[str, Any]:
    """Undo `pack_token`."""
    if not text.startswith("{"):
        return {"_data": text}
    token: dict[str, Any] = json_util.loads(text)
    return token


def token_time(token: Mapping[str, Any]) -> int | None:
    """The cluster time in a resume token, or None if it has another form."""
    match = _KEY_STRING.fullmatch(str(token["_data"]))
    return int(match[1], 16) if match else None


class Counter:
    """Gives each event of a stream its order, the same whenever it is read again.

    Args:
        start: the position that reading resumes after.
    """

    def __init__(self, start: Position) -> None:
        self._hi, self._lo = split_order(start.order)

    @property
    def order(self) -> int:
        """The order of the last event."""
        return order_of(self._hi, self._lo)

    def next(self, stamp: Timestamp) -> int:
        """The order of the next event, which has this cluster time.

        Orders only rise: should a server put an older cluster time behind a newer one, the event counts as
        one more of the newer.
        """
        hi = cluster_time(stamp)
        if hi > self._hi:
            self._hi, self._lo = hi, 0
        self._lo += 1
        return self.order

    def advance(self, hi: int) -> bool:
        """All events before cluster time `hi` have been read; whether that was news."""
        if hi <= self._hi:
            return False
        self._hi, self._lo = hi, 0
        return True
