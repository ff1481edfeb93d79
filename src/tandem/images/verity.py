"""dm-verity by cryptsetup's veritysetup: a file system image that its root hash protects."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError
from tandem.images.running import run

BLOCK: Final = 4096  # bytes; of data and of the hash tree
_ROOT_HASH: Final = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Verity:
    """How the image is opened: nothing else has to be trusted."""

    root_hash: str  # SHA-256, hexadecimal
    hash_offset: int  # bytes of data before the hash tree


def is_intact(image: Path, verity: Verity) -> bool:
    """Whether every byte of the image is what its root hash vouches for."""
    options = (f"--hash-offset={verity.hash_offset}", verity.root_hash)
    try:
        run("veritysetup", "verify", str(image), str(image), *options)
    except HostError as error:
        if error.code == "TDM-IMAGE-FAILED":
            return False
        raise
    return True


def protect(image: Path) -> Verity:
    """Append the hash tree to an image, in place; the same image gives the same bytes.

    Salt and UUID come from the content: they need not be secret, only be the same again.
    """
    with image.open("r+b") as file:
        file.truncate(-(-file.seek(0, 2) // BLOCK) * BLOCK)
    offset = image.stat().st_size
    with image.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
    said = run(
        *("veritysetup", "format", str(image), str(image)),
        *(f"--hash-offset={offset}", "--hash=sha256", f"--salt={content.hex()}"),
        f"--uuid={uuid.UUID(bytes=content[:16])}",
        *(f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}"),
        f"--data-blocks={offset // BLOCK}",
    )
    found = _ROOT_HASH.search(said)
    if found is None:
        raise HostError(
            "TDM-IMAGE-NO-ROOT-HASH",
            "veritysetup gave no root hash",
            hint="install Debian's cryptsetup-bin",
        )
    return Verity(root_hash=found.group(1), hash_offset=offset)
