"""The actions of `sync-worker audit` that select: `query` and `export`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cluster.commands.common import (
    OK,
    add_audit_folder,
    add_json,
    add_role,
    audit_log,
    audit_view,
    print_json,
)
from replication.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from replication.audit.access import View
    from replication.audit.keys import Keyring
    from replication.audit.query import Query

KINDS = ("change", "decision", "conflict", "hold", "operator")
OPERATIONS = ("insert", "update", "delete", "read")
FORMATS = ("parquet", "jsonl", "csv")
ACTORS = ("application", "resolver", "operator")
_TRACE = re.compile("(?:00-)?([0-9a-f]{32})(?:-[0-9a-f]{16}-[0-9a-f]{2})?")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that say which changes."""
    parser.add_argument("--since", metavar="TIME", help="recorded at or after, e.g. 2026-11-25T12:00 (UTC)")
    parser.add_argument("--until", metavar="TIME", help="recorded before")
    parser.add_argument("--table", metavar="T", help="of this table")
    parser.add_argument("--key", metavar="K", help="of this key: its value, or _key in hexadecimal digits")
    parser.add_argument("--op", choices=OPERATIONS, help="changes and decisions of this operation")
    parser.add_argument("--node", metavar="N", help="at this node")
    parser.add_argument("--trace", metavar="ID", help="changes of this trace: its id, 32 digits")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The options that say which records."""
    add_selection(parser)
    parser.add_argument("--kind", choices=KINDS, help="of this kind")
    parser.add_argument("--actor", choices=ACTORS, help="done by applications, the resolver, or operators")
    parser.add_argument("--outcome", metavar="O", help="decisions with this outcome, e.g. held")


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit query`."""
    add_filters(parser)
    parser.add_argument("-n", dest="count", type=int, default=100, metavar="N", help="at most (default: 100)")
    parser.add_argument("--cursor", metavar="C", help="go on after an earlier answer: what it gave as next")
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit export`."""
    add_filters(parser)
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="default: parquet")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="a file for each stream goes here; with jsonl also -"
    )
    add_role(parser)
    add_audit_folder(parser)
    add_json(parser)


def run_query(args: argparse.Namespace) -> int:
    """Print a page of records."""
    from cluster.commands.audit import describe
    from replication.audit.query import page

    folder, keys = audit_log(args)
    found, after = page(folder, query_of(args, audit_view(args)), args.count, args.cursor, keys)
    if args.json:
        print_json({"records": found, "next": after})
        return OK
    for entry in found:
        print(describe({k: v for k, v in entry.items() if k != "_record"}))
    print(f"next: {after}")
    return OK


def run_export(args: argparse.Namespace) -> int:
    """Write records to files."""
    folder, keys = audit_log(args)
    query = query_of(args, audit_view(args))
    if args.out == "-":
        return _to_output(args, folder, query, keys)
    target = Path(args.out)
    target.mkdir(parents=True, exist_ok=True)
    counts = {}
    for stream in query.streams(folder):
        name = f"{stream.replace('%', '%25').replace('/', '-')}.{args.format}"
        if (target / name).exists():
            message = f"{target / name} exists"
            raise ConfigError(message, hint="export to another folder, or move it away")
        if (count := _export(folder, stream, query, keys, target / name, args.format)) > 0:
            counts[name] = count
    if args.json:
        print_json({"folder": str(target), "files": counts})
    else:
        for name, count in counts.items():
            print(f"{target / name}: {count} records")
        if not counts:
            print("no such records")
    return OK


def _to_output(args: argparse.Namespace, folder: Path, query: Query, keys: Keyring | None) -> int:
    from replication.audit.query import records

    if args.format != "jsonl":
        message = "only JSON lines go to the standard output, since streams differ in their columns"
        raise ConfigError(message, hint="give --format jsonl, or a folder")
    for entry in records(folder, query, keys=keys):
        print_json(entry)
    return OK


def query_of(args: argparse.Namespace, view: View | None = None) -> Query:
    """What the options of `add_filters` ask for, and as whom; without a view, everything is seen."""
    from replication.audit.access import EVERYTHING
    from replication.audit.query import Query
    from replication.change import Op

    return Query(
        table=args.table,
        kind=args.kind,
        since=None if args.since is None else time_of(args.since),
        until=None if args.until is None else time_of(args.until),
        key=args.key,
        op=None if args.op is None else int(Op[args.op.upper()]),
        node=args.node,
        actor=args.actor,
        outcome=args.outcome,
        trace=None if args.trace is None else trace_of(args.trace),
        view=view or EVERYTHING,
    )


def trace_of(text: str) -> str:
    """The id of a trace, which may be given as W3C Trace Context."""
    found = _TRACE.fullmatch(text.lower())
    if found is None:
        message = f"'{text}' is not the id of a trace"
        raise ConfigError(message, hint="give its 32 hexadecimal digits, as the tracing backend shows them")
    return found[1]


def time_of(text: str) -> int:
    """A time as people write it, in microseconds since 1970.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"'{text}' is not a time"
        raise ConfigError(
            message, hint="write 2026-11-25, 2026-11-25T12:00 or 2026-11-25T12:00+01:00"
        ) from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    past = found - datetime(1970, 1, 1, tzinfo=UTC)
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def _export(folder: Path, stream: str, query: Query, keys: Keyring | None, target: Path, form: str) -> int:
    """Write one stream's records; gives how many. No file is made for none."""
    import pyarrow as pa

    from replication.audit.query import batches, columns

    whole, show = columns(folder, stream), query.view.rows
    shown = show(stream, pa.RecordBatch.from_pylist([], schema=whole)).schema
    schema = pa.schema([("_record", pa.int64()), *shown])
    found = batches(folder, stream, query, keys=keys)
    parts = (_as(schema, places, show(stream, rows)) for places, rows in found)
    first = next(parts, None)
    if first is None:
        return 0
    count = 0
    with _new_file(target) as file, _sink(form, file, stream, schema) as write:
        for rows in _chain(first, parts):
            write(rows)
            count += rows.num_rows
    return count


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _as(schema: pa.Schema, places: Any, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with exactly these columns."""
    import pyarrow as pa

    from replication.audit.printing import printable_column

    arrays = []
    for f in schema:
        if f.name == "_record" and places is not None:
            arrays.append(pa.array(places, pa.int64()))
        elif f.name not in rows.schema.names:
            arrays.append(pa.nulls(rows.num_rows, f.type))
        elif (column := rows.column(f.name)).type == f.type or pa.types.is_integer(f.type):
            arrays.append(column.cast(f.type))
        else:
            texts = [None if v is None else str(v) for v in printable_column(column)]
            arrays.append(pa.array(texts, pa.utf8()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """What CSV can hold: binary values and times are text, as JSON has them."""
    import pyarrow as pa

    def kind(found: pa.DataType) -> pa.DataType:
        return pa.utf8() if pa.types.is_binary(found) or pa.types.is_temporal(found) else found

    return pa.schema([(f.name, kind(f.type)) for f in schema])


@contextmanager
def _sink(form: str, file: BinaryIO, stream: str, schema: pa.Schema) -> Iterator[Any]:
    """A function that writes a batch in this format."""
    if form == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, schema, compression="zstd") as parquet:
            yield parquet.write_batch
    elif form == "jsonl":
        import orjson

        from replication.audit.printing import printable

        yield lambda rows: file.writelines(orjson.dumps(e) + b"\n" for e in printable(stream, rows))
    else:
        from pyarrow import csv

        options = csv.WriteOptions(quoting_style="all_valid")
        with csv.CSVWriter(file, _plain_schema(schema), write_options=options) as writer:
            yield lambda rows: writer.write_batch(_as(_plain_schema(schema), None, rows))


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that only its owner may read, and that is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
    temporary.rename(path)
