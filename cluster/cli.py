"""The command line: `sync-worker COMMAND`.

Each command is a module in `cluster.commands` with `add_arguments(parser)` and `run(args) -> int`; its
docstring is its `--help`. A command with actions, such as `audit tail`, has `ACTIONS` instead: each action's
name, line of help, and `add_arguments`. A module is imported only when its command is named, so `--help`
stays quick. Every command has `args.config` and `args.log_level`; `cluster.commands.common` has what several
share.

Exit codes: 0 success, 1 what was checked does not hold, 2 the command could not do its job.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from inspect import cleandoc
from types import ModuleType
from typing import Any

from cluster.commands.common import OK, UNABLE, add_common
from cluster.logs import configure_logging, current_redactor
from replication.errors import SyncError

COMMANDS = {
    "demo": "start databases here, synchronise them both ways, and verify",
    "check": "read the configuration, connect to every node, and say what is missing",
    "up": "synchronise until stopped",
    "status": "show what a running group is doing",
    "verify": "compare all rows on all nodes, and repair what differs",
    "backfill": "copy a table again while the group runs",
    "replay": "apply again what the audit log has on record",
    "pause": "let nodes be: nothing is applied to them or read from them",
    "resume": "go on with nodes that were paused",
    "db": "make, migrate or remove what the group keeps on the databases",
    "reset": "go on although a node's log was lost, and copy anew",
    "conflicts": "list and show recorded conflicts, and resolve open ones",
    "dlq": "list, retry and discard rows on hold",
    "audit": "show the audit log, and prove it",
    "token": "issue a token for the HTTP interface, for development",
}
log = logging.getLogger(__name__)
_INTERRUPTED = 130
_EPILOG = """\
start here:
  sync-worker check -c sync.yaml    before the first start with databases of your own
  sync-worker up -c sync.yaml       start

exit codes: 0 success, 1 what was checked does not hold, 2 the command could not do its job
'sync-worker COMMAND --help' explains a command."""


def build_parser(named: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser. Only commands in `named` get their arguments, the others are listed by name."""
    parser = argparse.ArgumentParser(
        prog="sync-worker",
        usage="sync-worker COMMAND [OPTIONS]",
        description="Keeps the same rows alive in several databases at once, in both directions.",
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(
        dest="command", prog="sync-worker", metavar="COMMAND [OPTIONS]", required=True
    )
    for name, line in COMMANDS.items():
        if name not in named:
            commands.add_parser(name, help=line, add_help=False)
            continue
        module = import_module(f"cluster.commands.{name}")
        command = commands.add_parser(
            name,
            help=line,
            description=cleandoc(module.__doc__ or line),
            formatter_class=_HelpFormatter,
        )
        _fill(command, module)
        command.set_defaults(run=module.run)
    return parser


def _fill(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Give a command its arguments, or each of its actions theirs."""
    actions = getattr(module, "ACTIONS", None)
    if actions is None:
        add_common(parser)
        module.add_arguments(parser)
        return
    choices = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (line, add_arguments) in actions.items():
        action = choices.add_parser(
            name, help=line, description=parser.description, formatter_class=_HelpFormatter
        )
        add_common(action)
        add_arguments(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser([w for w in words if w in COMMANDS]).parse_args(words)
    configure_logging(args.log_level)
    try:
        return _run(args)
    except SyncError as error:
        log.debug("command_failed", exc_info=error)
        print(current_redactor().text(describe(error)), file=sys.stderr)
        return UNABLE
    except TimeoutError as error:
        log.debug("command_failed", exc_info=error)
        print("error: a part of the group did not answer in time", file=sys.stderr)
        print("hint: try again; the machine it runs on may have too much to do", file=sys.stderr)
        return UNABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def describe(error: SyncError) -> str:
    """What is printed of an error: `error: ...`, and `hint: ...` where there is one."""
    where = f"{error.node}: " if error.node else ""
    text = "\n".join(
        line if line.startswith(" ") else f"error: {where}{line}" for line in error.message.splitlines()
    )
    return f"{text}\nhint: {error.hint}" if error.hint else text


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def _run(args: Any) -> int:
    code: int = args.run(args)
    sys.stdout.flush()
    return code


def version() -> str:
    """Name and version of the program."""
    try:
        return f"sync-worker {metadata.version('sync-worker')}"
    except metadata.PackageNotFoundError:
        return "sync-worker (not installed)"


if __name__ == "__main__":
    sys.exit(main())
