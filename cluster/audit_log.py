"""Opening the audit log as the configuration has it."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.config_audit import AuditConfig
from replication.audit.heads import Signer, SoftwareSigner
from replication.audit.stream import Rolling
from replication.audit.writer import AuditWriter
from replication.errors import ConfigError


def open_writer(path: Path, group: str, audit: AuditConfig, *, shards: int) -> AuditWriter:
    """The writer of a group's log.

    Args:
        path: the log's folder.
        group: the group's name.
        audit: the keys it is given.
        shards: how many shards the group has.

    Raises:
        ConfigError: a key cannot be read.
        AuditInUse: another process writes to the log.
    """
    rolling = Rolling(head_seconds=audit.head_seconds)
    return AuditWriter(path, group, _now, shards=shards, rolling=rolling, signer=open_signer(audit))


def open_signer(audit: AuditConfig) -> Signer | None:
    """Who signs heads; None if that is the key beside the log.

    Raises:
        ConfigError: there is no such key.
    """
    if audit.signing_key is None:
        return None
    try:
        pem = audit.signing_key.read_bytes()
    except OSError as error:
        message = f"audit.signing_key: {audit.signing_key}: {error.strerror or error}"
        hint = f"make one: openssl genpkey -algorithm ed25519 -out {audit.signing_key}"
        raise ConfigError(message, hint=hint) from error
    return SoftwareSigner(pem)


def _now() -> int:
    return time.time_ns() // 1000
