"""How far the changes of the log have been published, in a file beside them: `kafka.json`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replication.audit.store import replace_file
from replication.errors import Terminal

FILE = "kafka.json"


@dataclass(frozen=True, slots=True)
class Published:
    """What a broker has confirmed.

    Attributes:
        log: what tells the numbers of this log from those of any other; made once.
        places: for each stream of changes the first record that is not confirmed; 0 where it is not named.
    """

    log: str
    places: Mapping[str, int] = field(default_factory=dict)


def read_published(root: Path) -> Published:
    """What is confirmed; nothing, under a new name, where there is no such file.

    Raises:
        Terminal: the file is damaged.
    """
    path = root / FILE
    try:
        found = json.loads(path.read_bytes())
        return Published(str(found["log"]), {str(s): int(p) for s, p in found["places"].items()})
    except FileNotFoundError:
        return Published(secrets.token_hex(8))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"{path} is damaged"
        hint = (
            "remove it: everything that the audit log holds is published again, under a new name of the log"
        )
        raise Terminal(message, hint=hint) from error


def write_published(root: Path, published: Published) -> None:
    """Keep it, durably."""
    content = {"log": published.log, "places": dict(published.places)}
    replace_file(root / FILE, json.dumps(content, sort_keys=True).encode())
