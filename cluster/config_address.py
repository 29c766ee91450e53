"""Addresses of servers beside the databases, and the certificates for TLS with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cluster.config_reader import Value

FILES = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class Scheme:
    """What addresses of a kind of server look like.

    Attributes:
        server: its name, for messages.
        clear: how an address begins.
        tls: how one with TLS begins.
        example: a whole one.
        options: whether it may end with `?…`.
    """

    server: str
    clear: str
    tls: str
    example: str
    options: bool = True


def read_server(value: Value, scheme: Scheme) -> tuple[str, dict[str, Path]]:
    """The address and the files of a section with `url`, `ca`, `cert` and `key`; paths are relative to the
    configuration's folder.
    """
    fields = value.record(("url", *FILES), ("url",))
    url = _read_url(fields["url"], scheme) if "url" in fields else None
    paths = read_files(value, fields)
    for name in paths if url and not url.startswith(scheme.tls) else ():
        fields[name].complain("a certificate without TLS", f"begin the url with {scheme.tls}")
    return url or "", paths


def read_files(value: Value, fields: Mapping[str, Value]) -> dict[str, Path]:
    """The files among the `fields` of a section; paths are relative to the configuration's folder."""
    paths = {}
    for name in FILES:
        text = fields[name].text() if name in fields else None
        if text is None:
            continue
        paths[name] = value.report.folder / text
        if not paths[name].is_file():
            fields[name].complain(f"no file {text}", "name a PEM file")
    if ("key" in fields) != ("cert" in fields):
        given, lacking = ("key", "cert") if "key" in fields else ("cert", "key")
        value.complain(f"{given} without {lacking}", f"give {lacking}, too, or neither")
    return paths


def _read_url(value: Value, scheme: Scheme) -> str | None:
    url = value.secret("an address")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not url.startswith((scheme.clear, scheme.tls)):
        value.complain(
            f"not an address of {scheme.server}", f"it begins with {scheme.clear} or, for TLS, {scheme.tls}"
        )
    elif not host:
        value.complain("the address names no host, or no port that is one", f"write {scheme.example}")
    elif not scheme.options and ("?" in url or "#" in url):
        value.complain("the address has options", f"leave off what follows ?, write {scheme.example}")
    return url
