"""The Merkle tree of RFC 6962: roots, inclusion proofs and consistency proofs. Pure.

A leaf's hash is SHA-256 of a zero byte and the record; a node's is SHA-256 of a one byte and its two
children. `Frontier` is all that has to be remembered of a tree to go on with it: at most one hash for each
bit of its size.

Source: RFC 6962 section 2.1 (the tree and both proofs), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (their checks).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
LEAF = b"\0"
"""What stands before a record where it is hashed."""
EMPTY = sha256().digest()
"""Root of a tree without leaves."""


def leaf_hash(record: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(LEAF + record).digest()


def leaf_hashes(records: Iterable[bytes]) -> list[bytes]:
    """The hashes of leaves whose records begin with `LEAF` already, which saves making them anew."""
    return [sha256(record).digest() for record in records]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """A tree that only grows: its size, and the roots of its complete parts, smallest first.

    Args:
        size: how many leaves.
        parts: for each bit of `size` that is set, lowest first, the root of that many leaves.
    """

    def __init__(self, size: int = 0, parts: Iterable[bytes] = ()) -> None:
        self.size = size
        rest = iter(parts)
        self._levels = [next(rest) if size >> level & 1 else None for level in range(size.bit_length())]

    @classmethod
    def of(cls, state: str) -> Frontier:
        """The tree whose `state` this is."""
        size, _, text = state.partition(":")
        data = b64decode(text)
        return cls(int(size), (data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)))

    @property
    def state(self) -> str:
        """All that `of` needs."""
        return f"{self.size}:{b64encode(b''.join(p for p in self._levels if p is not None)).decode()}"

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the hashes of further leaves."""
        self.size += len(leaves)
        nodes, level = list(leaves), 0
        while nodes:
            if level == len(self._levels):
                self._levels.append(None)
            if (left := self._levels[level]) is not None:
                nodes.insert(0, left)
            self._levels[level] = nodes.pop() if len(nodes) % 2 else None
            nodes = _pairs(nodes)
            level += 1

    @property
    def root(self) -> bytes:
        """The tree's root."""
        found: bytes | None = None
        for part in self._levels:
            if part is not None:
                found = part if found is None else _node(part, found)
        return EMPTY if found is None else found


def _pairs(nodes: Sequence[bytes]) -> list[bytes]:
    """The parents of nodes, of which there is an even number."""
    each = iter(nodes)
    return [sha256(b"\1" + left + right).digest() for left, right in zip(each, each, strict=True)]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree with these leaf hashes."""
    tree = Frontier()
    tree.extend(leaves)
    return tree.root


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `leaves`."""
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low = middle
    return path[::-1]


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that the tree of `size` leaves with this root has `leaf` at `index`."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for part in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = _node(part, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, part)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistency(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the tree of `leaves` has grown from the tree of the first `old` of them."""
    if not 0 < old < len(leaves):
        return []
    path: list[bytes] = []
    low, high, is_whole = 0, len(leaves), True
    while old != high - low:
        middle = _split(high - low)
        if old <= middle:
            path.append(root_of(leaves[low + middle : high]))
            high = low + middle
        else:
            path.append(root_of(leaves[low : low + middle]))
            low, old, is_whole = low + middle, old - middle, False
    if not is_whole:
        path.append(root_of(leaves[low:high]))
    return path[::-1]


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` proves that the tree of `new` leaves has grown from that of `old` leaves."""
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY
    if not 0 < old < new or (not path and old & (old - 1)):
        return False
    parts = [old_root, *path] if old & (old - 1) == 0 else list(path)
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = parts[0]
    for part in parts[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = _node(part, before), _node(part, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = _node(after, part)
        place, last = place >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root
