"""Character sets: the log holds a text as it is stored, so whoever reads it must convert it as the server
would.

What a byte of a set of one byte per character means is asked of the server itself. The other sets are those
whose conversion by Python was compared with the server's, character by character."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Any

UTF8 = "utf-8"
_CODECS = {
    "utf8mb4": UTF8,
    "utf8mb3": UTF8,
    "utf8": UTF8,
    "ascii": UTF8,
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "gb18030": "gb18030",
    "euckr": "cp949",
    "cp932": "cp932",
    "sjis": "shift_jis",
    "ujis": "euc_jp",
}
_SWAPPED = {"gb18030": {0x1E3F: 0xE7C7, 0xE7C7: 0x1E3F}, "sjis": {0xFF3C: 0x5C}, "ujis": {0xFF3C: 0x5C}}
"""Where the server and Python differ."""
_UNDEFINED = "\ufffe"
"""Stands for a byte without a character in Python's tables."""
_EVERY = bytes(range(256))


@dataclass(frozen=True, slots=True)
class Charset:
    """A character set.

    Attributes:
        name: MySQL's.
        codec: Python's, or empty.
        table: else the character of each byte.
    """

    name: str
    codec: str = ""
    table: str = field(default="", repr=False)

    @property
    def known(self) -> bool:
        """Whether text in it can be read."""
        return bool(self.codec or self.table)

    def decode(self, data: bytes) -> str:
        """The text that some bytes are.

        Raises:
            UnicodeDecodeError: they are none.
        """
        if not self.codec:
            return codecs.charmap_decode(data, "strict", self.table)[0]
        text = data.decode(self.codec)
        swapped = _SWAPPED.get(self.name)
        return text.translate(swapped) if swapped else text


def read_charsets(connection: Any) -> dict[int, Charset]:
    """The character set of each of the server's collations, by their numbers.

    Raises:
        pymysql.MySQLError: the server is away or refuses.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT character_set_name, maxlen FROM information_schema.character_sets")
        lengths = dict(cursor.fetchall())
        single = [n for n, length in lengths.items() if length == 1 and n not in _CODECS and n != "binary"]
        convert = "SELECT '{0}', CONVERT(CONVERT(_binary X'{1}' USING {0}) USING utf8mb4)"
        cursor.execute(" UNION ALL ".join(convert.format(name, _EVERY.hex()) for name in single))
        tables = {name: _table(text) for name, text in cursor.fetchall()}
        sets = {n: Charset(n, _CODECS.get(n, ""), tables.get(n, "")) for n in lengths}
        cursor.execute("SELECT id, character_set_name FROM information_schema.collations")
        return {int(number): sets[name] for number, name in cursor.fetchall() if name in sets}


def _table(text: str) -> str:
    """The characters of all bytes; the server shows a question mark for those that have none."""
    if len(text) != len(_EVERY):
        return ""
    return "".join(
        _UNDEFINED if c == "?" and byte != ord("?") else c for byte, c in zip(_EVERY, text, strict=True)
    )
