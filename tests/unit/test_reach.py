"""Where commands look for the running group."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

from cluster.commands.common import noted_address, reach
from cluster.launch import join


def test_a_group_is_looked_for_where_up_has_noted_it_and_not_at_another_ray(tmp_path: Path) -> None:
    args, config = argparse.Namespace(address=None), SimpleNamespace(audit_path=tmp_path / "audit")
    assert reach(args, config) == "auto"  # type: ignore[arg-type]
    with noted_address(config.audit_path, "127.0.0.1:6379"):
        assert reach(args, config) == "127.0.0.1:6379"  # type: ignore[arg-type]
    assert reach(args, config) == ""  # type: ignore[arg-type]
    args.address = "10.0.0.1:6379"
    assert reach(args, config) == "10.0.0.1:6379"  # type: ignore[arg-type]


def test_nobody_is_found_where_nobody_listens() -> None:
    assert join("", "shop") == {}
    assert join("127.0.0.1:1", "shop") == {}
