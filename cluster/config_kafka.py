"""The section `kafka` of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cluster.config_address import FILES, read_files
from cluster.config_reader import Value
from cluster.kafka.address import COMPRESSIONS, MECHANISMS, KafkaConfig

_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_FIELDS = ("brokers", "tls", "sasl", "partitions", "compression", "max_message_bytes", "yield_seconds")


def read_kafka(value: Value) -> KafkaConfig:
    """Where the brokers are; relative paths are relative to the configuration's folder."""
    fields = value.record(_FIELDS, ("brokers",))
    default = KafkaConfig(())
    brokers = _read_brokers(fields["brokers"]) if "brokers" in fields else ()
    tls, paths = _read_tls(fields["tls"]) if "tls" in fields else (False, {})
    mechanism, username, password = _read_sasl(fields["sasl"], tls) if "sasl" in fields else ("", "", "")
    partitions = fields["partitions"].integer(1, 100_000) if "partitions" in fields else None
    compression = fields["compression"].choice(COMPRESSIONS) if "compression" in fields else None
    largest = late = None
    if "max_message_bytes" in fields:
        largest = fields["max_message_bytes"].integer(1_000, 1_000_000_000)
    if "yield_seconds" in fields:
        late = fields["yield_seconds"].integer(0, 86_400)
    return KafkaConfig(
        brokers,
        tls,
        **paths,
        mechanism=mechanism,
        username=username,
        password=password,
        partitions=partitions,
        compression=compression or default.compression,
        max_message_bytes=largest or default.max_message_bytes,
        yield_seconds=default.yield_seconds if late is None else late,
    )


def _read_brokers(value: Value) -> tuple[str, ...]:
    found = []
    for item, text in value.texts(at_least=1):
        match = _BROKER.fullmatch(text)
        if match is None or not 0 < int(match.group(2)) < 65_536:
            item.complain("not the address of a broker", "write host:port, e.g. kafka.example.com:9092")
        else:
            found.append(text)
    return tuple(found)


def _read_tls(value: Value) -> tuple[bool, Mapping[str, Path]]:
    """`true`, or a mapping with the files."""
    if not value.is_mapping:
        return bool(value.boolean()), {}
    return True, read_files(value, value.record(FILES))


def _read_sasl(value: Value, tls: bool) -> tuple[str, str, str]:
    fields = value.record(("mechanism", "username", "password"), ("username", "password"))
    mechanism = fields["mechanism"].choice(MECHANISMS) if "mechanism" in fields else MECHANISMS[0]
    username = fields["username"].text() if "username" in fields else None
    password = fields["password"].secret("a password") if "password" in fields else None
    if mechanism == "PLAIN" and not tls:
        value.complain("PLAIN sends the password in clear", "set kafka.tls: true, or use SCRAM-SHA-512")
    return mechanism or "", username or "", password or ""
