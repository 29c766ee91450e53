"""The section `tracing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.tracing import TracingConfig
from cluster.config import GroupConfig, InvalidConfig, load
from tests.unit.test_config_retries import MINIMAL


def read(folder: Path, more: str, **environ: str) -> GroupConfig:
    path = folder / "sync.yaml"
    path.write_text(MINIMAL + more)
    return load(path, environ)


def test_without_it_nothing_is_traced(tmp_path: Path) -> None:
    assert read(tmp_path, "").tracing is None


def test_an_endpoint_is_all_that_is_needed(tmp_path: Path) -> None:
    config = read(tmp_path, "tracing: {endpoint: http://127.0.0.1:4318}\n")
    assert config.tracing == TracingConfig("http://127.0.0.1:4318", 0.01)


def test_what_says_who_we_are_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "key").write_text("in-a-file\n")
    text = (
        "tracing:\n  endpoint: https://otel.example.com/otlp\n  sample: 1\n  ca: ca.pem\n"
        '  headers: {Authorization: "Bearer ${TOKEN}", x-key: {file: key}}\n'
    )
    config = read(tmp_path, text, TOKEN="secret-word")
    tracing = config.tracing
    assert tracing is not None
    assert (tracing.endpoint, tracing.sample, tracing.ca) == (
        "https://otel.example.com/otlp", 1.0, tmp_path / "ca.pem",
    )  # fmt: skip
    assert tracing.headers == {"authorization": "Bearer secret-word", "x-key": "in-a-file"}
    assert config.secrets >= {"Bearer secret-word", "secret-word", "in-a-file"}
    assert "secret-word" not in repr(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "tracing: 'endpoint' is missing"),
        ("{endpoint: 127.0.0.1:4318}", "tracing.endpoint: not the address of a collector"),
        ("{endpoint: 'http://h:many'}", "tracing.endpoint: not the address of a collector"),
        ("{endpoint: 'http://h:4317'}", "tracing.endpoint: 4317 is the port for gRPC"),
        ("{endpoint: 'http://h:4318/v1/traces'}", "tracing.endpoint: the address of a signal"),
        ("{endpoint: 'http://me:pw@h:4318'}", "tracing.endpoint: a password in the address"),
        ("{endpoint: 'http://h:4318', sample: 1.5}", "tracing.sample: "),
        ("{endpoint: 'http://h:4318', headers: {'a b': c}}", "tracing.headers.a b: not the name of a header"),
        ("{endpoint: 'https://h:4318', ca: none.pem}", "tracing.ca: no file none.pem"),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read(tmp_path, f"tracing: {text}\n")
    problem = caught.value.problems[0]
    assert f"{problem.path}: {problem.message}".startswith(expected)
    assert problem.hint or "is missing" in problem.message


def test_a_certificate_needs_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(InvalidConfig, match="a certificate without TLS"):
        read(tmp_path, "tracing: {endpoint: 'http://h:4318', ca: ca.pem}\n")
