"""Variable stores that a source names: copied into the library with their boot entries preset."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from tandem.builder.inputs import read_small
from tandem.cli.library_files import BLOBS, MAX_PATH, LibraryFiles
from tandem.errors import HostError
from tandem.evidence.strict_json import Place
from tandem.evidence.variable_preset import is_program, preset_boot
from tandem.evidence.variable_store import MAX_STORE

REMOVABLE: Final = r"\EFI\BOOT\BOOTX64.EFI"  # where every UEFI firmware looks at last
MAX_PROGRAMS: Final = 16


def take_variables(place: Place, programs: Place, files: LibraryFiles) -> dict[str, object]:
    """Give a store as a manifest has it, with the boot entries that `programs` lists."""
    paths = []
    for each in programs.items(MAX_PROGRAMS):
        if not is_program(each.text()):
            each.refuse(f"not the path of a program on an EFI system partition, as '{REMOVABLE}'")
        paths.append(each.text())
    if not paths:
        return files.take(place)
    # What a user names may be a link; what is signed is a plain file.
    path = (files.directory / place.text(MAX_PATH)).resolve()
    made = preset_boot(read_small(path, MAX_STORE), paths)
    sha256 = hashlib.sha256(made)
    within = Path(BLOBS, sha256.hexdigest()[:16], path.name)
    if files.copies:
        _write(files.directory / within, made)
    return {
        "path": str(within),
        "size": len(made),
        "sha256": sha256.hexdigest(),
        "sha384": hashlib.sha384(made).hexdigest(),
    }


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise HostError(
            "TDM-LIBRARY-FILE",
            f"cannot write {path}: {error.strerror}",
            hint="make room below the library",
        ) from error
