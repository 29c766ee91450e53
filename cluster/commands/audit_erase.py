"""The action of `sync-worker audit` that makes a person's records unreadable: `erase`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from cluster.commands.common import OK, add_address, add_json, load_config, print_json
from replication.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from replication.audit.keys import Keyring
    from replication.audit.subjects import Subject


def add_erase_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit erase`."""
    parser.add_argument("--table", required=True, metavar="T", help="a table that audit.subjects names")
    parser.add_argument(
        "--subject", required=True, metavar="VALUE", help="whose records: a value of the column named there"
    )
    parser.add_argument("--yes", action="store_true", help="do it, without asking")
    add_address(parser)
    add_json(parser)


def run_erase(args: argparse.Namespace) -> int:
    """Show what would be erased, ask, and destroy the key."""
    from cluster.audit_log import open_keys
    from replication.audit.subjects import refuse_open

    config = load_config(args)
    if (subject := config.audit.subjects.get(args.table)) is None:
        message = f"the records of {args.table} have no keys per subject"
        raise ConfigError(message, hint=f"name its column: audit: {{subjects: {{{args.table}: COLUMN}}}}")
    keys = open_keys(config.audit_path, config.audit)
    assert keys is not None  # subjects need a key
    owners = _candidates(args.table, subject, args.subject)
    found = [(who, name) for who in owners if (name := keys.subjects.find(who))]
    if not found:
        message = f"no record of {args.table} is under a key of that subject"
        hint = "compare the value with 'sync-worker audit query'; it may be erased already"
        raise ConfigError(message, hint=hint)
    [(who, name)] = found[:1]
    refuse_open(_unsettled(config, keys, who), args.table)
    records, left = _counts(config, keys, args.table, who, name)
    _show(args, name, records, left)
    done = bool(args.yes or _agreed())
    if done:
        _erase(args, config, name, records)
    if args.json:
        print_json(
            {"table": args.table, "key": name, "records": records, "left": left, "erased": done},
        )
    else:
        print("erased: nobody can read them any more" if done else "nothing was erased")
    return OK


def _candidates(table: str, subject: Subject, text: str) -> list[bytes]:
    from replication.audit.query import canonical
    from replication.audit.subjects import by_key, by_value

    if not subject.is_key:
        return [by_value(table, text)]
    return [by_key(table, key) for key in canonical(text)]


def _counts(
    config: GroupConfig, keys: Keyring, table: str, who: bytes, name: str
) -> tuple[dict[str, int], dict[str, int]]:
    """By stream, how many records are under the key, and how many of the subject are not."""
    from replication.audit import evidence, store
    from replication.audit.query import Query, batches
    from replication.audit.stored import names_in
    from replication.audit.subjects import has_subjects, whose

    subjects, folder = config.audit.subjects, config.audit_path
    records, left = Counter[str](), Counter[str]()
    for stream in store.streams(folder):
        _, _, of_table = stream.partition("/")
        if not has_subjects(subjects, stream) or of_table not in ("", table):
            continue
        for file in store.segments(store.stream_folder(folder, stream)):
            segment = evidence.stored_segment(file)
            for batch in segment.batches if segment else ():
                records[stream] += sum(name in one for one in names_in(batch))
        for _, rows in batches(folder, stream, Query(), keys=keys):
            left[stream] += sum(who in one for one in whose(subjects, stream, rows))
    left.subtract(records)
    return dict(+records), dict(+left)


def _unsettled(config: GroupConfig, keys: Keyring, who: bytes) -> int:
    """How many open conflicts and rows on hold are the subject's."""
    from replication.audit.holds import open_holds
    from replication.audit.subjects import by_key, of_conflict
    from replication.audit.undecided import undecided

    folder, subjects = config.audit_path, config.audit.subjects
    conflicts = undecided(folder, keys).values()
    holds = [by_key(hold["table"], hold["key"]) for hold in open_holds(folder, keys)]
    return sum(who in of_conflict(subjects, c) for c in conflicts) + holds.count(who)


def _show(args: argparse.Namespace, name: str, records: dict[str, int], left: dict[str, int]) -> None:
    out = sys.stderr if args.json else sys.stdout
    print(f"the key {name} of a subject of {args.table} would be destroyed", file=out)
    for stream, count in records.items():
        print(f"{stream}: {count} records could never be read again; proofs of them go on", file=out)
    for stream, count in left.items():
        why = "from before the table had keys per subject; 'audit prune' removes them when they are old"
        print(f"{stream}: {count} records stay readable, {why}", file=out)
    print("copies of subjects.jsonl, backups among them, still open them: destroy those, too", file=out)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("--yes erases without asking", file=sys.stderr)
        return False
    return input("destroy the key? [y/N] ").strip().lower() in ("y", "yes")


def _erase(args: argparse.Namespace, config: GroupConfig, name: str, records: dict[str, int]) -> None:
    from cluster.running import way_of, writer_at_rest
    from replication.audit.store import AuditInUse

    try:
        with writer_at_rest(config) as writer:
            writer.erase(args.table, name, records)
    except AuditInUse:
        with way_of(args, config).open() as group:
            group.erase(args.table, name, records)
