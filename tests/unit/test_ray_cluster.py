"""The cluster file is one that `ray up` accepts."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "ray-cluster.yaml"


def test_ray_accepts_the_cluster_file() -> None:
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    assert config["available_node_types"]
