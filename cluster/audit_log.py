"""Opening the audit log as the configuration has it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from cluster.archive import Archive, ArchiveAway, OtherArchive
from cluster.audit_token import TokenMasterKey, TokenSigner
from cluster.config import GroupConfig
from cluster.config_audit import AuditConfig
from cluster.kafka.address import KafkaConfig
from replication.audit.access import EVERY, EVERYTHING, View
from replication.audit.heads import Signer, SoftwareSigner
from replication.audit.keys import Keyring, SoftwareMasterKey, refuse_clear
from replication.audit.published import read_published
from replication.audit.query import columns
from replication.audit.records import CHANGES
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.engine import Finding
from replication.errors import ConfigError


def open_writer(
    path: Path, group: str, audit: AuditConfig, *, shards: int, traced: bool = False
) -> AuditWriter:
    """The writer of a group's log.

    Args:
        path: the log's folder.
        group: the group's name.
        audit: the keys it is given.
        shards: how many shards the group has.
        traced: see `AuditWriter`.

    Raises:
        ConfigError: a key cannot be read.
        AuditInUse: another process writes to the log.
    """
    rolling = Rolling(head_seconds=audit.head_seconds)
    keys = open_keys(path, audit)
    return AuditWriter(
        path,
        group,
        _now,
        shards=shards,
        rolling=rolling,
        signer=open_signer(audit),
        keys=keys,
        subjects=audit.subjects,
        traced=traced,
    )


def findings(path: Path, audit: AuditConfig) -> list[Finding]:
    """What is to be mended about the log's keys before a group starts."""
    found = []
    if not audit.is_encrypted:
        message = "the audit log is written in clear: whoever reads its folder reads every row"
        found.append(Finding("warning", "audit", message, "set audit.key; make a key: openssl rand -hex 32"))
    try:
        open_signer(audit)
        if (keys := open_keys(path, audit)) is not None:
            keys.check()
        else:
            refuse_clear(path)
        if audit.archive:
            Archive(path, audit.archive).look()
    except (ConfigError, OtherArchive) as error:
        found.append(Finding("error", "audit", error.message, error.hint))
    except ArchiveAway as error:
        remedy = f"{error.hint}; until then the log is only where it is written"
        found.append(Finding("warning", "audit", error.message, remedy))
    return found


def published_places(path: Path, kafka: KafkaConfig | None) -> Mapping[str, int] | None:
    """How many changes of each stream are in Kafka; None where none has to be."""
    return None if kafka is None else read_published(path).places


def open_signer(audit: AuditConfig) -> Signer | None:
    """Who signs heads; None if that is the key beside the log.

    Raises:
        ConfigError: there is no such key.
    """
    if audit.token and audit.token.signing_key:
        return TokenSigner(audit.token)
    if audit.signing_key is None:
        return None
    try:
        pem = audit.signing_key.read_bytes()
    except OSError as error:
        message = f"audit.signing_key: {audit.signing_key}: {error.strerror or error}"
        hint = f"make one: openssl genpkey -algorithm ed25519 -out {audit.signing_key}"
        raise ConfigError(message, hint=hint) from error
    return SoftwareSigner(pem)


def open_keys(path: Path, audit: AuditConfig) -> Keyring | None:
    """The keys of a log; None without a master key.

    Args:
        path: the log's folder.
        audit: the keys it is given.

    Raises:
        ConfigError: the token, or the key in it, is not there.
    """
    if audit.token and audit.token.key:
        return Keyring(path, TokenMasterKey(audit.token))
    return Keyring(path, SoftwareMasterKey(audit.key)) if audit.key else None


def open_view(config: GroupConfig, role: str) -> View:
    """What a role sees of the log's records.

    Raises:
        ConfigError: the key that columns are hashed with cannot be read.
    """
    rules = config.audit.access
    if not View(role, rules).limited:
        return EVERYTHING
    keys = open_keys(config.audit_path, config.audit)
    return View(role, rules, keys.hashing_key() if keys else b"")


def unknown_columns(config: GroupConfig, table: str, known: Collection[str]) -> list[str]:
    """The columns that `audit.access` names, and that are neither known nor were ever on record."""
    named = [c for c in config.audit.access[table].columns if c != EVERY] if config.audit.access else []
    missing = [c for c in named if c not in known]
    recorded = columns(config.audit_path, f"{CHANGES}/{table}").names if missing else []
    return [c for c in missing if c not in recorded]


def key_from_file(name: str) -> str:
    """A master key from a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        message = f"{name}: {reason}"
        raise ConfigError(message, hint="put 64 hexadecimal digits there: openssl rand -hex 32") from error


def _now() -> int:
    return time.time_ns() // 1000
