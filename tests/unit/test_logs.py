"""The logs: lines for programs and for people, and no secret in them."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.logs import (
    HIDDEN,
    HumanFormatter,
    JsonFormatter,
    Redactor,
    configure_logging,
    redact,
    secrets_of,
)
from replication.errors import NodeUnavailable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(stream: io.StringIO, secrets: frozenset[str] = frozenset()) -> list[str]:
    configure_logging("debug", secrets, stream=stream)
    log = logging.getLogger("replication.test")
    log.info("group_ready", extra={"nodes": 2, "where": "a b", "dsn": "postgresql://u:hunter2@h/db"})
    try:
        message = "no route to hunter2"
        raise NodeUnavailable(message, hint='"hunter2"')
    except NodeUnavailable:
        log.exception("capture %s", "failed", extra={"detail": {"list": ["hunter2", None, 1.5, Path("/x")]}})
    return stream.getvalue().splitlines()


def test_logs_are_json_lines_where_nobody_reads_along() -> None:
    ready, failed = map(json.loads, logged(io.StringIO(), frozenset({"hunter2"})))
    assert (ready["event"], ready["level"], ready["logger"]) == ("group_ready", "info", "replication.test")
    assert (ready["nodes"], ready["dsn"]) == (2, f"postgresql://u:{HIDDEN}@h/db")
    assert ready["time"].endswith("Z")
    assert failed["event"] == "capture failed"
    assert failed["detail"] == {"list": [HIDDEN, None, 1.5, "/x"]}
    assert f"NodeUnavailable: no route to {HIDDEN}" in failed["exception"]


def test_logs_are_readable_lines_on_a_terminal() -> None:
    lines = logged(Terminal(), frozenset({"hunter2"}))
    assert lines[0].endswith(f'info    group_ready nodes=2 where="a b" dsn=postgresql://u:{HIDDEN}@h/db')
    assert "hunter2" not in "\n".join(lines)


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", stream=first)
    configure_logging("warning", {"pw"}, stream=second)
    logging.getLogger("x").info("unheard")
    logging.getLogger("x").warning("heard pw")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == f"heard {HIDDEN}"


PASSWORDS = st.text(min_size=1).filter(lambda s: s.strip() and not set(s) <= set("*"))


@given(PASSWORDS, st.booleans())
def test_secrets_never_logged(password: str, is_terminal: bool) -> None:
    """Case secrets_never_logged, for the logs' own part: any password, anywhere in a record."""
    written = quote(password, safe="")
    secrets = secrets_of([f"postgresql://me:{written}@db/shop"])
    redactor = Redactor(secrets)
    formatter = HumanFormatter(redactor) if is_terminal else JsonFormatter(redactor)
    marks = "\N{PILE OF POO}\N{PILE OF POO}"  # surroundings that no shrunken password has
    for text in (password, written, f"postgresql://me:{written}@db/shop"):
        held = f"{marks}{text}{marks}"
        record = logging.makeLogRecord({"levelname": "INFO", "name": "n", "msg": held, "field": held})
        line = formatter.format(record)
        event, field = (line, line) if is_terminal else (json.loads(line)["event"], json.loads(line)["field"])
        for secret in (password, written):
            assert f"{marks}{secret}" not in event
            assert f"{marks}{secret}" not in field


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql://h/db", "postgresql://h/db"),
        ("postgresql://u@h/db?password=p&x=1", "postgresql://u@h/db?password=***&x=1"),
        ("mongodb://u:p@a:1,b:2/db", "mongodb://u:***@a:1,b:2/db"),
        ("mongodb://u:p/w@h/db", "mongodb://u:***@h/db"),
        ("mongodb+srv://u:p@@h/db", "mongodb+srv://u:***@h/db"),
        ("host=h user=u password='a b' dbname=d", "host=h user=u password=*** dbname=d"),
        ("failed: postgresql://u:p@h/db (again)", "failed: postgresql://u:***@h/db (again)"),
    ],
)
def test_redact(dsn: str, expected: str) -> None:
    assert redact(dsn) == expected


def test_secrets_are_found_as_written_and_decoded() -> None:
    found = secrets_of(["postgresql://u:p%40ss@h/d?sslpassword=q+r", "mongodb://h/d"])
    assert found >= {"p%40ss", "p@ss", "q+r", "q r"}
    assert secrets_of(["mongodb://h/d"]) == frozenset()
