"""Another number of shards: bringing the old ones to rest, and the markers that the new ones begin from.

Place in the flow: the shards of the old number run until they have read every log to one and the same place.
From there on (`Drain`) they take no change of an application any more, only the echoes of what they have
sent. Once nothing of theirs is on its way, whatever was written up to that place is everywhere, and the new
shards begin there as those of a new group do (`first_markers`): nothing before it concerns them.

One thing would be lost: a row that an application wrote behind that place, while a batch with the same row
was on its way there and replaced it. To the new shards that write would follow a row that it never saw. So a
`Drain` that meets one is spoiled, and changes nothing.

Every node's markers are replaced in one transaction. Where something ends between two nodes, those that have
the new markers say all that the others need (`begun`): no shard has sent anything since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from replication.conflict.rows import ChangeRows
from replication.conflict.shard import Shard
from replication.errors import LogLost
from replication.marker import Marker
from replication.position import Position


class Drain:
    """A shard that comes to rest, from the place in each log that it has read up to.

    What it sends meanwhile says that its logs must be read again from where they had to be when it began: a
    drain that is given up is a crash like any other.

    Args:
        shard: it is not replaying.

    Attributes:
        spoiled: the table of a row that an application wrote while a batch was on its way to replace it.
    """

    def __init__(self, shard: Shard) -> None:
        assert not shard.replaying
        self._shard = shard
        self._written: dict[str, set[tuple[str, bytes]]] = {n: set() for n in shard.nodes}
        self.spoiled = ""
        shard.progress.freeze()

    def on_changes(self, node: str, tables: Iterable[ChangeRows]) -> None:
        """Changes that applications made at `node` behind the place; those who begin there take them."""
        self._written[node].update((rows.table, key) for rows in tables for key in rows.keys)

    def on_unreadable(self, node: str, table: str, key: bytes) -> None:
        """The same of a change that cannot be read."""
        self._written[node].add((table, key))

    def on_echo(self, node: str, marker: Marker) -> None:
        """A batch seen in `node`'s log, which counts as read no further than before."""
        batch = self._shard.outstanding[node].get(marker.seq)
        for table, key in batch.places() if batch is not None else ():
            if (table, key) in self._written[node]:
                self.spoiled = table
        self._shard.on_echo(node, marker, self._shard.progress.position[node])

    @property
    def at_rest(self) -> bool:
        """Whether nothing of the shard is on its way, and all of it is on record."""
        shard = self._shard
        on_the_way = any(shard.outstanding[n] or shard.unacked[n] or shard.backlog(n) for n in shard.nodes)
        recorded = shard.progress.all_audited and not shard.unrecorded and not shard.conflicts
        return shard.idle and recorded and not on_the_way and not self.spoiled


def first_markers(group: str, places: Mapping[str, Position], shards: int, seq: int) -> list[Marker]:
    """The markers of shards that begin where others came to rest, the same for every node; without an epoch.

    Args:
        group: the group's name.
        places: for each node, up to where its log was read, by all of those.
        shards: how many begin.
        seq: the number that they count on from, greater than that of any batch before.
    """
    cut = {n: p.order for n, p in places.items()}
    absorbed = {n: {m: order for m, order in cut.items() if m != n} for n in cut}
    echoed = dict.fromkeys(cut, seq)
    return [Marker(group, s, shards, 0, seq, seq, cut, dict(places), absorbed, echoed) for s in range(shards)]


def next_number(markers: Mapping[str, Sequence[Marker]]) -> int:
    """A number greater than that of any batch that a node holds."""
    return 1 + max(m.seq for of_node in markers.values() for m in of_node)


def begun(markers: Mapping[str, Sequence[Marker]]) -> list[Marker] | None:
    """What every node's markers must become, where some have those of another number of shards already.

    Args:
        markers: node name to what it holds, by shard.

    Returns:
        None where all nodes have the same number.

    Raises:
        LogLost: shards of both numbers have sent something: a node was set back.
    """
    held = {n: of_node for n, of_node in markers.items() if of_node}
    newest = max(held.values(), key=lambda of_node: max(m.seq for m in of_node), default=())
    behind = [n for n, of_node in held.items() if of_node[0].shards != newest[0].shards]
    if not behind:
        return None
    new = [replace(m, epoch=0) for m in newest]
    begin = [[replace(m, epoch=0) for m in of_node] for n, of_node in held.items() if n not in behind]
    older = all(m.seq < new[0].seq for n in behind for m in held[n])
    if not older or any(of_node != _first_again(new) for of_node in begin):
        before, now = held[behind[0]][0].shards, new[0].shards
        message = f"{behind[0]} was set back: it has markers of {before} shards, and others go on with {now}"
        hint = f"was it restored from a backup? 'sync-worker reset {behind[0]} --from ANOTHER' copies anew"
        raise LogLost(message, node=behind[0], hint=hint)
    return new


def _first_again(markers: Sequence[Marker]) -> list[Marker]:
    """What the markers would be if their shards had sent nothing yet."""
    first = markers[0]
    return first_markers(first.group, first.resume, first.shards, first.seq)
