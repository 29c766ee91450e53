"""The section `audit` of the configuration: where the audit log is, and the keys that it is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cluster.config_reader import Value

DEFAULT_PATH = "data/audit"
_KEY = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """How the audit log proves itself and is kept secret.

    Attributes:
        key: the master key, 64 hexadecimal digits; empty for a log in clear.
        signing_key: file with the key that signs tree heads; None for one that is kept beside the log.
        head_seconds: how long after a head the next one is signed.
    """

    key: str = field(default="", repr=False)
    signing_key: Path | None = None
    head_seconds: int = 60

    @property
    def secrets(self) -> frozenset[str]:
        """What must never appear."""
        return frozenset({self.key, self.key.lower(), self.key.upper()} - {""})


SEALED_BESIDE = AuditConfig()
"""What a configuration without the section has."""


def read_audit(value: Value | None, folder: Path) -> tuple[Path, AuditConfig]:
    """The log's folder, and the rest; relative paths are relative to `folder`."""
    if value is None:
        return folder / DEFAULT_PATH, SEALED_BESIDE
    fields = value.record(("path", "key", "signing_key", "head_seconds"))
    path = fields["path"].text() if "path" in fields else None
    signing = fields["signing_key"].text() if "signing_key" in fields else None
    seconds = fields["head_seconds"].integer(1, 86_400) if "head_seconds" in fields else None
    key = fields["key"].secret("a key") if "key" in fields else None
    if key is not None and not _KEY.fullmatch(key):
        fields["key"].complain("not 64 hexadecimal digits", "make one: openssl rand -hex 32")
    return folder / (path or DEFAULT_PATH), AuditConfig(
        key=key or "",
        signing_key=folder / signing if signing else None,
        head_seconds=seconds or SEALED_BESIDE.head_seconds,
    )
