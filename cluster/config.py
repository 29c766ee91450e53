"""The configuration file as frozen values: what the rest of the program works with.

`load` is the only entry. It never stops at the first mistake: `InvalidConfig` carries all of them, each
with its line, its path in the file, and the fix. `docs/configuration.md` describes every key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.tracing import TracingConfig
from cluster.config_api import ApiConfig, read_api
from cluster.config_audit import SEALED_BESIDE, AuditConfig, read_audit
from cluster.config_kafka import read_kafka
from cluster.config_nodes import read_nodes
from cluster.config_reader import Problem, Report, Value, compose
from cluster.config_redis import read_redis
from cluster.config_retries import read_rabbitmq, read_retries
from cluster.config_tables import read_tables
from cluster.config_tracing import read_tracing
from cluster.kafka.address import KafkaConfig
from cluster.retries.address import RabbitConfig
from cluster.sharing.address import RedisConfig
from replication.errors import ConfigError
from replication.retries import DEFAULT_PLAN, RetryPlan
from replication.schema import NodeConfig, TableMapping

LATER_SECTIONS = ("security",)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and times that bound memory and waiting; the unit is in each name.

    Attributes:
        batch_rows: about the most rows in one apply transaction; half as many may come on top.
        max_unacked_rows: most rows on their way to one node; capture waits beyond it.
        max_away_rows: the same for a node that is away or catches up; at least `max_unacked_rows` count.
        heartbeat_seconds: how often a node hears from us at least, and its log's position is confirmed.
        retry_max_seconds: longest pause between two tries.
        copy_lag_seconds: a copy is slowed down while changes take longer than that.
        copy_apply_seconds: likewise while a node takes longer than that for a transaction.
    """

    batch_rows: int = 20_000
    max_unacked_rows: int = 60_000
    max_away_rows: int = 500_000
    heartbeat_seconds: float = 10.0
    retry_max_seconds: float = 30.0
    copy_lag_seconds: float = 5.0
    copy_apply_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """One group of databases, as its configuration file describes it.

    Attributes:
        group: the group's name.
        nodes: in the file's order.
        tables: in the file's order.
        create_tables: whether missing tables are created.
        ordering: `key` or `transaction`.
        shards: how many resolvers; `auto` is resolved by `auto_shards`.
        audit_path: the audit log's folder, absolute.
        audit: how the audit log proves itself.
        api: the HTTP interface; None for a group that has none.
        limits: sizes and times.
        retries: when a row that a node refuses is sent again.
        rabbitmq: where such rows wait; None for a file beside the audit log.
        redis: what replicas of the interface share; None for what this machine has.
        kafka: where changes are published; None for a group that does not.
        tracing: where spans are sent; None for a group that is not traced.
        source: the file's name as given, for messages.
        lines: line of each path in the file, for messages.
    """

    group: str
    nodes: tuple[NodeConfig, ...]
    tables: tuple[TableMapping, ...]
    create_tables: bool
    ordering: str
    shards: int
    audit_path: Path
    api: ApiConfig | None = None
    limits: Limits = Limits()
    audit: AuditConfig = SEALED_BESIDE
    retries: RetryPlan = DEFAULT_PLAN
    rabbitmq: RabbitConfig | None = None
    redis: RedisConfig | None = None
    kafka: KafkaConfig | None = None
    tracing: TracingConfig | None = None
    source: str = field(default="", compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def addresses(self) -> list[str]:
        """Every address that may hold a password."""
        beside = [server.url for server in (self.rabbitmq, self.redis) if server]
        return [node.dsn for node in self.nodes] + beside

    @property
    def secrets(self) -> frozenset[str]:
        """What no log may show, beside the passwords in `addresses`."""
        beside = [one.secrets for one in (self.kafka, self.tracing) if one]
        return self.audit.secrets.union(*beside)

    def node(self, name: str) -> NodeConfig:
        """The node called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def by_priority(self) -> tuple[NodeConfig, ...]:
        """The nodes, highest priority first, ties by name."""
        return tuple(sorted(self.nodes, key=lambda n: (-n.priority, n.name)))

    def problem(self, path: str, message: str, hint: str = "") -> Problem:
        """A problem at `path`, for what shows only once the databases are asked."""
        place = path
        while place and place not in self.lines:
            place = place.rpartition(".")[0]
        return Problem(self.source, self.lines.get(place, 1), path, message, hint)


class InvalidConfig(ConfigError):
    """Everything that is wrong with a configuration, in `problems`."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = []
        for problem in problems:
            lines.append(str(problem))
            if problem.hint:
                lines.append(f"    hint: {problem.hint}")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> GroupConfig:
    """Read a configuration file.

    Args:
        path: the YAML file; relative paths inside it are relative to its folder.
        environ: where `${NAME}` is looked up; the process's environment by default.

    Raises:
        InvalidConfig: all that is wrong.
        ConfigError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path}: not a UTF-8 text file"
        raise ConfigError(message) from error
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        hint = "pass the configuration with -c FILE; docs/configuration.md shows one"
        raise ConfigError(message, hint=hint) from error
    return parse(text, str(path), Path(path).absolute().parent, os.environ if environ is None else environ)


def parse(text: str, source: str, folder: Path, environ: Mapping[str, str]) -> GroupConfig:
    """Read a configuration's text; see `load`.

    Args:
        text: YAML.
        source: the file's name, for messages.
        folder: what relative paths are relative to.
        environ: where `${NAME}` is looked up.
    """
    report = Report(source, folder, environ)
    root = compose(text, report)
    config = None if root is None else _read_group(root)
    if config is None or report.problems:
        raise InvalidConfig(sorted(report.problems, key=lambda p: p.line))
    return config


def auto_shards(ordering: str) -> int:
    """How many shards `auto` means on this machine."""
    cpus = os.cpu_count() or 1
    return 1 if ordering == "transaction" or cpus <= 2 else cpus // 2


_SECTIONS = (
    *("group", "nodes", "tables", "create_tables", "ordering", "shards", "audit", "api", "limits"),
    *("retries", "rabbitmq", "redis", "kafka", "tracing"),
)


def _read_group(root: Value) -> GroupConfig | None:
    if not root.is_mapping:
        root.expect("a mapping with group, nodes and tables", "see docs/configuration.md")
        return None
    sections = root.record((*_SECTIONS, *LATER_SECTIONS), ("group", "nodes", "tables"))
    for name in LATER_SECTIONS:
        if name in sections:
            sections[name].complain("not supported in this release", "remove the section")
    group = sections["group"].identifier() if "group" in sections else None
    nodes = read_nodes(sections["nodes"]) if "nodes" in sections else ()
    tables = read_tables(sections["tables"], nodes) if "tables" in sections else ()
    ordering = (
        sections["ordering"].choice(("key", "transaction")) if "ordering" in sections else None
    ) or "key"
    audit_path, audit = read_audit(sections.get("audit"), root.report.folder, tables)
    create = sections["create_tables"].boolean() if "create_tables" in sections else None
    return GroupConfig(
        group=group or "",
        nodes=nodes,
        tables=tables,
        create_tables=bool(create),
        ordering=ordering or "key",
        shards=_read_shards(sections.get("shards"), ordering or "key"),
        audit_path=audit_path,
        audit=audit,
        api=read_api(sections["api"], root.report.folder) if "api" in sections else None,
        limits=_read_limits(sections["limits"]) if "limits" in sections else Limits(),
        retries=read_retries(sections["retries"]) if "retries" in sections else DEFAULT_PLAN,
        rabbitmq=read_rabbitmq(sections["rabbitmq"]) if "rabbitmq" in sections else None,
        redis=read_redis(sections["redis"]) if "redis" in sections else None,
        kafka=read_kafka(sections["kafka"]) if "kafka" in sections else None,
        tracing=read_tracing(sections["tracing"]) if "tracing" in sections else None,
        source=root.report.file,
        lines=root.report.lines,
    )


def _read_shards(value: Value | None, ordering: str) -> int:
    if value is None or value.node.value == "auto":
        return auto_shards(ordering)
    shards = value.integer(1, 256)
    if ordering == "transaction" and shards is not None and shards > 1:
        value.complain("ordering: transaction needs one shard", "write shards: 1, or leave it out")
    return shards or 1


def _read_limits(value: Value) -> Limits:
    fields = value.record(tuple(Limits.__dataclass_fields__))
    default = Limits()

    def whole(name: str, high: int) -> int:
        found = fields[name].integer(1, high) if name in fields else None
        return getattr(default, name) if found is None else found

    def seconds(name: str, high: float) -> float:
        found = fields[name].number(0.1, high) if name in fields else None
        return getattr(default, name) if found is None else found

    limits = Limits(
        batch_rows=whole("batch_rows", 1_000_000),
        max_unacked_rows=whole("max_unacked_rows", 100_000_000),
        max_away_rows=whole("max_away_rows", 100_000_000),
        heartbeat_seconds=seconds("heartbeat_seconds", 10.0),
        retry_max_seconds=seconds("retry_max_seconds", 3600.0),
        copy_lag_seconds=seconds("copy_lag_seconds", 3600.0),
        copy_apply_seconds=seconds("copy_apply_seconds", 3600.0),
    )
    if limits.batch_rows > limits.max_unacked_rows:
        value.complain(
            f"batch_rows ({limits.batch_rows}) is more than max_unacked_rows ({limits.max_unacked_rows})",
            "one batch must fit",
        )
    return limits
