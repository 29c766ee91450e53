"""Structured logs: an event's name and its fields, readable on a terminal, JSON lines elsewhere.

Every module logs through the standard library, `log.info("group_ready", extra={"nodes": 2})`, so the domain
needs nothing from here. Each process calls `configure_logging` once. Secrets are replaced in the last step
before a line is written, tracebacks included, so no path leads around it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
LEVELS = ("debug", "info", "warning", "error")
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):(\S*)@")
_WHOLE_USERINFO = re.compile(r"://[^:/@]*:(.*)@", re.DOTALL)
_SETTING = re.compile(r"(password=)('[^']*'|[^\s&;]+)", re.IGNORECASE)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def redact(dsn: str) -> str:
    """The address without its password; user, hosts and database stay. Works inside other text too."""
    return _SETTING.sub(rf"\1{HIDDEN}", _USERINFO.sub(rf"\1:{HIDDEN}@", dsn))


def secrets_of(dsns: Iterable[str]) -> frozenset[str]:
    """The passwords in the addresses, as written and decoded, longest forms included."""
    raw: set[str] = set()
    for dsn in dsns:
        raw.update(match.group(1) for match in _WHOLE_USERINFO.finditer(dsn))
        raw.update(match.group(2).strip("'") for match in _SETTING.finditer(dsn))
    decoded = {unquote(s) for s in raw} | {unquote_plus(s) for s in raw}
    escaped = {repr(s)[1:-1] for s in decoded}
    return frozenset(s for s in raw | decoded | escaped if s)


class Redactor:
    """Hides known secrets, and whatever looks like a password in an address."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        ordered = sorted(secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text with secrets hidden."""
        text = redact(text)
        return self._known.sub(HIDDEN, text) if self._known else text

    def value(self, value: Any) -> Any:
        """A JSON value with the same done to every text in it; what JSON cannot hold becomes text."""
        if isinstance(value, bool | int | float | None):
            return value
        if isinstance(value, dict):
            return {self.text(str(k)): self.value(v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(v) for v in value]
        return self.text(str(value))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra`."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and not k.startswith("_")}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `event`, then the fields."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.redactor.text(record.getMessage()),
        }
        # The names of fields are ours; only what they hold can be secret.
        line |= {name: self.redactor.value(value) for name, value in fields_of(record).items()}
        if record.exc_info:
            line["exception"] = self.redactor.text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class HumanFormatter(logging.Formatter):
    """One readable line: time, level, event, `key=value`; tracebacks follow."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = "".join(f" {k}={_short(v)}" for k, v in fields_of(record).items())
        text = f"{_time(record)[11:23]} {record.levelname.lower():7} {record.getMessage()}{fields}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return self.redactor.text(text)


def configure_logging(
    level: str = "info", secrets: Iterable[str] = (), *, stream: TextIO | None = None
) -> None:
    """Send this process's logs to `stream`; call it again to change level or secrets.

    Args:
        level: one of `LEVELS`.
        secrets: texts that must never appear, from `secrets_of`.
        stream: standard error by default. A terminal gets readable lines, anything else JSON.
    """
    out = sys.stderr if stream is None else stream
    redactor = Redactor(secrets)
    handler = logging.StreamHandler(out)
    handler.setFormatter(HumanFormatter(redactor) if out.isatty() else JsonFormatter(redactor))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter | HumanFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def current_redactor() -> Redactor:
    """The redactor of the logs as configured now; one without known secrets before that."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter | HumanFormatter):
            return handler.formatter.redactor
    return Redactor()


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if text and not re.search(r"[\s\"=]", text) else json.dumps(text, ensure_ascii=False)
