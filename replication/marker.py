"""The marker: the row that every apply transaction writes first.

One row per group and shard, in a table of ours on the node itself. It commits with the data or not at
all, and so serves loop prevention, effectively-once, fencing and causality at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replication.position import Position

Vector = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Marker:
    """What a shard knew when it formed a batch.

    Attributes:
        group: the group's name.
        shard: the shard that owns this marker, from 0.
        shards: how many shards there were when it was written.
        epoch: the incarnation of the shard; a batch of an older one is refused by the node.
        seq: number of this batch, increasing over all nodes of the shard.
        after: the `seq` that this node must have committed last.
        cut: for each node, the log order the shard had processed.
        resume: for each node, where to re-read its log from to rebuild every unfinished key.
        absorbed: for each node, what its log had absorbed of the others at its resume position.
        echoed: for each node, the last `seq` that its log had shown at its resume position.
        weighed: for each node, the log order up to which writes of the batch's own keys were weighed, where
            it left others behind (`cut` is that of the batch before); empty where that is `cut`.
        versions: key, origin, order and hybrid time of each row, packed (`batch.pack_versions`).
        findings: of a marker that was read when a group begins: what the node had found when it applied
            the last batch in which it found anything (`applying.Findings`). Not stored with the marker.
    """

    group: str
    shard: int
    shards: int
    epoch: int
    seq: int
    after: int = 0
    cut: Vector = field(default_factory=dict)
    resume: Mapping[str, Position] = field(default_factory=dict)
    absorbed: Mapping[str, Vector] = field(default_factory=dict)
    echoed: Vector = field(default_factory=dict)
    weighed: Vector = field(default_factory=dict)
    versions: bytes = b""
    findings: str = ""

    @property
    def own_cut(self) -> Vector:
        """For each node, the log order up to which writes of the batch's own keys were weighed."""
        return self.weighed or self.cut

    def state(self) -> str:
        """The vectors as JSON text, the form in which every engine stores them.

        Orders have up to 96 bits, beyond what JSON numbers keep elsewhere, so they are hexadecimal text.
        """
        return json.dumps(
            {
                "after": self.after,
                "cut": _hex(self.cut),
                "resume": {n: [f"{p.order:x}", p.token] for n, p in self.resume.items()},
                "absorbed": {n: _hex(v) for n, v in self.absorbed.items()},
                "echoed": dict(self.echoed),
            }
            | ({"weighed": _hex(self.weighed)} if self.weighed else {}),
            separators=(",", ":"),
        )

    @classmethod
    def load(
        cls, group: str, shard: int, shards: int, epoch: int, seq: int, state: str, versions: bytes
    ) -> Marker:
        """Rebuild a marker from what an engine stored."""
        s: dict[str, Any] = json.loads(state)
        return cls(
            group,
            shard,
            shards,
            epoch,
            seq,
            s["after"],
            _unhex(s["cut"]),
            {n: Position(int(order, 16), token) for n, (order, token) in s["resume"].items()},
            {n: _unhex(v) for n, v in s["absorbed"].items()},
            s["echoed"],
            _unhex(s.get("weighed", {})),
            versions,
        )


def _hex(vector: Vector) -> dict[str, str]:
    return {n: f"{order:x}" for n, order in vector.items()}


def _unhex(vector: Mapping[str, str]) -> dict[str, int]:
    return {n: int(order, 16) for n, order in vector.items()}
