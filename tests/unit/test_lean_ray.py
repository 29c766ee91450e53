"""What the processes of a Ray that `up` starts find in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.lean_ray import FEW_HEAPS, own_ray

ROOT = Path(__file__).parents[2]
ASK = "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"


def backend() -> str:
    command = [sys.executable, "-c", ASK]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("dashboard", [True, False])
def test_what_is_started_meanwhile_has_few_heaps_and_nothing_else_has(
    monkeypatch: pytest.MonkeyPatch, *, dashboard: bool
) -> None:
    for name in FEW_HEAPS:
        monkeypatch.delenv(name, raising=False)
    with own_ray(dashboard=dashboard):
        assert FEW_HEAPS.items() <= os.environ.items()
        assert backend() == "system"
    assert not FEW_HEAPS.keys() & os.environ.keys()


def test_what_somebody_has_set_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    with own_ray(dashboard=True):
        assert os.environ["MALLOC_ARENA_MAX"] == "7"
    assert os.environ["MALLOC_ARENA_MAX"] == "7"


def test_the_cluster_file_gives_the_same_to_every_machine() -> None:
    text = (ROOT / "ray-cluster.yaml").read_text()
    words = "export " + " ".join(f"{name}={value}" for name, value in FEW_HEAPS.items())
    assert text.count(words) == text.count("bin/ray start")
