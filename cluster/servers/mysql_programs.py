"""Where a MySQL server program comes from: the search path, or Debian's packages.

Debian has MySQL in its unstable suite only, built for a newer C library than a stable release has. Its
packages are run with the loader that is among them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.servers.debian import UNSTABLE, NotFetched, Packages, fetched
from cluster.servers.process import ServerFailed

EXTRA_PATH = ":/usr/sbin:/usr/local/sbin"
"""Where servers are installed, and users often do not look."""
_UNNEEDED = ("perl", "libperl")
PACKAGES = Packages("mysql", "mysql-server-core", UNSTABLE, lambda package: not package.startswith(_UNNEEDED))
_REMEDY = "install a MySQL server, start Docker, or set SYNC_TEST_MYSQL to the address of a server of yours"


class NoMysql(ServerFailed):
    """There is no MySQL server program; the message says why in one line, and how to provide one."""


@dataclass(frozen=True, slots=True)
class MysqlProgram:
    """A server program.

    Attributes:
        command: what to run, before any option.
        options: options that name its own folders.
    """

    command: tuple[str, ...]
    options: tuple[str, ...] = ()


def find_program() -> MysqlProgram:
    """`mysqld` on the search path, else Debian's, fetched if it is not in the cache yet.

    Raises:
        NoMysql: neither is to be had.
    """
    if program := _installed():
        return program
    try:
        return _unpacked(fetched(PACKAGES))
    except NotFetched as error:
        raise _none(str(error)) from error


def _installed() -> MysqlProgram | None:
    program = shutil.which("mysqld", path=os.environ.get("PATH", "") + EXTRA_PATH)
    if program is None:
        return None
    version = subprocess.run([program, "--no-defaults", "--version"], capture_output=True, text=True).stdout
    if "MariaDB" in version or not version:
        return None
    return MysqlProgram((program,))


def _unpacked(root: Path) -> MysqlProgram:
    loader = next(root.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*"), None)
    if loader is None:
        why = f"{root} is incomplete, remove it"
        raise _none(why)
    share, plugins = root / "usr/share/mysql", root / "usr/lib/mysql/plugin"
    libraries = f"{loader.parent}:{root / 'usr/lib/mysql/private'}"
    return MysqlProgram(
        (str(loader), "--library-path", libraries, str(root / "usr/sbin/mysqld")),
        (
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={plugins}",
        ),
    )


def _none(why: str) -> NoMysql:
    return NoMysql(f"no MySQL: {why}; {_REMEDY}")
