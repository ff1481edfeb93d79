"""The guest of the campaign: a few hundred bytes of our own, assembled from `guest/`.

It boots in a sixth of a second under TCG, most of which is SeaBIOS.  It is made once for its
sources, and kept in `.cache/kills`.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tandem.errors import HostError

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = Path(__file__).resolve().parent / "guest"
CACHE: Final = ROOT / ".cache" / "kills"
SECTOR: Final = 512
SETUP_SECTORS: Final = 15  # beside the first; the loader copies them whole (boot.rst, setup_sects)
NO_PROTECTED_HALF: Final = b"\xf4" * SECTOR  # hlt; never reached, but a bzImage has one
COMPILER: Final = ("gcc", "-m16", "-march=i386", f"-DSETUP_SECTORS={SETUP_SECTORS}")
FREESTANDING: Final = (
    *("-Os", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror"),
)


def kernel() -> Path:
    """Give the guest's bzImage, made now if there is none of these sources."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    image = CACHE / f"{digest.hexdigest()[:16]}.bzImage"
    if not image.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            new = Path(folder) / image.name
            new.write_bytes(bzimage(_setup_code(Path(folder))))
            new.rename(image)
    return image


def bzimage(setup: bytes) -> bytes:
    """Pad the real-mode half to its sectors, and append a protected-mode half."""
    room = (SETUP_SECTORS + 1) * SECTOR
    if len(setup) > room:
        raise ValueError(f"the guest has {len(setup)} bytes, more than {room}")
    return setup.ljust(room, b"\0") + NO_PROTECTED_HALF


def _setup_code(folder: Path) -> bytes:
    """Compile, link and give the flat image of the one segment."""
    objects = [folder / "entry.o", folder / "guest.o"]
    _run(*COMPILER, "-c", SOURCES / "entry.S", "-o", objects[0])
    _run(*COMPILER, *FREESTANDING, "-c", SOURCES / "guest.c", "-o", objects[1])
    linked, flat = folder / "guest.elf", folder / "guest.bin"
    _run("ld", "-m", "elf_i386", "--no-warn-rwx-segments", "-T", SOURCES / "guest.ld",
         *objects, "-o", linked)  # fmt: skip
    _run("objcopy", "-O", "binary", linked, flat)
    return flat.read_bytes()


def _run(*words: str | Path) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError(
            "TDM-KILLS-NO-COMPILER", f"{words[0]} is missing", hint="apt-get install gcc binutils"
        ) from error
    if done.returncode != 0:
        raise HostError(
            "TDM-KILLS-NOT-COMPILED",
            f"{words[0]} failed: {done.stderr.strip()[-400:]}",
            hint="see kills/guest",
        )
