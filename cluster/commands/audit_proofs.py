"""The actions of `sync-worker audit` that prove: `verify`, `head` and `proof`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import (
    FAILED,
    OK,
    add_audit_folder,
    add_json,
    audit_folder,
    print_json,
    time_text,
)
from replication.errors import ConfigError

if TYPE_CHECKING:
    from replication.audit.verify import Verified


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit verify`."""
    parser.add_argument(
        "--public-key", action="append", default=[], metavar="KEY",
        help="heads must be signed by this key: hexadecimal digits or a PEM file; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--head", metavar="FILE", help="the log must hold all of this head, which 'audit head' printed"
    )
    parser.add_argument("--proof", metavar="FILE", help="check this proof alone; no log is needed")
    parser.add_argument("--stream", metavar="S", help="only this stream, e.g. changes/orders")
    parser.add_argument(
        "--from", dest="low", type=int, metavar="N", help="with --stream: from this record on"
    )
    parser.add_argument("--to", dest="high", type=int, metavar="N", help="with --stream: up to this record")
    add_audit_folder(parser, opens=False)
    add_json(parser)


def add_head_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit head`."""
    add_audit_folder(parser, opens=False)
    parser.add_argument("--json", action="store_true", help="as without: a head is JSON")


def add_proof_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit proof`."""
    parser.add_argument("--stream", metavar="S", help="the record's stream, e.g. changes/orders")
    parser.add_argument("--record", type=int, metavar="N", help="its place in the stream, from 0")
    parser.add_argument("--since", metavar="FILE", help="instead: that the log has grown from this head")
    add_audit_folder(parser, opens=False)
    parser.add_argument("--json", action="store_true", help="as without: a proof is JSON")


def run_head(args: argparse.Namespace) -> int:
    """Print the newest head."""
    from replication.audit.proofs import newest_head

    print(newest_head(audit_folder(args)).line.decode())
    return OK


def run_proof(args: argparse.Namespace) -> int:
    """Print a proof."""
    from replication.audit import proofs

    if args.since is None and (args.stream is None or args.record is None):
        message = "what is to be proven?"
        raise ConfigError(message, hint="give --stream and --record, or --since FILE")
    folder = audit_folder(args)
    if args.since is not None:
        print_json(proofs.prove_growth(folder, proofs.head_from(_read(args.since))))
    else:
        print_json(proofs.prove_record(folder, args.stream, args.record))
    return OK


def run_verify(args: argparse.Namespace) -> int:
    """Check a log, a part of it, or a proof."""
    from replication.audit.heads import public_key_from

    trusted = [public_key_from(_read(k).decode() if Path(k).is_file() else k) for k in args.public_key]
    if args.proof is not None:
        return _verify_proof(args, trusted)
    return _verify_log(args, trusted)


def _verify_log(args: argparse.Namespace, trusted: Sequence[bytes]) -> int:
    from replication.audit.proofs import head_from
    from replication.audit.reader import streams
    from replication.audit.verify import Range, verify

    folder = audit_folder(args)
    only = None
    if args.stream is not None:
        if args.stream not in streams(folder):
            message = f"no stream '{args.stream}' in {folder}"
            raise ConfigError(message, hint=f"there are: {', '.join(streams(folder))}")
        high = 1 << 62 if args.high is None else args.high + 1
        only = Range(args.stream, args.low or 0, high)
    elif args.low is not None or args.high is not None:
        message = "--from and --to count the records of a stream"
        raise ConfigError(message, hint="name it with --stream")
    given = None if args.head is None else head_from(_read(args.head))
    found = verify(folder, trusted=trusted, given=given, only=only)
    if args.json:
        print_json(_as_json(found))
    else:
        _print(found, compared=bool(trusted))
    return FAILED if found.faults else OK


def _print(found: Verified, *, compared: bool) -> None:
    from replication.audit.verify import faults_of

    for stream, records in found.records.items():
        open_ = records - found.sealed[stream]
        gone = found.pruned.get(stream, 0)
        print(
            f"{stream}: {records} records"
            + (f", {gone} of them removed by 'audit prune'" if gone else "")
            + (f", {open_} of them after the last head" if open_ else "")
        )
    if found.last is None:
        print("heads: none was signed yet, so nothing is proven")
    else:
        print(f"heads: {found.heads}; number {found.last.number} was signed at {time_text(found.last.time)}")
    for signer in found.signers:
        print(f"signed by {signer}" + ("" if compared else " (--public-key says whether that is your key)"))
    for line in faults_of(found):
        print(f"fault: {line}")
    count = len(found.faults)
    print(f"the log does not hold: {count} fault{'s' if count > 1 else ''}" if count else "the log holds")


def _as_json(found: Verified) -> dict[str, Any]:
    return {
        "holds": not found.faults,
        "records": found.records,
        "sealed": found.sealed,
        "pruned": found.pruned,
        "heads": found.heads,
        "last_head": found.last and {"number": found.last.number, "time": found.last.time},
        "signers": found.signers,
        "faults": [
            {"stream": f.stream, "record": f.record, "file": f.file, "what": f.what} for f in found.faults
        ],
    }


def _verify_proof(args: argparse.Namespace, trusted: Sequence[bytes]) -> int:
    from replication.audit.printing import printable
    from replication.audit.proofs import ProofWrong, check

    try:
        proof = json.loads(_read(args.proof))
        found = check(proof if isinstance(proof, dict) else {}, trusted)
    except (ProofWrong, ValueError) as error:
        what = error.message if isinstance(error, ProofWrong) else "this is not JSON"
        print_json({"holds": False, "what": what}) if args.json else print(f"the proof does not hold: {what}")
        return FAILED
    head = found["head"]
    text = f"head {head.number} of {time_text(head.time)}, signed by {head.signer}"
    if "old" in found:
        shown: dict[str, Any] = {"holds": True, "head": head.number, "old": found["old"].number}
        text = f"the proof holds: {text}, has grown from head {found['old'].number}"
    else:
        [record] = printable(found["stream"], found["record"])
        shown = {"holds": True, "head": head.number, "record": record}
        text = f"the proof holds: {text}, has this record:\n{json.dumps(record)}"
    if args.json:
        print_json(shown | {"time": head.time, "signer": head.signer})
    else:
        print(text)
    return OK


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        message = f"{name}: {error.strerror or error}"
        raise ConfigError(message) from error
