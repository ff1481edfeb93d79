"""Library of domains: the signed manifest read, its signature checked, its entry found."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.inputs import InputStore, opened, read_descriptor, read_small
from tandem.errors import HostError, Refused, UsageError
from tandem.evidence.envelope import MAX_ENVELOPE, PublicKey, open_envelope, parse_public_key
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.manifest import PAYLOAD_TYPE, Manifest, OnceEntry, parse_manifest
from tandem.evidence.strict_toml import parse_toml

MANIFEST: Final = "library.dsse.json"
KEYS: Final = "keys"
TRUST: Final = "trust.toml"  # beside the keys
MAX_KEY_FILE: Final = 4096
MAX_TRUST_FILE: Final = 64 * 1024
WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True)
class Library:
    """A manifest whose signature holds, where its files are, and who signed it."""

    directory: Path
    manifest: Manifest
    key_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The keys that a host trusts for its libraries, and how many of them must have signed one."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    def beside(self, keys: Sequence[PublicKey]) -> Trust:
        """Trust these keys, too: for one start, as whoever asks for it says."""
        return Trust(keys=(*self.keys, *keys), threshold=self.threshold)


def open_library(path: Path, trust: Trust, *, complete: bool = True) -> Library:
    """Read and verify a signed manifest: enough of the host's keys, and of its own, signed it.

    Without `complete` one trusted signature is enough: to look at it, not to start from it.
    """
    if not os.path.exists(path):  # Path.exists would raise for a name that is too long
        raise HostError(
            "TDM-LIBRARY-MISSING",
            f"there is no signed library at {path}",
            hint="write its source with `tandem library init` and sign it with `library sign`",
        )
    if not trust.keys:
        raise Refused(
            "TDM-LIBRARY-NO-KEY",
            "this host trusts no key for libraries",
            hint="have it trust the key of who signs them: tandem library trust KEY.pub",
        )
    data = read_small(path, MAX_ENVELOPE)
    opened = open_envelope(data, PAYLOAD_TYPE, trust.keys, trust.threshold if complete else 1)
    manifest = parse_manifest(opened.payload)
    if complete:
        manifest.require_signed_by(opened.key_ids)
    return Library(directory=path.parent, manifest=manifest, key_ids=opened.key_ids)


def read_trust(directory: Path) -> Trust:
    """Read what the host trusts: `*.pub` and `trust.toml`, which only root may change.

    So is the folder: whoever may take a file out of it takes out the threshold.
    """
    if not directory.is_dir():
        return Trust(keys=())
    _require_roots(directory, os.stat(directory))
    keys = [
        parse_public_key(_read_trusted(path, MAX_KEY_FILE))
        for path in sorted(directory.glob("*.pub"))
    ]
    chosen = directory / TRUST
    threshold = 1
    if os.path.lexists(chosen):
        threshold = parse_trust(_read_trusted(chosen, MAX_TRUST_FILE), len(keys))
    return Trust(keys=tuple(keys), threshold=threshold)


def parse_trust(data: bytes, keys: int) -> int:
    """Read how many of `keys` keys must sign: `threshold = K`, and nothing else."""
    root = parse_toml(data, f"{KEYS}/{TRUST}", "TDM-LIBRARY-TRUST-BAD", MAX_TRUST_FILE)
    return root.fields(("threshold",))["threshold"].integer(1, max(keys, 1))


def _read_trusted(path: Path, limit: int) -> bytes:
    with opened(path.parent, path.name) as descriptor:
        _require_roots(path, os.fstat(descriptor))
        return read_descriptor(descriptor, path, limit)


def _require_roots(path: Path, status: os.stat_result) -> None:
    if status.st_uid != 0 or status.st_mode & WRITABLE_BY_OTHERS:
        raise Refused(
            "TDM-LIBRARY-KEY-WRITABLE",
            f"others than root may change {path}, which says whose libraries this host trusts",
            hint=f"chown root {path} && chmod go-w {path}",
        )


def guest_entry(library: Library, name: str) -> GuestEntry:
    """Find an entry that guests are built from."""
    entry = library.manifest.entries.get(name)
    if isinstance(entry, GuestEntry):
        return entry
    guests = [each for each, kind in library.manifest.entries.items()
              if isinstance(kind, GuestEntry)]  # fmt: skip
    problem = "is a build-once entry" if entry else "is not in the library"
    raise UsageError(
        "TDM-ENTRY-UNKNOWN",
        f"{name} {problem}",
        hint=f"guests can be built from: {', '.join(guests) or 'nothing yet'}",
    )


def check_built_once(library: Library, inputs: InputStore) -> None:
    """Refuse a library whose build-once entries name files that are not there as signed."""
    for entry in library.manifest.entries.values():
        if isinstance(entry, OnceEntry):
            for file in entry.files:
                os.close(inputs.open(library.directory, file).descriptor)
