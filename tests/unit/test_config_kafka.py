"""The section `kafka`."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from cluster.config import GroupConfig, InvalidConfig, load
from cluster.kafka.address import KafkaConfig
from cluster.kafka.client import away, settings
from tests.unit.test_config_retries import MINIMAL


def read(folder: Path, more: str, **environ: str) -> GroupConfig:
    path = folder / "sync.yaml"
    path.write_text(MINIMAL + more)
    return load(path, environ)


def test_without_it_nothing_is_published(tmp_path: Path) -> None:
    assert read(tmp_path, "").kafka is None


def test_brokers_are_all_that_is_needed(tmp_path: Path) -> None:
    config = read(tmp_path, 'kafka: {brokers: [k1:9092, "[::1]:9093"]}\n').kafka
    assert config == KafkaConfig(("k1:9092", "[::1]:9093"))
    assert settings(config)["security.protocol"] == "PLAINTEXT"


def test_tls_and_a_user_are_passed_on_and_the_broker_is_verified(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    text = (
        "kafka:\n  brokers: [k:9093]\n  tls: {ca: ca.pem}\n"
        '  sasl: {username: sync, password: "${PW}"}\n  partitions: 6\n'
    )
    config = read(tmp_path, text, PW="secret-word").kafka
    assert config is not None
    assert (config.mechanism, config.password, config.partitions) == ("SCRAM-SHA-512", "secret-word", 6)
    assert config.secrets == {"secret-word"}
    assert "secret-word" not in repr(config)
    passed = settings(config)
    assert passed["security.protocol"] == "SASL_SSL"
    assert passed["enable.ssl.certificate.verification"] is True
    assert passed["ssl.endpoint.identification.algorithm"] == "https"
    assert passed["ssl.ca.location"] == str(tmp_path / "ca.pem")


def test_a_password_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("secret-word\n")
    text = "kafka: {brokers: [k:9093], sasl: {username: sync, password: {file: pw}}}\n"
    config = read(tmp_path, text).kafka
    assert config is not None
    assert (config.password, settings(config)["security.protocol"]) == ("secret-word", "SASL_PLAINTEXT")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "kafka: 'brokers' is missing | "),
        ("{brokers: []}", "kafka.brokers: the list is empty | name at least 1"),
        ("{brokers: k:9092}", "kafka.brokers: expected a list, found a single value | write [a] or [a, b]"),
        (
            "{brokers: [k]}",
            "kafka.brokers[0]: not the address of a broker | write host:port, e.g. kafka.example.com:9092",
        ),
        ('{brokers: ["k:99999"]}', "kafka.brokers[0]: not the address of a broker | write host:port"),
        ("{brokers: [k:1], tls: {ca: no.pem}}", "kafka.tls.ca: no file no.pem | name a PEM file"),
        (
            "{brokers: [k:1], tls: {key: sync.yaml}}",
            "kafka.tls: key without cert | give cert, too, or neither",
        ),
        ("{brokers: [k:1], sasl: {username: me}}", "kafka.sasl: 'password' is missing | "),
        (
            "{brokers: [k:1], sasl: {mechanism: PLAIN, username: me, password: secret}}",
            "kafka.sasl: PLAIN sends the password in clear | set kafka.tls: true, or use SCRAM-SHA-512",
        ),
        (
            "{brokers: [k:1], sasl: {mechanism: GSSAPI, username: me, password: secret}}",
            "kafka.sasl.mechanism: 'GSSAPI' is not known here | use one of: SCRAM-SHA-512, SCRAM",
        ),
        ("{brokers: [k:1], partitions: 0}", "kafka.partitions: 0 is out of range | from 1 to 100000"),
        (
            "{brokers: [k:1], compression: rar}",
            "kafka.compression: 'rar' is not known here | use one of: zstd",
        ),
        ("{brokers: [k:1], topics: a}", "kafka.topics: unknown key | "),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read(tmp_path, f"kafka: {text}\n")
    problems = [f"{p.path}: {p.message} | {p.hint}" for p in caught.value.problems]
    assert any(p.startswith(expected) for p in problems), problems
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (KafkaError._AUTHENTICATION, "correct kafka.sasl"),
        (KafkaError._ALL_BROKERS_DOWN, "if they run, set kafka.tls and kafka.sasl"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "allow the user to write"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "raise kafka.max_message_bytes"),
    ],
)
def test_an_error_of_the_brokers_names_its_fix(code: int, fix: str) -> None:
    assert away(KafkaError(code)).hint.startswith(fix)
