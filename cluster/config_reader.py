"""Reads YAML so that every complaint can name its line and its place, and all of them come at once.

A `Value` is a YAML node and the path that leads to it. Its methods give what was expected there, or note a
`Problem` and give None; nothing is raised until the whole file has been read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import yaml

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in the file.

    Attributes:
        file: the file as the user named it.
        line: its line, from 1.
        path: where in the document, e.g. `tables.orders.initial.from`; empty for the document itself.
        message: what is wrong, without any value that may be secret.
        hint: what to write instead.
    """

    file: str
    line: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


@dataclass(slots=True)
class Report:
    """What one reading of a file needs and gathers.

    Attributes:
        file: the file's name, for messages.
        folder: what relative paths in it are relative to.
        environ: where `${NAME}` is looked up.
        problems: all that was found to be wrong, in reading order.
        lines: line of each path that was visited.
    """

    file: str
    folder: Path
    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)


def suggest(word: str, options: Iterable[str]) -> str:
    """A hint for a word that is not one of `options`."""
    known = list(options)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"use one of: {', '.join(known)}"


class Value:
    """One value of the document, at `path`."""

    def __init__(self, node: yaml.Node, path: str, report: Report) -> None:
        self.node = node
        self.path = path
        self.report = report
        self.line: int = node.start_mark.line + 1
        report.lines.setdefault(path, self.line)

    def complain(self, message: str, hint: str = "") -> None:
        """Note what is wrong with this value."""
        self.report.problems.append(Problem(self.report.file, self.line, self.path, message, hint))

    def expect(self, what: str, hint: str = "") -> None:
        """Note that something else belongs here."""
        if isinstance(self.node, yaml.ScalarNode):
            found = "nothing" if self.is_empty else "a single value"
        else:
            found = "a mapping" if isinstance(self.node, yaml.MappingNode) else "a list"
        self.complain(f"expected {what}, found {found}", hint)

    @property
    def shown(self) -> str:
        """The single value as the file has it: with `${NAME}`, since what that stands for may be secret."""
        return str(self.node.value)

    @property
    def is_scalar(self) -> bool:
        """Whether it is a single value."""
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def is_mapping(self) -> bool:
        """Whether it has keys."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is None and self.node.value == ""

    def child(self, key: str, node: yaml.Node) -> Value:
        """The value under `key`."""
        return Value(node, f"{self.path}.{key}" if self.path else key, self.report)

    def entries(self) -> dict[str, Value]:
        """A mapping with keys of the user's choice; empty if it is not a mapping. A repeated key is wrong."""
        if not isinstance(self.node, yaml.MappingNode):
            self.expect("a mapping")
            return {}
        found: dict[str, Value] = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode):
                Value(key, self.path, self.report).expect("a plain key")
                continue
            child = self.child(key.value, value)
            child.line = key.start_mark.line + 1
            if key.value in found:
                child.complain(f"given twice, first in line {found[key.value].line}", "remove one of them")
                continue
            self.report.lines[child.path] = child.line
            found[key.value] = child
        return found

    def record(self, known: Collection[str], required: Collection[str] = ()) -> dict[str, Value]:
        """A mapping with fixed keys: unknown and missing ones are wrong. Gives the known ones."""
        entries = self.entries()
        for key, value in entries.items():
            if key not in known:
                value.complain("unknown key", suggest(key, known))
        if self.is_mapping:
            for key in required:
                if key not in entries:
                    self.complain(f"'{key}' is missing")
        return {k: v for k, v in entries.items() if k in known}

    def text(self) -> str | None:
        """A single value as text, its `${NAME}` replaced from the environment."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_empty:
            self.expect("text")
            return None
        complete = True

        def lookup(match: re.Match[str]) -> str:
            nonlocal complete
            name = match.group(1)
            if not _VARIABLE_NAME.fullmatch(name) or not match.group().endswith("}"):
                self.complain("'${' does not begin a variable", "write ${NAME}")
            elif name not in self.report.environ:
                self.complain(f"the environment variable {name} is not set", f"set it: export {name}=...")
            else:
                return self.report.environ[name]
            complete = False
            return ""

        text = _VARIABLE.sub(lookup, self.node.value)
        return text if complete else None

    def secret(self, what: str) -> str | None:
        """What must not be shown: a value as `text` has it, or what the file in `{file: PATH}` holds."""
        if self.is_mapping:
            fields = self.record(("file",), ("file",))
            return fields["file"]._contents() if "file" in fields else None
        if self.is_scalar:
            return self.text()
        self.expect(f"{what}, or {{file: PATH}}")
        return None

    def _contents(self) -> str | None:
        name = self.text()
        if name is None:
            return None
        try:
            secret = (self.report.folder / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            self.complain(f"cannot read {name}: {reason}")
            return None
        if not secret:
            self.complain(f"{name} is empty")
        return secret

    def identifier(self, limit: int = 32) -> str | None:
        """Text that fits everywhere: lower-case letters, digits and underscores, a letter first."""
        text = self.text()
        return text if text is not None and check_identifier(self, text, limit, self.shown) else None

    def choice(self, options: Collection[str]) -> str | None:
        """One of `options`."""
        text = self.text()
        if text is not None and text not in options:
            self.complain(f"'{self.shown}' is not known here", suggest(text, options))
            return None
        return text

    def integer(self, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        number = self._number("a whole number", low, high, int)
        return None if number is None else int(number)

    def number(self, low: float, high: float) -> float | None:
        """A number from `low` to `high`."""
        return self._number("a number", low, high, float)

    def _number(self, what: str, low: float, high: float, kind: type[int] | type[float]) -> float | None:
        text = self.text()
        if text is None:
            return None
        try:
            number = kind(text)
        except ValueError:
            self.complain(f"expected {what}, found '{self.shown}'", f"from {low} to {high}")
            return None
        if not low <= number <= high:
            self.complain(f"{self.shown} is out of range", f"from {low} to {high}")
            return None
        return number

    def boolean(self) -> bool | None:
        """True or false."""
        text = self.choice(("true", "false"))
        return None if text is None else text == "true"

    def items(self) -> list[Value]:
        """The values of a list; empty if it is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expect("a list")
            return []
        return [Value(node, f"{self.path}[{i}]", self.report) for i, node in enumerate(self.node.value)]

    def texts(self, at_least: int = 0) -> list[tuple[Value, str]]:
        """A list of different texts, `at_least` so many, each with its value for complaints."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expect("a list", "write [a] or [a, b]")
            return []
        if len(self.node.value) < at_least:
            self.complain("the list is empty", f"name at least {at_least}")
        found: dict[str, Value] = {}
        for index, node in enumerate(self.node.value):
            item = Value(node, f"{self.path}[{index}]", self.report)
            text = item.text()
            if text is None:
                continue
            if text in found:
                item.complain(f"'{text}' is listed twice", "remove one of them")
                continue
            found[text] = item
        return [(item, text) for text, item in found.items()]


def check_identifier(value: Value, text: str, limit: int = 32, shown: str = "") -> bool:
    """Whether `text` is an identifier of at most `limit` characters; complains at `value` if not."""
    if len(text) > limit:
        value.complain(f"'{shown or text}' is longer than {limit} characters")
    elif not IDENTIFIER.fullmatch(text):
        hint = "use lower-case letters, digits and _, beginning with a letter"
        value.complain(f"'{shown or text}' is not a valid name", hint)
    else:
        return True
    return False


def compose(text: str, report: Report) -> Value | None:
    """Parse YAML text into its root value; None after a syntax error, which is reported."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The library's own text quotes the line, which may hold a password; its `problem` does not.
        message = "not valid YAML: " + (error.problem or error.context or "syntax error")
        report.problems.append(Problem(report.file, mark.line + 1 if mark else 1, "", message))
        return None
    except yaml.YAMLError:
        report.problems.append(Problem(report.file, 1, "", "not valid YAML: it holds control characters"))
        return None
    if root is None:
        report.problems.append(Problem(report.file, 1, "", "the file is empty", "see docs/configuration.md"))
        return None
    return Value(root, "", report)
