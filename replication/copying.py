"""What of a table has been copied, and what is left: ranges of keys, and progress that outlives a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from replication.schema import TableMapping


@dataclass(frozen=True, slots=True)
class Span:
    """A range of canonical keys.

    Attributes:
        after: keys greater than this; None from the first on.
        until: keys up to and including this; None to the last.
    """

    after: bytes | None = None
    until: bytes | None = None

    def goes_on(self, key: bytes) -> bool:
        """Whether it has keys behind `key`."""
        return self.until is None or key < self.until

    def dump(self) -> list[str | None]:
        """For JSON; keys are hexadecimal text."""
        return [None if key is None else key.hex() for key in (self.after, self.until)]

    @classmethod
    def load(cls, stored: Sequence[str | None]) -> Span:
        """Undo `dump`."""
        after, until = (None if key is None else bytes.fromhex(key) for key in stored)
        return cls(after, until)


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far the copy of one table is, durably; stored on the node that is copied from.

    Attributes:
        done_rows: rows in chunks that are durable, over all starts of this copy.
        last_key: up to this canonical key everything is durable; None before the first chunk.
        finished: everything was copied.
        high: order of the last row of any durable chunk.
        apart: ranges behind `last_key` that are durable, too, in order; readers do not end in step.
    """

    done_rows: int = 0
    last_key: bytes | None = None
    finished: bool = False
    high: int = 0
    apart: tuple[Span, ...] = ()

    def with_done(self, span: Span, rows: int, high: int) -> CopyProgress:
        """With one more durable range.

        Args:
            span: the range; it overlaps nothing that is durable.
            rows: rows in it.
            high: order of its last row; 0 if it had none.
        """
        last, finished = self.last_key, self.finished
        apart: list[Span] = []
        for s in sorted([*self.apart, span], key=lambda s: (s.after is not None, s.after or b"")):
            if s.after == last:
                last, finished = last if s.until is None else s.until, s.until is None
            elif apart and apart[-1].until == s.after:
                apart[-1] = Span(apart[-1].after, s.until)
            else:
                apart.append(s)
        return replace(
            self,
            done_rows=self.done_rows + rows,
            last_key=last,
            finished=finished,
            high=max(self.high, high),
            apart=tuple(apart),
        )

    def left(self) -> list[Span]:
        """The ranges that are to be copied yet, in order."""
        if self.finished:
            return []
        spans, at = [], self.last_key
        for done in self.apart:
            spans.append(Span(at, done.after))
            if done.until is None:
                return spans
            at = done.until
        return [*spans, Span(at)]

    def dump(self) -> str:
        """JSON text; keys and orders are hexadecimal text, since JSON numbers end at 53 bits elsewhere."""
        last_key = None if self.last_key is None else self.last_key.hex()
        return json.dumps(
            {
                "done_rows": self.done_rows,
                "last_key": last_key,
                "finished": self.finished,
                "high": f"{self.high:x}",
                "apart": [span.dump() for span in self.apart],
            }
        )

    @classmethod
    def load(cls, text: str | None) -> CopyProgress:
        """Undo `dump`; None is a copy that has not started. Older versions stored no `apart`."""
        if text is None:
            return cls()
        stored = json.loads(text)
        last_key = None if stored["last_key"] is None else bytes.fromhex(stored["last_key"])
        apart = tuple(Span.load(span) for span in stored.get("apart", []))
        return cls(stored["done_rows"], last_key, stored["finished"], int(stored["high"], 16), apart)


def state_name(table: str) -> str:
    """Under which name a table's `CopyProgress` is stored."""
    return f"copy/{table}"


def copies(tables: Sequence[TableMapping], nodes: Sequence[str]) -> list[tuple[str, str]]:
    """Which tables are copied from which nodes, as (table, node), in the order of `tables`.

    `initial: merge` copies from every node; a row that two nodes hold meets itself in the resolver, as READ
    against READ.
    """
    return [
        (table.name, node)
        for table in tables
        for node in nodes
        if table.initial in ("merge", node) and table.initial != "none"
    ]
