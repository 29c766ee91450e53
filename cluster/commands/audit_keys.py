"""The action of `sync-worker audit` that changes keys: `rotate-key`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from cluster.commands.common import OK, add_json, load_config, print_json
from replication.errors import ConfigError


def add_rotate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit rotate-key`."""
    parser.add_argument(
        "--new-key-file", metavar="FILE", help="the new master key; without it, new data keys are made"
    )
    parser.add_argument(
        "--new-token-key", metavar="LABEL", help="instead: a key in the token that audit.pkcs11 names"
    )
    add_json(parser)


def run_rotate(args: argparse.Namespace) -> int:
    """Change keys."""
    from cluster.audit_log import key_from_file
    from cluster.audit_token import TokenMasterKey
    from cluster.running import writer_at_rest
    from replication.audit.keys import MasterKey, SoftwareMasterKey

    config = load_config(args)
    master: MasterKey | None = None
    if args.new_token_key:
        if config.audit.token is None:
            message = "the configuration names no token"
            raise ConfigError(message, hint="name it in audit.pkcs11")
        master = TokenMasterKey(replace(config.audit.token, key=args.new_token_key))
    elif args.new_key_file:
        master = SoftwareMasterKey(key_from_file(args.new_key_file))
    with writer_at_rest(config) as writer:
        count = writer.rotate_keys(master)
    if args.json:
        print_json({"data_keys": count, "master_key": None if master is None else master.name})
    elif master is None:
        print(f"{count} new data keys; what is recorded from now on is encrypted with them")
    else:
        print(
            f"{count} data keys are under the new master key {master.name}: name it in the configuration now"
        )
    return OK
