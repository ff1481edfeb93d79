"""Tree of unpacked packages: what an image takes from it, with all that this needs to run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tandem.errors import HostError
from tandem.images.cpio import Entry, file, link

LIBRARIES: Final = "lib/x86_64-linux-gnu"
LOADER: Final = "lib64/ld-linux-x86-64.so.2"
OWN_FOLDERS: Final = ("systemd", "swtpm")  # below the others, of programs that look there, too


def shell_entries(tree: Path) -> Iterator[Entry]:
    """Give busybox under every name that it answers to."""
    busybox = tree / "bin" / "busybox"
    yield file("bin/busybox", busybox.read_bytes(), executable=True)
    names = subprocess.run(  # noqa: S603 - of a package that apt has checked
        [busybox, "--list"], capture_output=True, text=True, check=True
    )
    for name in names.stdout.split():
        if name != "busybox":
            yield link(f"bin/{name}", "busybox")


def library_entries(
    tree: Path, binaries: Iterable[Path], loaded_later: Sequence[str]
) -> Iterator[Entry]:
    """Give the loader and every library that binaries need; no program names those loaded later."""
    needed = set(loaded_later)
    for binary in [*binaries, *(library_path(tree, name) for name in loaded_later)]:
        command = [*loader(tree), "--list", binary]
        done = subprocess.run(  # noqa: S603 - the tree's own loader
            command, capture_output=True, text=True, check=True
        )
        needed |= set(re.findall(r"^\s*([^/\s]+) => ", done.stdout, re.MULTILINE))
    yield file(LOADER, (tree / LOADER).read_bytes(), executable=True)
    for name in sorted(needed - {Path(LOADER).name}):
        yield file(f"{LIBRARIES}/{name}", library_path(tree, name).read_bytes())


def library_path(tree: Path, name: str) -> Path:
    """Find a library in one of the folders where Debian's packages put them."""
    for folder in _library_folders(tree):
        if (folder / name).exists():
            return folder / name
    raise HostError(
        "TDM-IMAGE-LIBRARY-MISSING",
        f"no package of the image has the library {name}",
        hint="add the package that has it to the image's",
    )


def loader(tree: Path) -> list[str | Path]:
    """Give the command that starts a program of the tree with the libraries of the tree."""
    return [tree / LOADER, "--library-path", ":".join(map(str, _library_folders(tree)))]


def kernel_modules(tree: Path) -> Path:
    """Give the folder of the kernel's modules."""
    [modules] = tree.glob("lib/modules/*/kernel")
    return modules


def _library_folders(tree: Path) -> list[Path]:
    folders = [tree / LIBRARIES, tree / "usr" / LIBRARIES]
    return [*folders, *(folder / name for folder in folders for name in OWN_FOLDERS)]
