"""From a before-image and an update's description to the after-image.

The description is what the server recorded in its oplog, so the result is exactly the document as the
update left it, whatever happened to it since. Format:
https://www.mongodb.com/docs/manual/reference/change-events/update/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str, ...]


class DeltaMismatch(ValueError):
    """The description does not fit the before-image."""


class NeedsBeforeImage(ValueError):
    """A part of a mapped value changed, and the rest of the value is not known."""


def after_image(before: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """The document after the update; parts that did not change are shared with `before`.

    Raises:
        DeltaMismatch: a path of the description leads nowhere in `before`.
    """
    after = dict(before)
    clear = description.get("disambiguatedPaths") or {}
    try:
        for cut in description.get("truncatedArrays") or ():
            parts = _parts(cut["field"], clear)
            parent = _open(after, parts)
            at = _at(parent, parts[-1])
            parent[at] = parent[at][: cut["newSize"]]
        for path in description.get("removedFields") or ():
            parts = _parts(path, clear)
            _open(after, parts).pop(str(parts[-1]), None)
        for path, value in (description.get("updatedFields") or {}).items():
            if "." not in path:
                after[path] = value
                continue
            parts = _parts(path, clear)
            _put(_open(after, parts), parts[-1], value)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        message = f"an update does not fit the document before it: {type(error).__name__} {error}"
        raise DeltaMismatch(message) from error
    return after


def known_parts(description: Mapping[str, Any], paths: Sequence[Path]) -> dict[int, Any]:
    """What an update says of mapped values without a before-image: index in `paths` to the new value.

    Values that are not mentioned are left out.

    Raises:
        NeedsBeforeImage: only a part inside one of the values was changed.
    """
    clear = description.get("disambiguatedPaths") or {}
    known: dict[int, Any] = {}
    for path, value in (description.get("updatedFields") or {}).items():
        parts = tuple(map(str, _parts(path, clear)))
        for i in _touched(parts, paths):
            known[i] = dig(value, paths[i][len(parts) :])
    for path in description.get("removedFields") or ():
        for i in _touched(tuple(map(str, _parts(path, clear))), paths):
            known[i] = None
    for cut in description.get("truncatedArrays") or ():
        parts = tuple(map(str, _parts(cut["field"], clear)))
        for path in paths:
            if path == parts or path == parts[: len(path)]:
                raise NeedsBeforeImage(".".join(parts))
    return known


def touched(description: Mapping[str, Any]) -> set[str]:
    """The top-level fields that an update changed, or a part of which."""
    clear = description.get("disambiguatedPaths") or {}
    paths = [*(description.get("updatedFields") or ()), *(description.get("removedFields") or ())]
    paths += [cut["field"] for cut in description.get("truncatedArrays") or ()]
    return {str(_parts(path, clear)[0]) for path in paths}


def dig(value: Any, path: Path) -> Any:
    """What is at a path of field names, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _touched(parts: Path, paths: Sequence[Path]) -> list[int]:
    found = []
    for i, path in enumerate(paths):
        if path[: len(parts)] == parts:
            found.append(i)
        elif parts[: len(path)] == path:
            raise NeedsBeforeImage(".".join(parts))
    return found


def _parts(path: str, clear: Mapping[str, Any]) -> list[Any]:
    parts = clear.get(path)
    return list(parts) if parts else path.split(".")


def _open(document: dict[str, Any], parts: list[Any]) -> Any:
    """Walk to the parent of the last part, copying each container on the way."""
    here: Any = document
    for part in parts[:-1]:
        at = _at(here, part)
        child = here[at]
        here[at] = child = list(child) if isinstance(child, list) else dict(child)
        here = child
    return here


def _at(container: Any, part: Any) -> Any:
    return int(part) if isinstance(container, list) else str(part)


def _put(container: Any, part: Any, value: Any) -> None:
    if not isinstance(container, list):
        container[str(part)] = value
        return
    at = int(part)
    if at < len(container):
        container[at] = value
    else:
        container.extend([None] * (at - len(container)))
        container.append(value)
