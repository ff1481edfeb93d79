"""Initramfs that opens a dm-verity root: busybox, veritysetup and the modules that both need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

from tandem.images.cpio import Entry, archive, character_device, directory, file
from tandem.images.tree import library_entries, shell_entries

MODULES: Final = ("virtio_pci", "virtio_blk", "dm-verity", "squashfs", "overlay")
EMPTY_FOLDERS: Final = ("dev", "proc", "run", "sys", "tmp")
VERITYSETUP: Final = "usr/sbin/veritysetup"


def verity_initramfs(tree: Path) -> bytes:
    """Give the archive, made of a tree that has the packages it takes; always the same bytes."""
    return archive(_entries(tree))


def _entries(tree: Path) -> Iterator[Entry]:
    yield from map(directory, EMPTY_FOLDERS)
    yield character_device("dev/console", 5, 1)  # the kernel opens it before anything is mounted
    init = resources.files(__package__).joinpath("verity.sh").read_bytes()
    yield file("init", init, executable=True)
    yield from shell_entries(tree)
    yield file(VERITYSETUP, (tree / VERITYSETUP).read_bytes(), executable=True)
    yield from library_entries(tree, [tree / VERITYSETUP], ())
    yield from _module_entries(tree)


def _module_entries(tree: Path) -> Iterator[Entry]:
    """Give the modules and their order: each after those it needs; one built in has no file."""
    [modules] = (tree / "lib/modules").iterdir()
    order = list(dict.fromkeys(module_order((modules / "modules.dep").read_text(), MODULES)))
    for path in order:
        yield file(f"lib/modules/{Path(path).name}", (modules / path).read_bytes())
    names = "".join(f"{Path(path).stem}\n" for path in order)
    yield file("lib/modules/order", names.encode())


def module_order(dependencies: str, wanted: tuple[str, ...]) -> Iterator[str]:
    """Give the files to load for some modules, in order, from a `modules.dep` (depmod(8))."""
    known: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        path, _, needs = line.partition(":")
        known[Path(path).stem.replace("-", "_")] = [path, *needs.split()]
    for name in wanted:
        yield from reversed(known.get(name.replace("-", "_"), []))
