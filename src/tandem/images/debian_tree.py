"""Debian's packages installed into a folder, by mmdebstrap, and made the tree of a guest.

apt checks the packages' signatures, with this host's own sources and keys.  Nothing is installed on
the host itself.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from tandem.errors import HostError, UsageError
from tandem.images.running import Telling, run

APT: Final = Path("/etc/apt")
STEP: Final = "I: "  # what mmdebstrap begins a line with that tells of its progress
MODE: Final = 0o7777
EPOCH: Final = 0  # the time that files have which were made here, so that it says nothing
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "login", "procps", "iproute2"),
    *("linux-image-cloud-amd64", "busybox-static", "cryptsetup-bin"),
    *("python3-minimal", "libpython3-stdlib", "tpm2-tools", "libtss2-tcti-device0"),
)
ATTESTER: Final = "usr/lib/tandem/tandem_attester"
UNITS: Final = "etc/systemd/system"
AUTOLOGIN: Final = f"{UNITS}/serial-getty@ttyS0.service.d/autologin.conf"
FILES: Final = {
    f"{UNITS}/tandem-attester.service": """\
[Unit]
Description=Tandem attester: answers a verifier's questions over virtio-serial

[Service]
Environment=PYTHONPATH=/usr/lib/tandem
ExecStart=/usr/bin/python3 -S -m tandem_attester --serve
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
""",
    # A guest on a busy host still gets its console: it waits for the device as long as that takes.
    "etc/systemd/system.conf.d/tandem.conf": "[Manager]\nDefaultDeviceTimeoutSec=30min\n",
    "etc/modules-load.d/tandem.conf": "virtio_console\n",
    "etc/fstab": "",
    "etc/machine-id": "",  # each boot makes its own
}
LINKS: Final = {
    f"{UNITS}/multi-user.target.wants/tandem-attester.service": (
        "/etc/systemd/system/tandem-attester.service"
    ),
    # There is no network unless whoever makes the image brings one:
    f"{UNITS}/apt-daily.timer": "/dev/null",
    f"{UNITS}/apt-daily-upgrade.timer": "/dev/null",
}
LOGGED_IN: Final = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,38400,9600 - $TERM
"""
PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{0,127}")  # Debian Policy, 5.6.1
HOSTS_OWN: Final = ("etc/hostname", "etc/resolv.conf", "etc/apt/sources.list")
MAKERS: Final = ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
NOT_THE_SAME: Final = (  # what a program of Debian writes otherwise each time
    *("var/log", "var/cache/ldconfig", "var/cache/apt", "var/lib/apt/lists", "var/lib/dbus"),
    *("var/lib/systemd/random-seed", "etc/apt/sources.list.d", "tmp", "run"),
    *("etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-"),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What somebody wants in the image."""

    name: str
    suite: str
    packages: tuple[str, ...] = ()
    overlay: Path | None = None  # a folder that is laid over the tree
    autologin: bool = False


def checked_package(name: str, what: str) -> str:
    """Give the name back when it can be one of Debian's."""
    if not PACKAGE.fullmatch(name):
        raise UsageError(
            "TDM-IMAGE-PACKAGE-NAME",
            f"{name[:100]!a} is no name of a {what} of Debian",
            hint="use lower-case letters, digits and + - ., as in nginx-light or bookworm",
        )
    return name


def apt_sources() -> tuple[Path, ...]:
    """Give the files that say where this host has its packages from."""
    found = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*.sources"))]
    found += sorted((APT / "sources.list.d").glob("*.list"))
    sources = tuple(path for path in found if path.is_file() and path.stat().st_size)
    if not sources:
        raise HostError(
            "TDM-IMAGE-NO-SOURCES",
            f"no file below {APT} says where Debian's packages are",
            hint="write /etc/apt/sources.list, and try `apt-get update`",
        )
    return sources


def make_tree(recipe: Recipe, tree: Path, cache: Path, tell: Telling) -> dict[str, str]:
    """Install the recipe's packages into `tree` and finish it; gives versions by package.

    What was downloaded stays in `cache` for the next time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    started = time.time()
    wanted = ",".join((*PACKAGES, *recipe.packages))
    archives = "/var/cache/apt/archives"
    run(
        # What it mounts in the tree, /dev above all, nobody sees who might remove the tree:
        *("unshare", "--mount", "--propagation=private", "--"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={wanted}"),
        *("--aptopt=APT::Install-Recommends false", "--dpkgopt=force-unsafe-io"),
        "--skip=download/empty,essential/unlink,cleanup/apt/cache",
        f'--setup-hook=mkdir -p "$1"{archives}',
        f"--setup-hook=sync-in {_quoted(cache)} {archives}",
        f"--customize-hook=sync-out {archives} {_quoted(cache)}",
        *(recipe.suite, str(tree), *map(str, apt_sources())),
        environment={"SOURCE_DATE_EPOCH": str(EPOCH), "INITRD": "No"},
        tell=lambda line: tell(line.removeprefix(STEP)) if line.startswith(STEP) else None,
    )
    listing = run(
        *("dpkg-query", f"--admindir={tree / 'var/lib/dpkg'}", "-W"),
        "-f=${Package} ${Version}\\n",
    )
    finish(recipe, tree)
    forget_times(tree, started)
    return dict(line.split(" ", 1) for line in listing.splitlines())


def finish(recipe: Recipe, tree: Path) -> None:
    """Add the attester, take away what is the host's or differs each time, lay the overlay over."""
    for name in NOT_THE_SAME:
        _empty(tree / name)
    for name in (*HOSTS_OWN, *MAKERS):
        (tree / name).unlink(missing_ok=True)
    files = FILES | {"etc/hostname": f"{recipe.name}\n", "etc/hosts": f"127.0.0.1 {recipe.name}\n"}
    if recipe.autologin:
        files |= {AUTOLOGIN: LOGGED_IN}
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).unlink(missing_ok=True)  # a link of a package may lead out of the tree
        (tree / name).write_text(content)
    for name, target in LINKS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)
    _add_attester(tree)
    if recipe.overlay is not None:
        lay_over(recipe.overlay, tree)


def lay_over(overlay: Path, tree: Path) -> None:
    """Copy a folder's files over the tree, as root's, and never through a link that leaves it."""
    for path in _all(overlay):
        within = path.relative_to(overlay)
        target = tree / within
        if not target.parent.resolve().is_relative_to(tree.resolve()):
            raise UsageError(
                "TDM-IMAGE-OVERLAY-LINK",
                f"{str(within)[:200]!a} of the overlay is below a link that leads out of the image",
                hint="give the place that the link means, as run/ for var/run/",
            )
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
            if not target.is_symlink():
                target.chmod(path.stat().st_mode & MODE)
            continue
        target.unlink(missing_ok=True)
        if path.is_symlink():
            target.symlink_to(os.readlink(path))
        else:
            shutil.copyfile(path, target)
            target.chmod(path.stat().st_mode & MODE)


def forget_times(tree: Path, since: float) -> None:
    """Give every file that was made since then the same time; those of packages keep theirs."""
    for path in (tree, *_all(tree)):
        if path.lstat().st_mtime >= since:
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def attester_files() -> dict[str, bytes]:
    """Give the one part of Tandem that runs in guests, by file name."""
    files = resources.files("tandem.attester").iterdir()
    return {each.name: each.read_bytes() for each in files if each.name.endswith(".py")}


def _add_attester(tree: Path) -> None:
    """Put this installation's attester there, with its modules compiled by the guest's Python."""
    target = tree / ATTESTER
    target.mkdir(parents=True, exist_ok=True)
    for name, content in attester_files().items():
        (target / name).write_bytes(content)
    mode = "--invalidation-mode=unchecked-hash"
    run("chroot", str(tree), "/usr/bin/python3", "-m", "compileall", "-q", mode, f"/{ATTESTER}")


def _empty(path: Path) -> None:
    """Take away a file, or what is in a folder but no folders below it."""
    if path.is_dir() and not path.is_symlink():
        for each in _all(path):
            if each.is_dir() and not each.is_symlink():
                os.utime(each, (EPOCH, EPOCH))  # what came from the cache has a time of its own
            else:
                each.unlink()
    else:
        path.unlink(missing_ok=True)


def _all(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        yield from (Path(at, name) for name in (*folders, *files))


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
