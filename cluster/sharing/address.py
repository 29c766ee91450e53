"""Where Redis is; apart from what connects to it, so that who reads a configuration loads no client."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where Redis is.

    Attributes:
        url: `redis://` or `rediss://`, without options; may hold a password.
        ca: file with the certificates that sign the server's; None for the system's.
        cert, key: our own certificate and its key, where the server asks for one.
    """

    url: str = field(repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
