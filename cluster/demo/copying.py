"""How far the initial copy has come.

Counting a table may take a server seconds; looking a key up does not. The copy goes in the order of the
keys, so the number of copied rows is found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import pyarrow as pa

from cluster.demo.data import KEYS
from cluster.demo.ends import End


class CopyProgress:
    """Looks into one of the databases that are copied to.

    Args:
        end: a connection, closed with this.
        tables: what is copied, in the order of the keys.
    """

    def __init__(self, end: End, tables: Mapping[str, pa.Table]) -> None:
        self._end = end
        self._keys = {name: table.column(KEYS[name][0]) for name, table in tables.items()}
        self.total = sum(map(len, self._keys.values()))
        self._least = dict.fromkeys(self._keys, 0)
        self._finished = False

    def copied(self) -> int:
        """About how many rows are there."""
        return self.total if self._finished else sum(self._copied(name) for name in self._keys)

    def finished(self) -> bool:
        """Are all rows there? Counted only when the last ones are."""
        if not self._finished and all(self._has(name, len(keys) - 1) for name, keys in self._keys.items()):
            self._finished = all(self._end.count(name) == len(keys) for name, keys in self._keys.items())
        return self._finished

    def close(self) -> None:
        """Disconnect."""
        self._end.close()

    def _copied(self, name: str) -> int:
        count, least = len(self._keys[name]), self._least[name]
        if least < count and self._has(name, least):
            places = range(count)
            self._least[name] = bisect_left(places, True, least, key=lambda place: not self._has(name, place))
        return self._least[name]

    def _has(self, name: str, place: int) -> bool:
        return self._end.has(name, self._keys[name][place].as_py())
