"""Debian packages for the guest: chosen, downloaded and unpacked, never installed on this machine.

apt checks their signatures.  What was chosen once is kept (`packages.json`), so that the same image
comes out until `make clean`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ARCHITECTURE: Final = "amd64"
KERNEL: Final = "linux-image-cloud-amd64"  # a name that depends on the newest kernel of its series
LIBRARY_NAMES: Final = ("lib", "zlib")  # of what packages depend on, only these are taken


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The packages of an image beside its kernel: with the libraries they depend on, or alone."""

    with_libraries: tuple[str, ...]
    alone: tuple[str, ...]


class PackageError(Exception):
    """apt could not give a package; the text says what it said."""


def chosen_packages(record: Path, wanted: Wanted) -> dict[str, str]:
    """Give the version of each package by name, as chosen before or as apt has them now."""
    if record.exists():
        return dict(json.loads(record.read_text()))
    try:
        packages = _choose(wanted)
    except PackageError:
        print("image: refreshing the list of Debian packages", file=sys.stderr)
        _run("apt-get", "-qq", "update")
        packages = _choose(wanted)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(packages, indent=1, sort_keys=True) + "\n")
    return packages


def download(packages: Mapping[str, str], into: Path) -> list[Path]:
    """Give the package files; those not there yet are downloaded."""
    into.mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not _file_of(name, packages[name], into).exists()]
    if missing:
        print(f"image: downloading {len(missing)} Debian packages", file=sys.stderr)
        wanted = [f"{name}={packages[name]}" for name in missing]
        # As root: apt's own user cannot write into the cache folder.
        _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *wanted, folder=into)
    return [_file_of(name, packages[name], into) for name in sorted(packages)]


def unpack(package_files: Sequence[Path], into: Path) -> None:
    """Unpack all of them into one tree."""
    for package in package_files:
        _run("dpkg-deb", "--extract", str(package), str(into))


def _choose(wanted: Wanted) -> dict[str, str]:
    [of_series] = _show({KERNEL})
    kernel = next(name for name in of_series.depends if name.startswith("linux-image-"))
    packages = {shown.name: shown.version for shown in _show({kernel, *wanted.alone})}
    pending = set(wanted.with_libraries)
    while pending:
        found = _show(pending)
        packages |= {shown.name: shown.version for shown in found}
        needed = {name for shown in found for name in shown.depends}
        pending = {name for name in needed if name.startswith(LIBRARY_NAMES)} - packages.keys()
    return packages


class _Shown:
    """What `apt-cache show` says of a package that can be downloaded."""

    def __init__(self, stanza: str) -> None:
        self._fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
        self.name: str = self._fields["Package"]
        self.version: str = self._fields["Version"]

    @property
    def depends(self) -> Iterator[str]:
        """First alternative of each dependency, without versions."""
        both = (self._fields.get(key, "") for key in ("Pre-Depends", "Depends"))
        return (item.split()[0].split(":")[0] for item in ",".join(both).split(",") if item.strip())


def _show(names: Iterable[str]) -> list[_Shown]:
    """Ask apt about packages, in one call: each takes it half a second."""
    stanzas = _run("apt-cache", "show", *(f"{name}:{ARCHITECTURE}" for name in sorted(names)))
    # The newest comes first; one without a file name is installed and no longer to be had.
    found = [_Shown(each) for each in stanzas.split("\n\n") if "\nFilename: " in each]
    newest = {shown.name: shown for shown in reversed(found)}
    if absent := set(names) - newest.keys():
        raise PackageError(f"apt has no package {', '.join(sorted(absent))} to download")
    return list(newest.values())


def _file_of(name: str, version: str, folder: Path) -> Path:
    found = folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")
    return next(found, folder / "missing")


def _run(*command: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-3:]
        raise PackageError(f"{' '.join(command[:3])} failed: {' '.join(said)}") from error
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is missing: the image is made on Debian") from error
    return done.stdout
