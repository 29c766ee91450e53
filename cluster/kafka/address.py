"""Where Kafka is; apart from what connects to it, so that who reads a configuration loads no client."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

COMPRESSIONS = ("zstd", "lz4", "snappy", "gzip", "none")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the brokers are, and how what is sent to them is written.

    Attributes:
        brokers: `host:port`, some of the cluster's.
        tls: whether the way there is encrypted; the broker's certificate and its name are verified.
        ca: file with the certificates that sign the broker's; None for the system's.
        cert, key: our own certificate and its key, where the broker asks for one.
        mechanism: one of `MECHANISMS`; empty without a user.
        username, password: for SASL.
        partitions: of a topic that is created; None for what the cluster has as its default.
        compression: one of `COMPRESSIONS`.
        max_message_bytes: largest message; the brokers and topics must allow it, too.
        yield_seconds: so late it may be where the machine has too little processor for everything.
    """

    brokers: tuple[str, ...]
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    partitions: int | None = None
    compression: str = "zstd"
    max_message_bytes: int = 1_000_000
    yield_seconds: int = 10

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that no log may show."""
        return frozenset({self.password} - {""})
