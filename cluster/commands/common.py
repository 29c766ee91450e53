"""What several commands share: exit codes, options, and loading the configuration."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cluster.logs import configure_logging, secrets_of

if TYPE_CHECKING:
    from cluster.config import GroupConfig

OK = 0
FAILED = 1
"""What was checked does not hold."""
UNABLE = 2
"""The command could not do its job."""


def load_config(args: argparse.Namespace) -> GroupConfig:
    """The configuration that the command line names; from now on no log line shows its passwords."""
    from cluster.config import load

    config = load(args.config)
    configure_logging(args.log_level, secrets_of(node.dsn for node in config.nodes))
    return config


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for commands that print data."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
