"""MySQL's column types, and columns of values between MySQL and Arrow."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.applying import beyond
from replication.engines.mysql.limits import checks
from replication.engines.mysql.literals import literals, rows_of_literals
from replication.engines.mysql.types import LocalType, canonical, local_type
from replication.engines.mysql.values import adapt, ewkb, from_ewkb, from_text, unhyphened
from replication.types import CanonicalType, Kind


@pytest.mark.parametrize(
    ("declared", "kind", "default"),
    [
        ("tinyint(1)", Kind.INT16, Kind.BOOLEAN),
        ("tinyint(1) unsigned", Kind.INT16, Kind.INT16),
        ("tinyint(3)", Kind.INT16, Kind.INT16),
        ("smallint unsigned", Kind.INT32, Kind.INT32),
        ("mediumint unsigned", Kind.INT32, Kind.INT32),
        ("int(10) unsigned zerofill", Kind.INT64, Kind.INT64),
        ("bigint", Kind.INT64, Kind.INT64),
        ("bigint unsigned", Kind.NUMERIC, Kind.NUMERIC),
        ("bit(1)", Kind.OPAQUE, Kind.BOOLEAN),
        ("bit(2)", Kind.OPAQUE, Kind.OPAQUE),
        ("enum('unsigned','x unsigned')", Kind.TEXT, Kind.TEXT),
        ("datetime(3)", Kind.TIMESTAMP, Kind.TIMESTAMP),
        ("point", Kind.OPAQUE, Kind.OPAQUE),
    ],
)
def test_types(declared: str, kind: Kind, default: Kind) -> None:
    name = declared.split("(")[0].split(" ")[0]
    local = local_type(name, declared)
    assert (local.kind, local.default, local.unsigned) == (
        kind,
        default,
        declared.endswith(("unsigned", "zerofill")),
    )
    assert canonical(name, declared).kind is default


def test_parameters() -> None:
    assert local_type("decimal", "decimal(12,2) unsigned") == LocalType("decimal", Kind.NUMERIC, True, 12, 2)
    assert local_type("time", "time(6)") == LocalType("time", Kind.TIME, scale=6)
    assert local_type("enum", "enum('a','it''s','B,c')").members == ("a", "it's", "B,c")
    native = canonical("varchar", "varchar(9)", "latin1", "latin1_bin").native
    assert native == "varchar(9) CHARACTER SET latin1 COLLATE latin1_bin"


def read(
    declared: str, texts: list[str | None], kind: Kind | None = None
) -> tuple[list[Any], dict[int, str]]:
    name = declared.split("(")[0].split(" ")[0]
    local = local_type(name, declared)
    column = pa.array([None if t is None else t.encode() for t in texts], pa.binary())
    values, errors = from_text(column, CanonicalType(kind or local.default), local)
    assert values.type == CanonicalType(kind or local.default).arrow
    return values.to_pylist(), errors


def test_what_cannot_be_read_is_null_and_told() -> None:
    dates, errors = read("date", ["2024-01-02", "0000-00-00", None, "2024-00-01", "2024-01-00"])
    assert [d is None for d in dates] == [False, True, True, True, True]
    assert errors.keys() == {1, 3, 4}
    _, errors = read("tinyint(1)", ["0", "1", "2", None, "-1"])
    assert errors == {2: "2 is neither 0 nor 1", 4: "-1 is neither 0 nor 1"}
    _, errors = read("time(6)", ["24:00:00", "-00:00:01", "100:00:00.5", None, "23:59:59.999999"])
    assert errors.keys() == {1, 2}
    values, errors = read("bigint", ["5", "40000", None], Kind.INT16)
    assert (values, errors.keys()) == ([5, None, None], {1})
    _, errors = read("double", ["0.1", "0.5"], Kind.FLOAT32)
    assert errors.keys() == {0}


def test_uuids() -> None:
    text = "12345678-9abc-def0-1234-56789abcdef0"
    column = pa.array([text, None], pa.utf8())
    packed = unhyphened(column)
    assert packed.to_pylist() == [bytes.fromhex(text.replace("-", "")), None]
    local = local_type("binary", "binary(16)")
    assert adapt(packed, CanonicalType(Kind.UUID), local)[0].equals(column)
    assert read("char(36)", [text.upper()], Kind.UUID)[0] == [text]


@given(st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=60))
def test_geometries_there_and_back(srid: int, rest: bytes) -> None:
    stored = srid.to_bytes(4, "little") + b"\x01" + (rest[0] % 7 + 1).to_bytes(4, "little") + rest
    assert from_ewkb(ewkb(stored)) == stored


@pytest.mark.parametrize("text", ["", "0", "zz", "0000000001", "01"])
def test_no_geometry(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_ewkb(text)


def test_literals() -> None:
    text = local_type("text", "text")
    column = pa.array(["a'b\\", None, ""], pa.utf8())
    printed = literals(column, CanonicalType(Kind.TEXT), text)
    assert printed.to_pylist() == [b"'a\\'b\\\\'", b"NULL", b"''"]
    numbers = literals(
        pa.array([1, None, -3], pa.int32()), CanonicalType(Kind.INT32), local_type("int", "int")
    )
    assert rows_of_literals([numbers, printed]).to_pylist() == [
        b"(1,'a\\'b\\\\')",
        b"(NULL,NULL)",
        b"(-3,'')",
    ]
    assert rows_of_literals([numbers]).to_pylist() == [b"(1)", b"(NULL)", b"(-3)"]


@given(st.lists(st.one_of(st.none(), st.binary()), min_size=1))
def test_a_literal_of_bytes_ends_where_it_should(values: list[bytes | None]) -> None:
    column = pa.array(values, pa.binary())
    for value, shown in zip(
        values,
        literals(column, CanonicalType(Kind.BYTES), local_type("blob", "blob")).to_pylist(),
        strict=True,
    ):
        assert value is not None or shown == b"NULL"
        if value is not None:
            inner = shown.removeprefix(b"_binary'").removesuffix(b"'")
            assert unescaped(inner) == value


def unescaped(data: bytes) -> bytes:
    out, escaped = bytearray(), False
    for byte in data:
        if escaped or byte != 0x5C:
            assert escaped or byte != 0x27, "a bare quote ends the literal"
            out.append(byte)
            escaped = False
        else:
            escaped = True
    assert not escaped, "the closing quote would be escaped"
    return bytes(out)


@given(st.decimals(-(10**15), 10**15, places=6), st.integers(0, 8))
def test_decimals_are_beyond_exactly_if_they_would_be_rounded(value: Any, places: int) -> None:
    text = format(value, "f")
    column = pa.array([text], pa.utf8())
    local = LocalType("decimal", Kind.NUMERIC, False, 65, places)
    found = beyond(column, checks(column, CanonicalType(Kind.NUMERIC), local))
    assert bool(found) == (round(value, places) != value)


@given(st.integers(0, 86_399_999_999), st.integers(0, 6))
def test_times_are_written_down_to_the_digits_of_the_column_and_refused_in_a_key(
    micros: int, digits: int
) -> None:
    type, local = CanonicalType(Kind.TIME), LocalType("time", Kind.TIME, scale=digits)
    column = pa.array([micros, None], pa.int64()).cast(pa.time64("us"))
    assert not beyond(column, checks(column, type, local))
    found = beyond(column, checks(column, type, local, key=True))
    rest = micros % 10 ** (6 - digits)
    assert found.keys() == ({0} if rest else set())
    rough = pa.array([micros - rest, None], pa.int64()).cast(pa.time64("us"))
    assert literals(column, type, local).equals(literals(rough, type, local))
