"""What unit tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def log(original: Path, tmp_path: Path) -> Path:
    """A test's own copy of the audit log that its module has written once."""
    return Path(shutil.copytree(original, tmp_path / "log"))
