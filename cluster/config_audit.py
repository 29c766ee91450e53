"""The section `audit` of the configuration: where the audit log is, and the keys that it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.audit_token import TokenConfig
from cluster.config_access import read_access, read_subjects
from cluster.config_reader import Value
from replication.audit.access import Rules
from replication.audit.subjects import Subjects
from replication.errors import ConfigError
from replication.schema import TableMapping

DEFAULT_PATH = "data/audit"
FIELDS = (
    *("path", "key", "signing_key", "head_seconds", "pkcs11", "access", "subjects"),
    *("archive", "archive_seconds"),
)
_KEY = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """How the audit log proves itself and is kept secret.

    Attributes:
        key: the master key, 64 hexadecimal digits; empty for a log in clear.
        signing_key: file with the key that signs tree heads; None for one that is kept beside the log.
        token: a hardware token with the one key, the other, or both.
        head_seconds: how long after a head the next one is signed.
        subjects: the tables whose records have keys per subject, and the column that says whose they are.
        access: what roles see of which column; None where everybody sees everything.
        archive: address of the log's copy, see `cluster.archive`; empty for none.
        archive_seconds: between two times that it is brought up to date.
    """

    key: str = field(default="", repr=False)
    signing_key: Path | None = None
    head_seconds: int = 60
    token: TokenConfig | None = None
    access: Rules | None = None
    subjects: Subjects = field(default_factory=dict)
    archive: str = ""
    archive_seconds: int = 60

    @property
    def is_encrypted(self) -> bool:
        """Whether there is a master key."""
        return bool(self.key or (self.token and self.token.key))

    @property
    def secrets(self) -> frozenset[str]:
        """What must never appear."""
        pin = self.token.pin if self.token else ""
        return frozenset({self.key, self.key.lower(), self.key.upper(), pin} - {""})


SEALED_BESIDE = AuditConfig()
"""What a configuration without the section has."""


def read_audit(
    value: Value | None, folder: Path, tables: Sequence[TableMapping] = ()
) -> tuple[Path, AuditConfig]:
    """The log's folder, and the rest; relative paths are relative to `folder`."""
    if value is None:
        return folder / DEFAULT_PATH, SEALED_BESIDE
    fields = value.record(FIELDS)
    path = fields["path"].text() if "path" in fields else None
    signing = fields["signing_key"].text() if "signing_key" in fields else None
    seconds = fields["head_seconds"].integer(1, 86_400) if "head_seconds" in fields else None
    every = fields["archive_seconds"].integer(1, 86_400) if "archive_seconds" in fields else None
    key = fields["key"].secret("a key") if "key" in fields else None
    if key is not None and not _KEY.fullmatch(key):
        fields["key"].complain("not 64 hexadecimal digits", "make one: openssl rand -hex 32")
    token = _read_token(fields, folder) if "pkcs11" in fields else None
    encrypted = "key" in fields or bool(token and token.key)
    access = read_access(fields["access"], tables, encrypted=encrypted) if "access" in fields else None
    named = fields.get("subjects")
    return folder / (path or DEFAULT_PATH), AuditConfig(
        key=key or "",
        signing_key=folder / signing if signing else None,
        head_seconds=seconds or SEALED_BESIDE.head_seconds,
        token=token,
        access=access,
        subjects=read_subjects(named, tables, encrypted=encrypted) if named else {},
        archive=_read_archive(fields["archive"]) if "archive" in fields else "",
        archive_seconds=every or SEALED_BESIDE.archive_seconds,
    )


def _read_archive(value: Value) -> str:
    """The address, as far as it can be seen without asking the store."""
    from cluster.archive import Place

    uri = value.text() or ""
    try:
        Place(uri)
    except ConfigError as error:
        value.complain(error.message, error.hint)
    return uri


def _read_token(fields: Mapping[str, Value], folder: Path) -> TokenConfig | None:
    value = fields["pkcs11"]
    found = value.record(("module", "token", "pin", "signing_key", "key"), ("module", "token", "pin"))
    texts = {n: found[n].text() if n in found else None for n in ("module", "token", "signing_key", "key")}
    pin = found["pin"].secret("a PIN") if "pin" in found else None
    for name in ("signing_key", "key"):
        if texts[name] and name in fields:
            found[name].complain(f"audit.{name} is given, too", "name the key in one place")
    if value.is_mapping and not {"signing_key", "key"} & set(found):
        value.complain("no key is named", "give signing_key, key, or both, by their labels in the token")
    return TokenConfig(
        module=str(folder / (texts["module"] or "")),
        token=texts["token"] or "",
        pin=pin or "",
        signing_key=texts["signing_key"] or "",
        key=texts["key"] or "",
    )
