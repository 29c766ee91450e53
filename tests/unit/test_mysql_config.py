"""A MySQL address is read, and its secrets stay in it."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path

import pytest

from replication.engines.mysql.config import MysqlConfig, SslMode, parse, quoted
from replication.errors import ConfigError
from replication.schema import NodeConfig

SECRET = "hunter2-swordfish"


def read(dsn: str) -> MysqlConfig:
    return parse(NodeConfig("my", "mysql", dsn))


def test_every_part_is_read() -> None:
    config = read("mysql://sy%40nc:p%2Fw%25@db.example:3307/sh%20op?ssl-mode=required&connect-timeout=3")
    assert config == MysqlConfig(
        "my", "db.example", 3307, "sy@nc", "p/w%", "sh op", SslMode.REQUIRED, connect_timeout=3
    )
    assert pickle.loads(pickle.dumps(config)) == config


def test_defaults() -> None:
    assert read("mysql:///shop") == MysqlConfig(
        "my", "127.0.0.1", 3306, "root", "", "shop", SslMode.PREFERRED
    )
    assert read("mysql://[::1]/shop").host == "::1"
    assert read("mysql://h/shop?socket=%2Ftmp%2Fmy.sock").socket == "/tmp/my.sock"
    assert read("mysql://h/shop?ssl-ca=/ca.pem").ssl_mode is SslMode.VERIFY_CA


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://h/shop", "not a MySQL address"),
        ("mysql://h:port/shop", "not a MySQL address"),
        ("mysql://h/shop#x", "not a MySQL address"),
        ("mysql://h", "names no database"),
        ("mysql://h/", "names no database"),
        ("mysql://h/shop?ssl-mode=maybe", "ssl-mode 'maybe' is unknown"),
        ("mysql://h/shop?charset=latin1", "unknown options: charset"),
        ("mysql://h/shop?connect-timeout=0", "connect-timeout '0'"),
        ("mysql://h/shop?novalue", "not a MySQL address"),
    ],
)
def test_what_is_wrong_is_told(dsn: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(dsn.replace("//h", f"//u:{SECRET}@h"))
    assert caught.value.node == "my"
    assert caught.value.hint
    assert SECRET not in repr(caught.value) + str(caught.value)


def test_the_password_is_in_no_repr() -> None:
    assert SECRET not in repr(read(f"mysql://u:{SECRET}@h/shop"))


def test_modes_of_tls() -> None:
    assert read("mysql://h/shop").ssl_context() is None
    assert read("mysql://h/shop?ssl-mode=DISABLED").ssl_context() is None
    required = read("mysql://h/shop?ssl-mode=REQUIRED").ssl_context()
    assert required is not None
    assert (required.verify_mode, required.check_hostname) == (ssl.CERT_NONE, False)
    for mode, identity in (("VERIFY_CA", False), ("VERIFY-IDENTITY", True)):
        context = read(f"mysql://h/shop?ssl-mode={mode}").ssl_context()
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, identity)


def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS files cannot be read"):
        read(f"mysql://h/shop?ssl-ca={tmp_path}/none.pem").ssl_context()


def test_names_are_quoted() -> None:
    assert quoted("a`b") == "`a``b`"
