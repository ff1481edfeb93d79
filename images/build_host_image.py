"""Make the image of a host: Debian's cloud kernel, Python, Tandem itself, and TPM tools to try it.

`python images/build_host_image.py` prints the folder that holds `vmlinuz` and `initramfs.cpio`, and
links it as `.cache/host-images/current`.  Tandem and the packages of `.venv` are those of this
source tree.  Whatever is not Tandem is kept by a digest of its inputs, so a changed line of Tandem
costs two seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from debian import PackageError, Wanted, chosen_packages, download, unpack
from making import make_current
from tandem.errors import TandemError
from tandem.images.cpio import Entry, archive, character_device, directory, file, link
from tandem.images.tree import kernel_modules, library_entries, shell_entries
from tandem.installation import MEASURED

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / ".cache" / "host-images"
HERE: Final = ROOT / "images"
TANDEM: Final = ROOT / "src"
SOURCES: Final = ("build_host_image.py", "debian.py", "making.py")
SHARED: Final = ROOT / "src" / "tandem" / "images"
PACKAGES: Final = Wanted(
    with_libraries=(
        *("python3.11-minimal", "libpython3.11-stdlib", "libtpms0", "libseccomp2"),
        *("tpm2-tools", "libtss2-tcti-device0", "swtpm", "swtpm-libs", "swtpm-tools"),
        *("gnutls-bin", "systemd", "cryptsetup-bin"),
    ),
    alone=("busybox-static", "libc-bin"),
)
PYTHON: Final = "usr/bin/python3.11"
PYTHON_HOME: Final = "usr/lib/python3.11"
PYTHON_VERSION: Final = (3, 11)
PROGRAMS: Final = (
    *(PYTHON, "usr/bin/tpm2", "usr/bin/swtpm", "usr/bin/swtpm_setup", "usr/bin/swtpm_cert"),
    *("usr/bin/swtpm_localca", "usr/bin/certtool", "usr/bin/systemd-cryptenroll"),
    *("lib/systemd/systemd-cryptsetup", "sbin/cryptsetup", "sbin/ldconfig"),
)
PLUGINS: Final = (  # by which libcryptsetup opens what systemd-cryptenroll enrolled
    "usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so",
)
LOADED_LATER: Final = (  # by dlopen, so no program names them
    *("libtss2-tcti-device.so.0", "libtss2-esys.so.0", "libtss2-rc.so.0", "libtss2-mu.so.0"),
    *("libtpms.so.0", "libseccomp.so.2", "libcryptsetup.so.12", "libgcc_s.so.1"),
)
WITHOUT: Final = (  # what is large and nothing here imports
    *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "unittest", "turtledemo"),
    "__pycache__",
)
PYTHON_PACKAGES: Final = (
    *("cbor2", "cffi", "cryptography", "pycparser", "pyseccomp", "qemu.qmp", "securesystemslib"),
    "tpm2-pytss",
)
PYTHON_MODULES: Final = (
    *("_cffi_backend*", "cbor2", "cffi", "cryptography", "pycparser", "pyseccomp.py", "qemu"),
    *("securesystemslib", "tpm2_pytss"),
)
MODULES: Final = (
    *("virtio_pci", "virtio_blk", "loop", "dm-crypt", "algif_skcipher", "ecb", "xts"),
    "tpm_vtpm_proxy",
)
EMPTY_FOLDERS: Final = ("boot", "dev", "proc", "root", "run", "sys", "tmp", "var/lib", "var/tmp")
PLACES: Final = {
    "host/init": "init",
    "host/profile": "etc/profile",
    "host/passwd": "etc/passwd",
    "host/tandem": "usr/bin/tandem",
    "guest/inittab": "etc/inittab",
}
HOST_ERROR_STATUS: Final = 3


def main() -> int:
    """Make the image unless it is there, and print its folder."""
    if sys.version_info[:2] != PYTHON_VERSION:
        raise PackageError("the image has Debian's Python 3.11: make .venv with that one")
    packages = chosen_packages(CACHE / "packages.json", PACKAGES)
    name = digest_of_inputs(packages)
    make_current(CACHE, name, "the image of a host", lambda image: build(packages, image))
    return 0


def digest_of_inputs(packages: Mapping[str, str], *, tandem: bool = True) -> str:
    """Give the name of the image that packages and present sources make, or of all but Tandem."""
    pinned = {name: version(name) for name in PYTHON_PACKAGES}
    digest = hashlib.sha256(json.dumps([packages, pinned], sort_keys=True).encode())
    files = [HERE / name for name in (*SOURCES, *PLACES)]
    files += [SHARED / "cpio.py", SHARED / "tree.py"]
    if tandem:
        files += sorted(each for each in TANDEM.rglob("*") if each.suffix in MEASURED)
    for source in files:
        name = str(source.relative_to(ROOT)).encode()
        digest.update(name + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def build(packages: Mapping[str, str], image: Path) -> None:
    """Make the image in a folder of its own, name it when it is whole, and drop older ones."""
    base = CACHE / f"base-{digest_of_inputs(packages, tandem=False)}"
    if not base.exists():
        build_base(packages, base)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder, "made")
        made.mkdir()
        shutil.copyfile(base / "vmlinuz", made / "vmlinuz")
        with (made / "initramfs.cpio").open("wb") as initramfs:  # archives follow one another
            initramfs.write((base / "initramfs.cpio").read_bytes())
            initramfs.write(archive(tandem_entries()))
        made.rename(image)
    for older in (path.parent for path in CACHE.glob("*/initramfs.cpio")):
        if older not in (image, base) and not older.is_symlink():
            shutil.rmtree(older)


def build_base(packages: Mapping[str, str], base: Path) -> None:
    """Make all of the image that is not Tandem."""
    package_files = download(packages, CACHE.parent / "debs")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        made.mkdir()
        unpack(package_files, tree)
        [kernel] = tree.glob("boot/vmlinuz-*")
        (made / "vmlinuz").write_bytes(kernel.read_bytes())
        (made / "initramfs.cpio").write_bytes(archive(base_entries(tree, kernel)))
        made.rename(base)


def base_entries(tree: Path, kernel: Path) -> Iterator[Entry]:
    """Give every file that is not Tandem's, taken from the tree of packages and from `.venv`."""
    yield from map(directory, EMPTY_FOLDERS)
    yield character_device("dev/console", 5, 1)  # the kernel opens it before anything is mounted
    for source, path in PLACES.items():
        yield file(path, (HERE / source).read_bytes(), executable=True)
    yield file(f"boot/{kernel.name}", kernel.read_bytes())  # what a host's own vTPM measures
    yield from shell_entries(tree)
    yield from module_entries(tree)
    for plugin in PLUGINS:
        yield file(plugin.removeprefix("usr/"), (tree / plugin).read_bytes())
    for program in PROGRAMS:
        yield file(program, (tree / program).read_bytes(), executable=True)
    for tool in (tree / "usr/bin").glob("tpm2_*"):
        yield link(f"usr/bin/{tool.name}", "tpm2")
    yield link("usr/bin/python3", Path(PYTHON).name)
    standard = list(compiled(tree / PYTHON_HOME, PYTHON_HOME))
    yield from standard
    packages = Path(sysconfig.get_path("purelib"))
    for pattern in PYTHON_MODULES:
        for found in packages.glob(pattern):
            yield from compiled(found, f"{PYTHON_HOME}/{found.name}")
    extensions = [
        *(tree / PYTHON_HOME).rglob("*.so"),
        *(so for pattern in PYTHON_MODULES for so in packages.glob(f"{pattern}/**/*.so")),
    ]
    binaries = [tree / program for program in (*PROGRAMS, *PLUGINS)]
    yield from library_entries(tree, [*binaries, *extensions], LOADED_LATER)


def tandem_entries() -> Iterator[Entry]:
    """Give Tandem: its source, whose digest each launch measures, and the same compiled."""
    yield from compiled(TANDEM / "tandem", f"{PYTHON_HOME}/tandem")
    installed = f"Metadata-Version: 2.1\nName: tandem\nVersion: {version('tandem')}\n"
    yield file(f"{PYTHON_HOME}/tandem.dist-info/METADATA", installed.encode())


def module_entries(tree: Path) -> Iterator[Entry]:
    """Give the kernel modules that are not built in, and their order: each after those it needs."""
    paths = {path.stem.replace("-", "_"): path for path in kernel_modules(tree).rglob("*.ko")}
    order: list[str] = []
    for name in MODULES:
        _add_module(name.replace("-", "_"), paths, order)
    for name in order:
        yield file(f"lib/modules/{name}.ko", paths[name].read_bytes())
    yield file("lib/modules/order", "".join(f"{name}\n" for name in order).encode())


def _add_module(name: str, paths: Mapping[str, Path], order: list[str]) -> None:
    if name in order or name not in paths:  # what has no file is built in
        return
    for needed in _needed(paths[name]):
        _add_module(needed, paths, order)
    order.append(name)


def _needed(module: Path) -> Iterable[str]:
    """Give the modules that a module says it depends on (its .modinfo section)."""
    _, _, rest = module.read_bytes().partition(b"\0depends=")
    names = rest.partition(b"\0")[0].decode()
    return (name.replace("-", "_") for name in names.split(",") if name)


def compiled(source: Path, place: str) -> Iterator[Entry]:
    """Give a file, or all files of a folder, Python's with their compiled form beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for path in _files(source):
            at = f"{place}/{path.relative_to(source)}" if path != source else place
            yield file(at, path.read_bytes())
            if path.suffix == ".py":
                made = Path(folder, "made.pyc")
                _compile(path, made, f"/{at}")
                parent, _, name = at.rpartition("/")
                cached = f"{parent}/__pycache__/{name.removesuffix('.py')}.cpython-311.pyc"
                yield file(cached, made.read_bytes())


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for path in sorted(source.rglob("*")):
        within = path.relative_to(source).parts
        if path.is_file() and not any(part in WITHOUT for part in within):
            yield path


def _compile(source: Path, output: Path, shown: str) -> None:
    """Compile a module; the image does not look again whether its source has changed."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(output), shown, doraise=True, invalidation_mode=mode)


if __name__ == "__main__":
    os.umask(0o022)
    try:
        sys.exit(main())
    except (PackageError, TandemError, subprocess.CalledProcessError) as error:
        print(f"image: {error}", file=sys.stderr)
        sys.exit(HOST_ERROR_STATUS)
