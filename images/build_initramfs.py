"""Make the guest image: Debian's cloud kernel, and an initramfs with tpm2-tools and the attester.

`python images/build_initramfs.py` prints the folder that holds `vmlinuz` and `initramfs.cpio`, and
links it as `.cache/images/current`.  The folder is named for a digest of everything that went in;
the same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from debian import PackageError, Wanted, chosen_packages, download, unpack
from making import make_current
from tandem.errors import TandemError
from tandem.images.cpio import Entry, archive, character_device, directory, file, link
from tandem.images.tree import kernel_modules, library_entries, loader, shell_entries

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / ".cache" / "images"
HERE: Final = ROOT / "images"
ATTESTER: Final = ROOT / "src" / "tandem" / "attester"
SOURCES: Final = ("build_initramfs.py", "debian.py", "guest_python.py", "making.py")
SHARED: Final = ROOT / "src" / "tandem" / "images"
PACKAGES: Final = Wanted(
    with_libraries=("tpm2-tools", "python3.11-minimal", "libtss2-tcti-device0"),
    alone=("busybox-static", "libpython3.11-stdlib"),  # the latter for json and shutil only
)

PYTHON: Final = "usr/bin/python3.11"
PYTHON_HOME: Final = "usr/lib/python3.11"
PROGRAMS: Final = ("usr/bin/tpm2", PYTHON)
LOADED_LATER: Final = ("libtss2-tcti-device.so.0",)  # by dlopen, so no program names it
MODULES: Final = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "drivers/block/virtio_blk",
    "fs/efivarfs/efivarfs",
    "drivers/acpi/button",
    "drivers/input/evdev",
    "drivers/misc/pvpanic/pvpanic",
    "drivers/misc/pvpanic/pvpanic-mmio",
)  # a kernel that has one built in has no file for it
EMPTY_FOLDERS: Final = ("dev", "proc", "root", "run", "sys", "tmp", "var/log", "var/run")
PLACES: Final = {  # of the files in guest/
    "init": "init",
    "inittab": "etc/inittab",
    "profile": "etc/profile",
    "power-button": "etc/acpi/PWRF/00000080",  # the name that busybox's acpid looks for
}
HOST_ERROR_STATUS: Final = 3


def main() -> int:
    """Make the image unless it is there, and print its folder."""
    packages = chosen_packages(CACHE / "packages.json", PACKAGES)
    name = digest_of_inputs(packages)
    make_current(CACHE, name, "the guest image", lambda image: build(packages, image))
    return 0


def digest_of_inputs(packages: Mapping[str, str]) -> str:
    """Give the name of the image that these packages and the present sources make."""
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode())
    own = [*(HERE / name for name in SOURCES), SHARED / "cpio.py", SHARED / "tree.py"]
    for source in sorted([*own, *HERE.glob("guest/*"), *ATTESTER.glob("*.py")]):
        digest.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def build(packages: Mapping[str, str], image: Path) -> None:
    """Make the image in a folder of its own, name it when it is whole, and drop older ones."""
    package_files = download(packages, CACHE.parent / "debs")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        made.mkdir()
        unpack(package_files, tree)
        [kernel] = tree.glob("boot/vmlinuz-*")
        (made / "vmlinuz").write_bytes(kernel.read_bytes())
        (made / "initramfs.cpio").write_bytes(archive(guest_entries(tree)))
        (made / "packages.json").write_text(json.dumps(packages, indent=1, sort_keys=True) + "\n")
        made.rename(image)
    for older in CACHE.glob("*/initramfs.cpio"):
        if older.parent != image and not older.parent.is_symlink():
            shutil.rmtree(older.parent)


def guest_entries(tree: Path) -> Iterator[Entry]:
    """Give every file of the guest, taken from the tree of unpacked packages."""
    yield from map(directory, EMPTY_FOLDERS)
    yield character_device("dev/console", 5, 1)  # the kernel opens it before anything is mounted
    for source, path in PLACES.items():
        yield file(path, (HERE / "guest" / source).read_bytes(), executable=True)
    yield from shell_entries(tree)
    yield from module_entries(tree)
    for program in PROGRAMS:
        yield file(program, (tree / program).read_bytes(), executable=True)
    for tool in (tree / "usr/bin").glob("tpm2_*"):
        yield link(f"usr/bin/{tool.name}", "tpm2")
    yield link("usr/bin/python3", Path(PYTHON).name)
    python_files = list(python_entries(tree))
    yield from python_files
    extensions = (each.path for each in python_files if ".so" in each.path)
    yield from library_entries(
        tree, [tree / path for path in (*PROGRAMS, *extensions)], LOADED_LATER
    )


def module_entries(tree: Path) -> Iterator[Entry]:
    """Give the kernel modules of the guest's devices, where they are not built in."""
    for module in MODULES:
        path = kernel_modules(tree) / f"{module}.ko"
        if path.exists():
            yield file(f"lib/modules/{path.name}", path.read_bytes())


def python_entries(tree: Path) -> Iterator[Entry]:
    """Give the attester and the modules that it imports, compiled by the guest's interpreter."""
    with tempfile.TemporaryDirectory(dir=tree) as folder:
        Path(folder, "tandem_attester").symlink_to(ATTESTER)
        output = Path(folder, "output")
        environment: dict[str, str] = {
            "PYTHONHOME": str(tree / "usr"),
            "PYTHONPATH": folder,
            "PYTHONHASHSEED": "0",  # so that sets are written in one order
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command: list[str | Path] = [tree / PYTHON, "-S", HERE / "guest_python.py", output]
        subprocess.run(loader(tree) + command, env=environment, check=True)
        for path in output.rglob("*"):
            if path.is_file():
                yield file(f"{PYTHON_HOME}/{path.relative_to(output)}", path.read_bytes())


if __name__ == "__main__":
    os.umask(0o022)
    try:
        sys.exit(main())
    except (PackageError, TandemError) as error:
        print(f"image: {error}", file=sys.stderr)
        sys.exit(HOST_ERROR_STATUS)
