"""The section `tracing` of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from actors.tracing import TracingConfig
from cluster.config_reader import Value

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_GRPC_PORT = 4317
_EXAMPLE = "write the collector's base address: http://127.0.0.1:4318"


def read_tracing(value: Value) -> TracingConfig | None:
    """Where spans are sent; relative paths are relative to the configuration's folder."""
    fields = value.record(("endpoint", "sample", "headers", "ca"), ("endpoint",))
    endpoint = _read_endpoint(fields["endpoint"]) if "endpoint" in fields else None
    sample = fields["sample"].number(0.0, 1.0) if "sample" in fields else None
    headers = _read_headers(fields["headers"]) if "headers" in fields else {}
    ca = _read_ca(fields["ca"], endpoint) if "ca" in fields else None
    if endpoint is None:
        return None
    default = TracingConfig(endpoint)
    return TracingConfig(endpoint, default.sample if sample is None else sample, headers, ca)


def _read_endpoint(value: Value) -> str | None:
    text = value.text()
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        value.complain("not the address of a collector", _EXAMPLE)
    elif parts.username or parts.password:
        value.complain("a password in the address", "put it into tracing.headers")
    elif parts.path.rstrip("/").endswith("/v1/traces"):
        value.complain("the address of a signal", f"leave off /v1/traces: {_EXAMPLE}")
    elif parts.port == _GRPC_PORT:
        value.complain(
            f"{_GRPC_PORT} is the port for gRPC", "spans are sent over HTTP, which is port 4318 by default"
        )
    else:
        return text
    return None


def _read_headers(value: Value) -> Mapping[str, str]:
    found = {}
    for name, entry in value.entries().items():
        text = entry.secret("the value of a header")
        if _NAME.fullmatch(name) is None:
            entry.complain("not the name of a header", "write authorization: ... for one")
        elif text is not None:
            found[name.lower()] = text
    return found


def _read_ca(value: Value, endpoint: str | None) -> Path | None:
    text = value.text()
    if text is None:
        return None
    path = value.report.folder / text
    if not path.is_file():
        value.complain(f"no file {text}", "name a PEM file")
    if endpoint is not None and not endpoint.startswith("https:"):
        value.complain("a certificate without TLS", "begin the endpoint with https://")
    return path
