"""The action of `sync-worker audit` that changes keys: `rotate-key`."""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, add_json, load_config, print_json


def add_rotate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit rotate-key`."""
    parser.add_argument(
        "--new-key-file", metavar="FILE", help="the new master key; without it, new data keys are made"
    )
    add_json(parser)


def run_rotate(args: argparse.Namespace) -> int:
    """Change keys."""
    from cluster.audit_log import key_from_file
    from cluster.running import writer_at_rest
    from replication.audit.keys import SoftwareMasterKey

    config = load_config(args)
    master = SoftwareMasterKey(key_from_file(args.new_key_file)) if args.new_key_file else None
    with writer_at_rest(config) as writer:
        count = writer.rotate_keys(master)
    if args.json:
        print_json({"data_keys": count, "master_key": None if master is None else master.name})
    elif master is None:
        print(f"{count} new data keys; what is recorded from now on is encrypted with them")
    else:
        print(f"{count} data keys are under the new master key {master.name}: name it in audit.key now")
    return OK
