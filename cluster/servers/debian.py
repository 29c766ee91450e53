"""Server programs from Debian's packages: unpacked into a cache folder, never installed.

The mirror is the one that apt is set up with; apt's own state on the machine is not touched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "SYNC_WORKER_CACHE"
"""Names a folder to keep the programs in, in place of `~/.cache/sync-worker`."""
UNSTABLE = "sid"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class NotFetched(RuntimeError):
    """The packages are not to be had; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Packages:
    """What is fetched.

    Attributes:
        name: of its folder in the cache.
        package: the package; with it come those that it depends on.
        suite: Debian's suite; empty for the machine's own release.
        wanted: which of them are needed.
    """

    name: str
    package: str
    suite: str
    wanted: Callable[[str], bool]


def cache_folder() -> Path:
    """Where fetched programs are kept."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sync-worker"


def fetched(packages: Packages) -> Path:
    """The folder with the unpacked files, fetched if need be; several processes may ask at once.

    Raises:
        NotFetched: the machine has no Debian mirror, or it does not answer.
    """
    cache, name = cache_folder(), packages.name
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{name}.lock"):
        if found := sorted(cache.glob(f"{name}-*")):
            return found[-1]
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as work:
            root, version = _fetch(packages, Path(work))
            final = cache / f"{name}-{version}"
            root.rename(final)
    return final


def _fetch(packages: Packages, work: Path) -> tuple[Path, str]:
    """Download and unpack into `work`; returns the unpacked tree and the server's version."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        why = "this machine has no apt to fetch Debian's packages with"
        raise NotFetched(why)
    apt, package = _private_apt(work, _mirror(), packages.suite or _codename()), packages.package
    _run(["apt-get", *apt, "update"], work)
    listing = _run(["apt-cache", *apt, "show", "--no-all-versions", package], work)
    version = next(line.split()[1] for line in listing.splitlines() if line.startswith("Version:"))
    depends = _run(
        ["apt-cache", *apt, "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
         "--no-breaks", "--no-replaces", "--no-enhances", package], work,
    )  # fmt: skip
    names = {line.strip() for line in depends.splitlines() if line[:1].isalnum()}
    archives = work / "packages"
    archives.mkdir()
    _run(["apt-get", *apt, "download", *sorted(filter(packages.wanted, names))], archives)
    root = work / "root"
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(root)], work)
    root.chmod(0o755)
    return root, version.rpartition(":")[2].split("-")[0]  # no epoch: a colon parts paths


def _mirror() -> str:
    """The address that apt has for the machine's own Debian release, by whichever of its names."""
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        Path("/"),
    )
    releases = (_codename(), "stable", "oldstable", "testing", UNSTABLE, "unstable")
    found = [line.split() for line in listed.splitlines()]
    for wanted in releases:
        for site, release, component in found:
            if (release, component) == (wanted, "main"):
                return site
    why = "apt is set up with no Debian mirror"
    raise NotFetched(why)


def _codename() -> str:
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    if release.get("ID", "").strip('"') != "debian":
        why = "this machine is not Debian"
        raise NotFetched(why)
    return release.get("VERSION_CODENAME", UNSTABLE).strip('"')


def _private_apt(work: Path, mirror: str, suite: str) -> list[str]:
    """Options that keep apt's state apart from the machine's."""
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    sources = work / "sources.list"
    sources.write_text(f"deb{signed} {mirror} {suite} main\n")
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


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        why = f"{command[0]} failed: {last}"
        raise NotFetched(why)
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
