"""How far a `verify` has come, in a file: one that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from replication.difference import DifferenceKind
from replication.errors import ConfigError
from replication.schema import NodeConfig, Table
from replication.verify import Chunks

log = logging.getLogger(__name__)
SAVE_SECONDS = 20.0
"""So much work is lost at most. Rows in doubt are settled before each save, which takes a moment."""
_VERSION = 1


@dataclass(slots=True)
class Reached:
    """How far the comparison of one table has come.

    Attributes:
        after: the last key that was compared; None before the first.
        finished: whether that was all.
        rows: by node how many rows were compared.
        counts: by kind how many differences there were.
        chunks: see `Verifier`.
        kept: key and kind of those that are kept; they are read again when it goes on.
    """

    after: bytes | None = None
    finished: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    chunks: Chunks = field(default_factory=Chunks)
    kept: list[tuple[bytes, DifferenceKind]] = field(default_factory=list)

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        after = None if self.after is None else self.after.hex()
        kept = [(key.hex(), kind) for key, kind in self.kept]
        return {**asdict(self), "after": after, "counts": dict(self.counts), "kept": kept}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Reached:
        """Undo `dump`."""
        return cls(
            None if stored["after"] is None else bytes.fromhex(stored["after"]),
            stored["finished"],
            dict(stored["rows"]),
            Counter({DifferenceKind(kind): count for kind, count in stored["counts"].items()}),
            Chunks(**stored["chunks"]),
            [(bytes.fromhex(key), DifferenceKind(kind)) for key, kind in stored["kept"]],
        )


class ProgressFile:
    """The file. It is replaced as a whole, so that a kill leaves the old or the new one.

    Args:
        path: where it is.
        of: what is compared, see `fingerprint`.
        seconds: how often it is written.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        path: Path,
        of: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._of = of
        self._seconds = seconds
        self._clock = clock
        self._written = clock()
        self._tables: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        """Go on from what is in the file; from the start if there is none.

        Raises:
            ConfigError: it is of something else, or no such file.
        """
        try:
            stored = json.loads(self._path.read_text())
            version, of, tables = stored["version"], stored["of"], dict(stored["tables"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self._path} does not say how far a verify has come"
            raise ConfigError(message, hint="start over without --resume") from error
        if (version, of) != (_VERSION, self._of):
            message = f"{self._path} is of other nodes, tables or columns than are compared now"
            raise ConfigError(message, hint="start over without --resume")
        self._tables = tables

    def of(self, table: str) -> Reached:
        """How far a table is."""
        return Reached.load(self._tables[table]) if table in self._tables else Reached()

    def due(self) -> bool:
        """Whether it is time to write."""
        return self._clock() - self._written >= self._seconds

    def save(self, table: str, reached: Reached) -> None:
        """Note how far a table is."""
        self._tables[table] = reached.dump()
        self._written = self._clock()
        try:
            self._replace({"version": _VERSION, "of": self._of, "tables": self._tables})
        except OSError as error:  # a folder that may only be read
            self._seconds = math.inf
            log.warning("verify_cannot_be_resumed", extra={"file": str(self._path), "error": str(error)})

    def _replace(self, whole: Mapping[str, Any]) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w") as file:
            json.dump(whole, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    def remove(self) -> None:
        """Everything was compared."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def fingerprint(group: str, nodes: Sequence[NodeConfig], tables: Sequence[Table]) -> str:
    """The same text for the same nodes and tables. Nothing of a password is in it."""
    places = [(n.name, n.engine, *_place(n.dsn)) for n in nodes]
    shapes = [
        (
            t.name,
            t.mapping.key,
            sorted(t.mapping.names.items()),
            sorted((c, sorted(names.items())) for c, names in t.mapping.columns.items()),
            sorted((node, repr(where)) for node, where in t.mapping.where.items()),
            [(c.name, c.type.kind, c.type.native, sorted(c.digits.items())) for c in t.schema.columns],
        )
        for t in tables
    ]
    return hashlib.sha256(json.dumps([group, places, shapes]).encode()).hexdigest()


def _place(dsn: str) -> tuple[str, str]:
    parts = urlsplit(dsn)
    return parts.netloc.rpartition("@")[2], parts.path
