"""A bootable guest of Debian's packages: kernel, initramfs, and a root that dm-verity protects.

The folder of an image has `vmlinuz`, `initramfs.cpio`, `root.img` and `made.json`, which says what
it was made of.  The same recipe and the same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from tandem.errors import HostError, UsageError
from tandem.images.debian_tree import Recipe, attester_files, make_tree
from tandem.images.initramfs import verity_initramfs
from tandem.images.running import Telling, require_programs, run
from tandem.images.verity import Verity, is_intact, protect

KERNEL: Final = "vmlinuz"
INITRAMFS: Final = "initramfs.cpio"
ROOT: Final = "root.img"
MADE: Final = "made.json"
CONSOLE: Final = "console=ttyS0"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A folder with an image, and how its root is opened."""

    folder: Path
    verity: Verity
    packages: dict[str, str]  # versions
    is_new: bool

    @property
    def command_line(self) -> str:
        """What the kernel must be told, and a launch therefore measures."""
        verity = self.verity
        options = f"tandem.roothash={verity.root_hash} tandem.hashoffset={verity.hash_offset}"
        return f"{CONSOLE} {options}"


def build(recipe: Recipe, folder: Path, cache: Path, tell: Telling, *, refresh: bool) -> Image:
    """Give the recipe's image in `folder`; it is made unless it is there, or `refresh` says so.

    HostError where a program fails or there is no room; what was there before stays then.
    """
    inputs = digest_of_inputs(recipe)
    if not refresh and (known := _known(folder, inputs)) is not None:
        return known
    require_programs()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as work:
            tree, made = Path(work, "tree"), Path(work, "made")
            made.mkdir(mode=0o755)
            tell("installing packages")
            packages = make_tree(recipe, tree, cache, tell)
            image = _assemble(tree, made, packages, tell)
            _write_made(image, inputs)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    except OSError as error:
        raise HostError(
            "TDM-IMAGE-NOT-WRITTEN",
            f"cannot make the image in {folder}: {error.strerror}",
            hint="it takes about 1 GiB there while it is made, a quarter of that afterwards",
        ) from error
    return Image(folder=folder, verity=image.verity, packages=packages, is_new=True)


def digest_of_inputs(recipe: Recipe) -> str:
    """Give a digest of all that decides what is made, but the versions that apt has today."""
    digest = hashlib.sha256()
    fields = {**asdict(recipe), "overlay": None}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    own = [each for each in resources.files(__package__).iterdir() if each.is_file()]
    files = {each.name: each.read_bytes() for each in own}
    files |= {f"attester/{name}": content for name, content in attester_files().items()}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    if recipe.overlay is not None:
        for line in _overlay_lines(recipe.overlay):
            digest.update(line)
    return digest.hexdigest()


def _assemble(tree: Path, made: Path, packages: dict[str, str], tell: Telling) -> Image:
    tell("writing kernel and initramfs")
    shutil.copyfile(only_kernel(tree), made / KERNEL)
    (made / INITRAMFS).write_bytes(verity_initramfs(tree))
    tell("writing the file system")
    root = made / ROOT
    run(
        *(
            "mksquashfs",
            str(tree),
            str(root),
            "-comp",
            "zstd",
            "-Xcompression-level",
            "3",
            "-noappend",
            "-no-progress",
        ),
        *("-quiet", "-mkfs-time", "0", "-wildcards", "-e", "boot/*", "proc/*", "sys/*", "dev/*"),
    )
    tell("protecting it with dm-verity")
    return Image(folder=made, verity=protect(root), packages=packages, is_new=True)


def only_kernel(tree: Path) -> Path:
    """Give the kernel of a tree, which decides what the initramfs has; one of two is nobody's."""
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        names = ", ".join(kernel.name for kernel in kernels) or "no kernel"
        raise UsageError(
            "TDM-IMAGE-KERNELS",
            f"the packages bring {names}, and a guest boots from one kernel",
            hint="leave packages of kernels out of --package: there is one already",
        )
    return kernels[0]


def _write_made(image: Image, inputs: str) -> None:
    fields = {"inputs": inputs, "verity": asdict(image.verity), "packages": image.packages}
    text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
    (image.folder / MADE).write_text(text)


def _known(folder: Path, inputs: str) -> Image | None:
    """Give the image that is there, where it was made of the same inputs."""
    try:
        fields = json.loads((folder / MADE).read_text())
        if fields["inputs"] != inputs:
            return None
        verity = Verity(**fields["verity"])
        packages = dict(fields["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all((folder / name).is_file() for name in (KERNEL, INITRAMFS, ROOT)):
        return None
    if not is_intact(folder / ROOT, verity):
        return None
    return Image(folder=folder, verity=verity, packages=packages, is_new=False)


def _overlay_lines(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        line = f"{path.relative_to(folder)} {status.st_mode}\0"
        yield line.encode(errors="surrogateescape")
        if path.is_symlink():
            yield os.readlink(path).encode(errors="surrogateescape")
        elif path.is_file():
            yield hashlib.sha256(path.read_bytes()).digest()
