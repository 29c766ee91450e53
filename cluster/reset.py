"""Going on although a node's log was lost: the gap is accepted, and rows are copied anew.

Everything that the markers say of the lost log is brought to its new beginning: the node has absorbed what
its own marker says it holds, and of its own writes nothing before the new beginning is waited for. The other
logs keep their places, so nothing that was written there is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from actors.pipeline import raise_all, reached_in
from cluster.audit_log import open_writer
from cluster.commands.common import engines_of
from cluster.config import GroupConfig
from replication.copying import CopyProgress, state_name
from replication.engine import Control, StateStore
from replication.errors import ConfigError, SchemaChanged
from replication.marker import Marker
from replication.position import Position
from replication.schema import Table

_REQUEST = "copies"


@dataclass(frozen=True, slots=True)
class Gap:
    """What a reset gave up.

    Attributes:
        node: whose log was lost.
        after: the order of the last change of it that is everywhere, hexadecimal.
        until: the order at which its log is read again.
        copied_from: whose rows are copied at the next start.
    """

    node: str
    after: str
    until: str
    copied_from: str


def reset(config: GroupConfig, tables: Sequence[Table], node: str, source: str) -> Gap:
    """Accept the loss of `node`'s log, and ask for a copy of every table from `source`. No group may run."""
    with ExitStack() as stack:
        controls = {n: stack.enter_context(closing(e.control())) for n, e in engines_of(config).items()}
        begin = controls[node].begin_log(tables)
        initial = Marker(config.group, 0, config.shards, 0, 0, resume={node: begin})
        _forget_another_number(controls, node, initial)
        markers = raise_all(controls, config.shards, initial)
        shards = [[per_node[s] for per_node in markers.values()] for s in range(config.shards)]
        above = max(max(r.order, r.resume.order) for r in (reached_in(m, node) for m in shards))
        if begin.order < above:  # what it shows must not count as seen already
            begin = controls[node].begin_log(tables, above)
        old = min(newest(markers, s).resume.get(node, begin).order for s in range(config.shards))
        for name, control in controls.items():
            control.replace_markers([moved(markers, name, s, node, begin) for s in range(config.shards)])
        request_copies(controls[source], tables)
    gap = Gap(node, f"{old:x}", f"{begin.order:x}", source)
    _record(config, gap, is_new_log=begin.order < old)
    return gap


def _forget_another_number(controls: Mapping[str, Control], node: str, initial: Marker) -> None:
    """Begin the markers of `node` anew where a backup has brought back those of another number of shards."""
    stored = {n: c.raise_epoch(0, 0, initial) for n, c in controls.items()}
    others = {m.shards for n, of_node in stored.items() if n != node for m in of_node}
    if others == {initial.shards} and any(m.shards != initial.shards for m in stored[node]):
        epoch = max(m.epoch for m in stored[node])
        new = [replace(initial, shard=s, epoch=epoch) for s in range(initial.shards)]
        controls[node].replace_markers(new)


def newest(markers: Mapping[str, Sequence[Marker]], shard: int) -> Marker:
    """The marker that a successor would resume from."""
    return max((per_node[shard] for per_node in markers.values()), key=lambda m: m.seq)


def moved(
    markers: Mapping[str, Sequence[Marker]], name: str, shard: int, lost: str, begin: Position
) -> Marker:
    """The marker of node `name` once the log of `lost` begins at `begin`."""
    last, own, held = newest(markers, shard), markers[name][shard], markers[lost][shard]
    seen = {n: held.cut.get(n, 0) for n in markers if n != lost}
    return replace(
        own,
        cut={**own.cut, lost: begin.order},
        resume={**last.resume, lost: begin},
        absorbed={**last.absorbed, lost: seen},
        echoed={**last.echoed, lost: held.seq},
        weighed={**own.weighed, lost: begin.order} if own.weighed else {},
    )


def request_copies(store: StateStore, tables: Sequence[Table]) -> None:
    """Have the next start copy these tables from the node of `store`."""
    for table in tables:
        store.put_state(state_name(table.name), CopyProgress().dump())
    store.put_state(_REQUEST, json.dumps([table.name for table in tables]))


def requested_copies(config: GroupConfig) -> dict[str, str]:
    """By table from which node a reset has asked for a copy; one that is finished is not made again."""
    sources: dict[str, str] = {}
    for node, engine in engines_of(config).items():
        with closing(engine.control()) as control:
            try:
                wanted = control.get_state(_REQUEST)
            except SchemaChanged:  # not even our own tables are there
                wanted = None
        sources |= dict.fromkeys(json.loads(wanted) if wanted else [], node)
    return sources


def with_copies(tables: Sequence[Table], sources: Mapping[str, str]) -> tuple[Table, ...]:
    """The tables, with whose rows are copied at the start."""
    return tuple(
        replace(t, mapping=replace(t.mapping, initial=sources[t.name])) if t.name in sources else t
        for t in tables
    )


def other_source(config: GroupConfig, node: str, named: str | None) -> str:
    """Whose rows are copied: the node's own, so that what was written there in the gap is not lost.

    Raises:
        ConfigError: there is no such node.
    """
    names = [n.name for n in config.by_priority()]
    for name in (node, named):
        if name and name not in names:
            message = f"no node called {name!r}"
            raise ConfigError(message, hint=f"the configuration has {', '.join(names)}")
    return named or node


def _record(config: GroupConfig, gap: Gap, *, is_new_log: bool) -> None:
    writer = open_writer(config.audit_path, config.group, config.audit, shards=config.shards)
    try:
        detail = {"node": gap.node, "after": gap.after, "until": gap.until, "copied_from": gap.copied_from}
        writer.add_operator("log_gap", detail)
        if is_new_log:
            writer.begin_new_log(gap.node)
    finally:
        writer.close()
