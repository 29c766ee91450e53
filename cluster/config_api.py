"""The section `api` of the configuration: where the HTTP interface listens, and whom it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cluster.config_reader import Value

_ORIGIN = re.compile(r"https?://[^/\s*]+")
LEEWAY_SECONDS = 30
ROLES_CLAIM = "roles"
_NO_AUTH = "write host: 127.0.0.1, or say under api.auth whose tokens are taken; docs/api.md shows how"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Whose tokens are taken: JWT, signed with RS256.

    Attributes:
        jwks: the public keys, a file or an https address.
        issuer: what `iss` must be.
        audience: what `aud` must hold.
        leeway_seconds: how far clocks may be apart.
        roles_claim: the claim that names roles, a text or a list of texts.
    """

    jwks: str
    issuer: str
    audience: str
    leeway_seconds: int = LEEWAY_SECONDS
    roles_claim: str = ROLES_CLAIM

    @property
    def is_remote(self) -> bool:
        """Whether the keys are at an address."""
        return "://" in self.jwks


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The HTTP interface.

    Attributes:
        host: address that it listens on.
        port: its port.
        auth: whose tokens are taken; None if everybody on this machine may do everything.
        tls: what HTTPS is served with; None for HTTP.
        cors: origins whose pages may call it.
        development: whether there is documentation to try it out.
        max_body_bytes: the largest body of a request.
        subject_rate: requests a minute that one subject may make.
        address_rate: requests a minute that may come from one address.
        replicas: processes that answer.
    """

    host: str = "127.0.0.1"
    port: int = 3001
    auth: AuthConfig | None = None
    tls: TlsConfig | None = None
    cors: tuple[str, ...] = ()
    development: bool = False
    max_body_bytes: int = 65_536
    subject_rate: int = 600
    address_rate: int = 1_200
    replicas: int = 1

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_KEYS = ("host", "port", "auth", "tls", "cors", "development", "max_body_bytes", "rate", "replicas")


def read_api(value: Value, folder: Path) -> ApiConfig:
    """The interface; relative paths are relative to `folder`."""
    default = ApiConfig()
    if value.is_empty:  # `api:` alone: with all defaults
        return default
    fields = value.record(_KEYS)
    host = (fields["host"].text() if "host" in fields else None) or default.host
    port = fields["port"].integer(1, 65535) if "port" in fields else None
    body = fields["max_body_bytes"].integer(1, 1 << 24) if "max_body_bytes" in fields else None
    replicas = fields["replicas"].integer(1, 64) if "replicas" in fields else None
    rates = fields["rate"].record(("subject", "address")) if "rate" in fields else {}
    if "auth" not in fields and not is_loopback(host):
        fields["host"].complain(
            f"'{fields['host'].shown}' is reached from elsewhere, and no api.auth", _NO_AUTH
        )
    return ApiConfig(
        host=host,
        port=port or default.port,
        auth=_read_auth(fields["auth"], folder) if "auth" in fields else None,
        tls=_read_tls(fields["tls"], folder) if "tls" in fields else None,
        cors=_read_origins(fields["cors"]) if "cors" in fields else (),
        development=bool(fields["development"].boolean()) if "development" in fields else False,
        max_body_bytes=body or default.max_body_bytes,
        subject_rate=_rate(rates, "subject") or default.subject_rate,
        address_rate=_rate(rates, "address") or default.address_rate,
        replicas=replicas or default.replicas,
    )


def _rate(rates: Mapping[str, Value], name: str) -> int | None:
    return rates[name].integer(1, 1_000_000) if name in rates else None


def _read_auth(value: Value, folder: Path) -> AuthConfig | None:
    needed = ("jwks", "issuer", "audience")
    fields = value.record((*needed, "leeway_seconds", "roles_claim"), needed)
    texts = {name: fields[name].text() if name in fields else None for name in (*needed, "roles_claim")}
    leeway = fields["leeway_seconds"].integer(0, 300) if "leeway_seconds" in fields else None
    jwks = texts["jwks"] or ""
    if "://" in jwks:
        parts = urlsplit(jwks)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if not safe:
            fields["jwks"].complain("keys that come in clear can be replaced on the way", "use https://")
    elif jwks:
        jwks = str(folder / jwks)
    return AuthConfig(
        jwks=jwks,
        issuer=texts["issuer"] or "",
        audience=texts["audience"] or "",
        leeway_seconds=LEEWAY_SECONDS if leeway is None else leeway,
        roles_claim=texts["roles_claim"] or ROLES_CLAIM,
    )


def _read_tls(value: Value, folder: Path) -> TlsConfig:
    fields = value.record(("certificate", "key"), ("certificate", "key"))
    paths = {}
    for name in ("certificate", "key"):
        text = fields[name].text() if name in fields else None
        paths[name] = folder / (text or "")
    return TlsConfig(**paths)


def _read_origins(value: Value) -> tuple[str, ...]:
    found = value.texts()
    for item, origin in found:
        if not _ORIGIN.fullmatch(origin):
            item.complain(f"'{item.shown}' is no origin", "write scheme and host, as https://app.example.com")
    return tuple(origin for _, origin in found)
