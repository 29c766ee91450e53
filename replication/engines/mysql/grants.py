"""What an account may do, by what SHOW GRANTS says of it and of its active roles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from pymysql.connections import Connection

_GRANT = re.compile(r"^GRANT (.+?) ON (?:TABLE )?(\*|`(?:[^`]|``)+`)\.(\*|`(?:[^`]|``)+`) TO ")
_ALL = "ALL PRIVILEGES"


@dataclass(frozen=True, slots=True)
class Grant:
    """One line of SHOW GRANTS.

    Attributes:
        privileges: in capitals; those on single columns are left out.
        database: a pattern as in LIKE, or `*`.
        table: a name, or `*`.
    """

    privileges: frozenset[str]
    database: str
    table: str

    def holds(self, privilege: str) -> bool:
        """Whether it grants a privilege."""
        return privilege in self.privileges or _ALL in self.privileges

    def covers(self, database: str, table: str) -> bool:
        """Whether it is about a table."""
        if self.table not in ("*", table):
            return False
        return self.database == "*" or _pattern(self.database).fullmatch(database) is not None


@dataclass(frozen=True, slots=True)
class Grants:
    """All grants of an account.

    Attributes:
        account: as SQL.
        grants: by line.
    """

    account: str
    grants: tuple[Grant, ...]

    def everywhere(self, privilege: str) -> bool:
        """Whether it is granted for the whole server."""
        return any(g.holds(privilege) for g in self.grants if (g.database, g.table) == ("*", "*"))

    def on_table(self, privilege: str, database: str, table: str) -> bool:
        """Whether it is granted for a table."""
        return any(g.holds(privilege) and g.covers(database, table) for g in self.grants)


def read_grants(connection: Connection) -> Grants:
    """The grants of the connection's account, active roles included."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER(), CURRENT_ROLE()")
        user, roles = cursor.fetchone() or ("", "NONE")
        cursor.execute("SHOW GRANTS FOR CURRENT_USER()" + ("" if roles == "NONE" else f" USING {roles}"))
        lines = [str(row[0]) for row in cursor.fetchall()]
    name, _, host = str(user).rpartition("@")
    account = f"'{name}'@'{host}'"
    return Grants(account, tuple(filter(None, map(parse_grant, lines))))


def parse_grant(line: str) -> Grant | None:
    """One line of SHOW GRANTS; None where it grants a role or a proxy."""
    match = _GRANT.match(line)
    if match is None:
        return None
    # Columns in brackets have commas too.
    listed = re.sub(r"[A-Z ]+\([^)]*\)", "", match[1])
    privileges = frozenset(p.strip() for p in listed.split(",") if p.strip())
    database, table = (part.strip("`").replace("``", "`") for part in match.groups()[1:])
    return Grant(privileges, database, table)


@cache
def _pattern(like: str) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression."""
    parts = re.findall(r"\\.|.", like)
    return re.compile("".join({"%": ".*", "_": "."}.get(p, re.escape(p.removeprefix("\\"))) for p in parts))
