"""Where a MySQL server program comes from: the search path, or Debian's packages.

Debian has MySQL in its unstable suite only, built for a newer C library than a stable release has. Its
packages are unpacked into a cache folder, never installed, and run with the loader that is among them. The
mirror is the one that apt is set up with.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.servers.process import ServerFailed

PACKAGE = "mysql-server-core"
SUITE = "sid"
CACHE_VARIABLE = "SYNC_WORKER_CACHE"
"""Names a folder to keep the programs in, in place of `~/.cache/sync-worker`."""
EXTRA_PATH = ":/usr/sbin:/usr/local/sbin"
"""Where servers are installed, and users often do not look."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UNNEEDED = ("perl", "libperl")
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
    return _installed() or _unpacked(fetched())


def cache_folder() -> Path:
    """Where fetched programs are kept."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sync-worker"


def fetched() -> Path:
    """The folder with Debian's packages, fetched if need be; several processes may ask at once.

    Raises:
        NoMysql: the machine has no Debian mirror, or it does not answer.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "mysql.lock"):
        if found := sorted(cache.glob("mysql-*")):
            return found[-1]
        with tempfile.TemporaryDirectory(prefix=".mysql-", dir=cache) as work:
            root, version = _fetch(Path(work))
            final = cache / f"mysql-{version}"
            root.rename(final)
    return final


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


def _fetch(work: Path) -> tuple[Path, str]:
    """Download and unpack into `work`; returns the unpacked tree and the server's version."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        why = "this machine has no apt to fetch Debian's packages with"
        raise _none(why)
    apt = _private_apt(work, _mirror())
    _run(["apt-get", *apt, "update"], work)
    listing = _run(["apt-cache", *apt, "show", "--no-all-versions", PACKAGE], work)
    version = next(line.split()[1] for line in listing.splitlines() if line.startswith("Version:"))
    depends = _run(
        ["apt-cache", *apt, "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
         "--no-breaks", "--no-replaces", "--no-enhances", PACKAGE], work,
    )  # fmt: skip
    names = {line.strip() for line in depends.splitlines() if line[:1].isalnum()}
    packages = work / "packages"
    packages.mkdir()
    wanted = sorted(name for name in names if not name.startswith(_UNNEEDED))
    _run(["apt-get", *apt, "download", *wanted], packages)
    root = work / "root"
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)], work)
    root.chmod(0o755)
    return root, version.split("-")[0]


def _mirror() -> str:
    """The address that apt has for the machine's own Debian release, by whichever of its names."""
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        Path("/"),
    )
    releases = (_codename(), "stable", "oldstable", "testing", SUITE, "unstable")
    found = [line.split() for line in listed.splitlines()]
    for wanted in releases:
        for site, release, component in found:
            if (release, component) == (wanted, "main"):
                return site
    why = "apt is set up with no Debian mirror"
    raise _none(why)


def _codename() -> str:
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    if release.get("ID", "").strip('"') != "debian":
        why = "this machine is not Debian"
        raise _none(why)
    return release.get("VERSION_CODENAME", SUITE).strip('"')


def _private_apt(work: Path, mirror: str) -> list[str]:
    """Options that keep apt's state apart from the machine's."""
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    sources = work / "sources.list"
    sources.write_text(f"deb{signed} {mirror} {SUITE} main\n")
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": str(sources),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": str(work / "lists"),
        "Dir::Cache": str(work / "cache"),
        "APT::Sandbox::User": "root",
        "APT::Get::List-Cleanup": "0",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def _none(why: str) -> NoMysql:
    return NoMysql(f"no MySQL: {why}; {_REMEDY}")


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        why = f"{command[0]} failed: {last}"
        raise _none(why)
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
