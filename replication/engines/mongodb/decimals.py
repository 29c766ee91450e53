"""BSON Decimal128 and plain decimal text.

The wire format is IEEE 754-2008 decimal128 in its binary integer decimal encoding: from the top, a sign
bit, 14 bits of exponent biased by 6176, and 113 bits of coefficient
(https://github.com/mongodb/specifications/blob/master/source/bson-decimal128/decimal128.md).
Numbers of up to 18 digits, which is nearly all of them, are packed and unpacked here; the rest goes through
`decimal`.
"""

from __future__ import annotations

import re
import struct
from decimal import ROUND_DOWN, Context, Decimal

from bson.decimal128 import Decimal128

DIGITS = 34
_CUT = Context(prec=DIGITS, rounding=ROUND_DOWN, Emin=-6143, Emax=6144, clamp=1, traps=[])
_BIAS = 6176
_GREATEST = 6144
_SHORT = re.compile(r"(-?)(\d{1,18})(?:\.(\d{1,17}))?", re.ASCII)
_SPECIAL = {"NaN", "Infinity", "-Infinity"}
_PARTS = struct.Struct("<QQ")


def to_decimal128(text: str) -> Decimal128:
    """The number cut to 34 significant digits; the scale is kept.

    Raises:
        ValueError: the number is too large for decimal128.
    """
    match = _SHORT.fullmatch(text)
    if match:
        sign, whole, fraction = match.groups("")
        coefficient = int(whole + fraction)
        if coefficient < 10**18:
            high = (_BIAS - len(fraction)) << 49 | (len(sign) << 63)
            return Decimal128.from_bid(_PARTS.pack(coefficient, high))
    if text in _SPECIAL:
        return Decimal128(text)
    value = Decimal(text)
    if not value.is_zero() and value.adjusted() > _GREATEST:
        message = f"{text[:40]} is beyond decimal128"
        raise ValueError(message)
    return Decimal128(_CUT.plus(value))


def to_text(value: Decimal128) -> str:
    """Plain decimal text, the scale kept; `NaN`, `Infinity` or `-Infinity`."""
    low, high = _PARTS.unpack(value.bid)
    exponent = ((high >> 49) & 0x3FFF) - _BIAS
    if -18 <= exponent <= 0 and not high & 0x1FFFFFFFFFFFF:
        digits = str(low)
        sign = "-" if high >> 63 else ""
        if not exponent:
            return sign + digits
        digits = digits.zfill(1 - exponent)
        return f"{sign}{digits[:exponent]}.{digits[exponent:]}"
    return plain(value.to_decimal())


def plain(value: Decimal) -> str:
    """Decimal text without an exponent."""
    if value.is_nan():
        return "NaN"
    return format(value, "f") if value.is_finite() else str(value)
