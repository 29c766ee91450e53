"""What every part of a group is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.limits import Limits
from actors.tracing import TracingConfig
from cluster.config_audit import SEALED_BESIDE, AuditConfig
from cluster.kafka.address import KafkaConfig
from cluster.logs import configure_logging, secrets_of
from replication.engine import Engine
from replication.engines import load_engine
from replication.schema import NodeConfig, Table


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Everything that a part must know of its group; it pickles.

    `one_machine` says that no part runs on another one, so that they call each other at loopback.
    """

    group: str
    nodes: tuple[NodeConfig, ...]
    tables: tuple[Table, ...]
    shards: int
    audit_path: Path
    limits: Limits
    log_level: str = "info"
    audit: AuditConfig = SEALED_BESIDE
    kafka: KafkaConfig | None = None
    tracing: TracingConfig | None = None
    one_machine: bool = False

    def engines(self) -> dict[str, Engine]:
        """Every node's engine, by name in sorted order."""
        return {n.name: load_engine(n, self.group) for n in sorted(self.nodes, key=lambda n: n.name)}

    def log(self) -> None:
        """Set up this process's logging."""
        secrets = secrets_of(n.dsn for n in self.nodes) | self.audit.secrets
        for beside in (self.kafka, self.tracing):
            secrets |= beside.secrets if beside else frozenset()
        configure_logging(self.log_level, secrets)
