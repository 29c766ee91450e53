"""The action of `sync-worker audit` that removes: `prune`."""

from __future__ import annotations

import argparse
import time

from cluster.commands.common import OK, add_address, add_json, load_config, print_json
from replication.errors import ConfigError


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit prune`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--keep-days", type=int, metavar="N", help="what is older goes")
    which.add_argument(
        "--before", metavar="TIME", help="what was recorded before goes, e.g. 2026-01-01 (UTC)"
    )
    add_address(parser)
    add_json(parser)


def run_prune(args: argparse.Namespace) -> int:
    """Remove old changes and decisions."""
    from cluster.archive import Archive
    from cluster.audit_log import open_keys, published_places
    from cluster.commands.audit_query import time_of
    from cluster.running import note_anyway, way_of, writer_at_rest
    from replication.audit.holds import OVER, over_holds
    from replication.audit.store import AuditInUse

    config = load_config(args)
    if args.keep_days is not None and args.keep_days < 1:
        message = f"--keep-days {args.keep_days}: at least the last day is kept"
        raise ConfigError(message, hint="give 1 or more")
    if args.before is not None:
        before = time_of(args.before)
    else:
        before = time.time_ns() // 1000 - args.keep_days * 86_400_000_000
    over = over_holds(config.audit_path, open_keys(config.audit_path, config.audit))
    if over:
        note_anyway(way_of(args, config), [(OVER, detail) for detail in over])
    try:
        with writer_at_rest(config) as writer:
            if config.audit.archive:  # it has first what is removed here
                Archive(config.audit_path, config.audit.archive).push()
            removed = writer.prune(before, published_places(config.audit_path, config.kafka))
    except AuditInUse:
        with way_of(args, config).open() as group:
            removed = group.prune(before)
    if args.json:
        print_json({"before": before, "removed": removed})
    elif not removed:
        waits = ", or what is waits to be published" if config.kafka else ""
        print(f"nothing was removed: no finished segment is that old{waits}")
    for stream, records in {} if args.json else removed.items():
        print(f"{stream}: {records} records removed, their leaves are kept")
    return OK
