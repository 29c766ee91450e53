"""Records about people, whose keys are kept per subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from replication.audit.keys import Keyring, SoftwareMasterKey
from replication.audit.subjects import Subject
from replication.change import Op
from tests.unit.audit_records import changes

KEY = "cd" * 32
SUBJECTS = {"people": Subject("id", True), "orders": Subject("person")}
DATA = pa.schema([("id", pa.int64()), ("note", pa.utf8()), ("person", pa.utf8())])


def ring(path: Path, key: str = KEY) -> Keyring:
    return Keyring(path, SoftwareMasterKey(key))


def key_of(person: str) -> bytes:
    return person.encode()


def rows(order: int, person: str | None, op: Op = Op.INSERT, *, keyed: bool = False) -> pa.RecordBatch:
    """A change whose values name the person; its key does, too, or is the order's."""
    found = changes([order], op, DATA)
    values: dict[str, Any] = {"note": f"about {person}" if person else None, "person": person}
    values |= {"_key": key_of(person)} if keyed and person else {}
    for name, value in values.items():
        place = found.schema.get_field_index(name)
        found = found.set_column(
            place, found.schema.field(name), pa.array([value], found.schema.field(name).type)
        )
    return found
