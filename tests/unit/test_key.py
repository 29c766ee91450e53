"""Canonical keys compare as their values do, and decode to what was encoded."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.key import decode_key, encode_key, encode_keys
from replication.sharding import shard_of
from replication.types import Kind

INT64 = st.integers(-(2**63), 2**63 - 1)
DECIMAL = st.decimals(allow_nan=False, allow_infinity=False, places=4)
VALUES = {Kind.INT64: INT64, Kind.TEXT: st.text(), Kind.BYTES: st.binary(), Kind.NUMERIC: DECIMAL}


def comparable(values: tuple) -> tuple:
    return tuple(v.encode() if isinstance(v, str) else v for v in values)


@st.composite
def two_keys(draw: st.DrawFn) -> tuple[tuple[Kind, ...], tuple, tuple]:
    kinds = tuple(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3)))
    one = tuple(draw(VALUES[k]) for k in kinds)
    other = tuple(draw(st.one_of(st.just(v), VALUES[k])) for v, k in zip(one, kinds, strict=True))
    return kinds, one, other


@given(two_keys())
def test_keys_decode_to_what_was_encoded_and_keep_the_order(
    case: tuple[tuple[Kind, ...], tuple, tuple],
) -> None:
    kinds, one, other = case
    a, b = encode_key(one, kinds), encode_key(other, kinds)
    assert decode_key(a, kinds) == one
    assert (a < b) == (comparable(one) < comparable(other))
    assert (a == b) == (one == other)


def test_equal_numbers_are_one_key() -> None:
    keys = encode_keys([pa.array(["1.0", "1.00", "1", "1e0"])], [Kind.NUMERIC])
    assert len(set(keys.to_pylist())) == 1
    assert decode_key(encode_key((Decimal("-0.05"),), (Kind.NUMERIC,)), (Kind.NUMERIC,)) == (
        Decimal("-0.05"),
    )


@pytest.mark.parametrize(
    ("key", "shards", "shard"),
    [(b"", 4, 0), (b"a", 4, 3), (b"\x80\0\0\0\0\0\0\1", 4, 3), (b"\x80\0\0\0\0\0\0\2", 7, 6)],
)
def test_shard_of_is_pinned(key: bytes, shards: int, shard: int) -> None:
    assert shard_of(key, shards) == shard
