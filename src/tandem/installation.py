"""This installation of Tandem: its version, and the digest of its source that launches measure.

A host measures it into each launch and, where its pTPM is the embedded one, into that; a verifier
that has the same version installed knows by it what the builder should be.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import tandem

NOT_INSTALLED: Final = "0"  # run from its source
MEASURED: Final = (".py", ".toml")  # and the table by which the gate before the pTPM goes


def installed_version() -> str:
    """Give the installed version."""
    try:
        return version("tandem")
    except PackageNotFoundError:
        return NOT_INSTALLED


def source_digest() -> bytes:
    """Give the SHA-256 over path and content of each source file, each with its length first."""
    root = Path(tandem.__path__[0])
    state = hashlib.sha256()
    for path in sorted(each for each in root.rglob("*") if each.suffix in MEASURED):
        for part in (path.relative_to(root).as_posix().encode(), path.read_bytes()):
            state.update(len(part).to_bytes(8) + part)
    return state.digest()
