"""The engines, by the name that the configuration uses.

An engine imports each of its parts when that is made: a process of a group knows every node's engine, and
uses one part of one. A driver takes a tenth of a second of CPU to import, and 10 MiB.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from replication.engine import Engine
from replication.errors import ConfigError
from replication.schema import NodeConfig

ENGINES = {
    "postgres": "replication.engines.postgres:PostgresEngine",
    "mysql": "replication.engines.mysql:MysqlEngine",
    "mongodb": "replication.engines.mongodb:MongoEngine",
    "memory": "replication.engines.memory:MemoryEngine",
}


def load_engine(node: NodeConfig, group: str) -> Engine:
    """The engine that serves `node`."""
    if node.engine not in ENGINES:
        message = f"unknown engine {node.engine!r}"
        raise ConfigError(message, node=node.name, hint=f"one of {', '.join(ENGINES)}")
    module, name = ENGINES[node.engine].split(":")
    return cast(Engine, getattr(import_module(module), name)(node, group))
