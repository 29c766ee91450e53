"""The in-memory engine: a real little database inside one process, for tests and benchmarks.

`MemoryDatabase` has what replication is about: tables with a key, transactions that commit atomically,
a log in commit order that can be trimmed, and the group's own tables. `MemoryEngine` serves it through the
same contract as the other engines, and any number of threads may use one database.
"""

from __future__ import annotations

from replication.engines.memory.database import MemoryDatabase, drop_database, open_database
from replication.engines.memory.engine import MemoryEngine

__all__ = ["MemoryDatabase", "MemoryEngine", "drop_database", "open_database"]
