"""What every unit test leaves as it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that runs in the test's process sets up the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def log(original: Path, tmp_path: Path) -> Path:
    """A test's own copy of the audit log that its module has written once."""
    return Path(shutil.copytree(original, tmp_path / "log"))
