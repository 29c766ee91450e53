"""What several commands share: exit codes, options, and loading the configuration."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.logs import LEVELS, configure_logging, secrets_of

if TYPE_CHECKING:
    from cluster.config import GroupConfig
    from replication.audit.access import View
    from replication.audit.keys import Keyring
    from replication.engine import Engine

ROLES = ("viewer", "auditor", "operator", "admin")
OK = 0
FAILED = 1
"""What was checked does not hold."""
UNABLE = 2
"""The command could not do its job."""
ADDRESS_FILE = "address"
"""In the audit log's folder: the Ray cluster that the group runs on, written by `up`."""


def load_config(args: argparse.Namespace) -> GroupConfig:
    """The configuration that the command line names; from now on no log line shows its passwords."""
    from cluster.config import load

    config = load(args.config)
    configure_logging(args.log_level, secrets_of(config.addresses) | config.secrets)
    return config


def engines_of(config: GroupConfig) -> dict[str, Engine]:
    """Every node's engine, by name, highest priority first."""
    from replication.engines import load_engine

    return {node.name: load_engine(node, config.group) for node in config.by_priority()}


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    parser.add_argument(
        "-c", "--config", default="sync.yaml", metavar="FILE", help="configuration (default: sync.yaml)"
    )
    parser.add_argument("--log-level", default="info", choices=LEVELS, help="how much to log (default: info)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for commands that print data."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_address(parser: argparse.ArgumentParser) -> None:
    """`--address`, for commands that talk to a running group."""
    text = "the Ray cluster (default: the one that `up` has noted in the audit log's folder)"
    parser.add_argument("--address", metavar="ADDRESS", help=text)


def add_steered(parser: argparse.ArgumentParser) -> None:
    """The nodes and tables that `pause` and `resume` name."""
    parser.add_argument("node", nargs="*", metavar="NODE", help="a node of the configuration")
    text = "a table of the configuration; may be repeated"
    parser.add_argument("--table", action="append", default=[], metavar="T", help=text)


def worker_count(text: str) -> int:
    """How many processes are to read for a copy."""
    from actors.reading import MOST_WORKERS

    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        message = f"a number from 1 to {MOST_WORKERS} is needed, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def reach(args: argparse.Namespace, config: GroupConfig) -> str:
    """Where the running group is; empty if it does not run, by what is in the audit log's folder.

    Several Rays may run on one machine, and `auto` finds any of them, also one with a group of the same name.
    So it is asked for only where that folder is not at hand.
    """
    if args.address:
        return str(args.address)
    with suppress(OSError):
        return (config.audit_path / ADDRESS_FILE).read_text().strip()
    return "" if config.audit_path.is_dir() else "auto"


@contextmanager
def noted_address(folder: Path, address: str) -> Iterator[None]:
    """While the block runs, the audit log's folder says where the group is."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / ADDRESS_FILE
    note.write_text(address + "\n")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def add_audit_folder(parser: argparse.ArgumentParser, *, opens: bool = True) -> None:
    """`--audit DIR`, for commands that only read the audit log, and `--key-file` if they open records."""
    parser.add_argument(
        "--audit",
        metavar="DIR",
        help="the audit log's folder, or the address of its archive; the configuration is not read then",
    )
    if opens:
        parser.add_argument("--key-file", metavar="FILE", help="with --audit: the key of an encrypted log")


def audit_folder(args: argparse.Namespace) -> Path:
    """The audit log's folder that the command line or the configuration names.

    Raises:
        ConfigError: there is no such folder.
    """
    return _named_folder(args.audit) if args.audit else checked_folder(load_config(args).audit_path)


def _named_folder(text: str) -> Path:
    """The folder that `--audit` names, or one that an archive was fetched to, until this process ends."""
    if "://" not in text:
        return checked_folder(Path(text))
    from cluster.archive import fetch

    folder = tempfile.TemporaryDirectory(prefix="sync-worker-archive-")
    atexit.register(folder.cleanup)
    fetch(text, Path(folder.name), _fetched)
    return Path(folder.name)


def _fetched(done: int, of: int) -> None:
    """Show on a terminal how far it is."""
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\rfetched {done / 1e6:,.1f} of {of / 1e6:,.1f} MB", end=end, file=sys.stderr, flush=True)


def checked_folder(folder: Path) -> Path:
    """An audit log's folder.

    Raises:
        ConfigError: there is none.
    """
    from replication.errors import ConfigError

    if not folder.is_dir():
        message = f"no audit log in {folder}"
        raise ConfigError(message, hint="it is written by 'sync-worker up'; --audit DIR names another folder")
    return folder


def audit_log(args: argparse.Namespace) -> tuple[Path, Keyring | None]:
    """The folder as `audit_folder` has it, and the keys that open its records, where it is encrypted.

    Raises:
        ConfigError: there is no such folder, or the key is none.
    """
    from cluster.audit_log import key_from_file, open_keys
    from cluster.config_audit import AuditConfig

    if not args.audit:
        config = load_config(args)
        return checked_folder(config.audit_path), open_keys(config.audit_path, config.audit)
    folder = _named_folder(args.audit)
    key = key_from_file(args.key_file) if args.key_file else ""
    configure_logging(args.log_level, frozenset({key} - {""}))
    return folder, open_keys(folder, AuditConfig(key=key))


def add_role(parser: argparse.ArgumentParser) -> None:
    """`--as ROLE`, for commands that show records."""
    text = "as this role sees it by audit.access (default: everything, since you hold the key)"
    parser.add_argument("--as", dest="role", choices=ROLES, help=text)


def audit_view(args: argparse.Namespace) -> View:
    """What the command is to show of the records.

    Raises:
        ConfigError: the rules are not at hand, or name a column that is not there.
    """
    from cluster.audit_log import open_view, unknown_columns
    from replication.audit.access import EVERYTHING
    from replication.errors import ConfigError

    if args.role is None:
        return EVERYTHING
    if args.audit:
        message = f"--as {args.role}: the rules are in the configuration, which --audit leaves unread"
        raise ConfigError(message, hint="leave --audit out, and name the configuration with -c FILE")
    config = load_config(args)
    for table in config.audit.access or ():
        if (config.audit_path / "changes" / table).is_dir():
            for column in unknown_columns(config, table, ()):
                message = f"audit.access.{table}.{column}: no such column is on record"
                raise ConfigError(message, hint="'sync-worker check' names the columns that there are")
    return open_view(config, args.role)


class Listing(NamedTuple):
    """Records that have IDs: what they are called, in the plural, and the command that lists them."""

    what: str
    command: str


def add_choice(parser: argparse.ArgumentParser, listing: Listing) -> None:
    """The options that name some of them."""
    shown = f"as '{listing.command}' shows it; the beginning will do"
    parser.add_argument("id", nargs="*", metavar="ID", help=shown)
    parser.add_argument("--all", action="store_true", help=f"all {listing.what}")
    parser.add_argument("--table", metavar="T", help="with --all: only of this table")


def choose(
    found: Sequence[dict[str, Any]], args: argparse.Namespace, listing: Listing
) -> list[dict[str, Any]]:
    """The records that the command line names, by `id` or with `--all`.

    Raises:
        ConfigError: it names none, or one that is not there.
    """
    from replication.errors import ConfigError

    hint = f"'sync-worker {listing.command}' shows the IDs"
    if args.all:
        return [r for r in found if args.table in (None, r["table"])]
    if not args.id:
        message = "name what to take: one or more IDs, or --all"
        raise ConfigError(message, hint=hint)
    chosen = []
    for text in args.id:
        mine = [r for r in found if r["id"].startswith(text)]
        if len(mine) != 1:
            message = f"{len(mine) or 'no'} {listing.what} have an ID that begins with {text!r}"
            raise ConfigError(message, hint=hint)
        chosen += mine
    return chosen


def print_json(value: Any) -> None:
    """Print one line of JSON; what JSON lacks, infinite numbers for one, becomes null."""
    import orjson

    print(orjson.dumps(value).decode())


def print_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns of text, as wide as they need, so that lines can be cut and searched."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_records(
    args: argparse.Namespace,
    found: Sequence[dict[str, Any]],
    plain: Callable[[dict[str, Any]], dict[str, Any]],
    row: Callable[[dict[str, Any]], Sequence[str]],
    head: Sequence[str],
    none: str,
) -> None:
    """Print records as JSON, or as lines.

    Args:
        args: the command's options; `json` decides.
        found: the records.
        plain: one of them as JSON has it.
        row: one of them as texts under `head`.
        head: the names of the columns.
        none: what is said when there are none.
    """
    if args.json:
        print_json([plain(r) for r in found])
    elif not found:
        print(none)
    else:
        print_lines(head, [row(r) for r in found])


def time_text(microseconds: int) -> str:
    """A time in UTC; the number itself where no calendar has it."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return str(microseconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def present_ray_token(address: str | None) -> None:
    """Before Ray is imported: send its token to the cluster at `address`, if this user has one.

    A Ray cluster asks for a token by default, and a client sends one only when RAY_AUTH_MODE says so.
    """
    if address and (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
