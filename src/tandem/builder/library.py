"""Library of domains: the signed manifest read, its signature checked, its entry found."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.inputs import InputStore, SealedInput, read_small
from tandem.errors import HostError, Refused, UsageError
from tandem.evidence.envelope import MAX_ENVELOPE, PublicKey, open_envelope, parse_public_key
from tandem.evidence.manifest import (
    PAYLOAD_TYPE,
    GuestEntry,
    Manifest,
    OnceEntry,
    parse_manifest,
)

MANIFEST: Final = "library.dsse.json"
KEYS: Final = "keys"
MAX_KEY_FILE: Final = 4096
WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True)
class Library:
    """A manifest whose signature holds, where its files are, and who signed it."""

    directory: Path
    manifest: Manifest
    key_ids: tuple[str, ...]


def open_library(path: Path, keys: Sequence[PublicKey]) -> Library:
    """Read and verify a signed manifest."""
    if not os.path.exists(path):  # Path.exists would raise for a name that is too long
        raise HostError(
            "TDM-LIBRARY-MISSING",
            f"there is no signed library at {path}",
            hint="write its source with `tandem library init` and sign it with `library sign`",
        )
    if not keys:
        raise Refused(
            "TDM-LIBRARY-NO-KEY",
            "this host trusts no key for libraries",
            hint="copy the signer's .pub file to the host's library/keys",
        )
    opened = open_envelope(read_small(path, MAX_ENVELOPE), PAYLOAD_TYPE, keys)
    manifest = parse_manifest(opened.payload)
    return Library(directory=path.parent, manifest=manifest, key_ids=opened.key_ids)


def trusted_keys(directory: Path) -> list[PublicKey]:
    """Read the keys that the host trusts for its libraries: `*.pub`, which only root may change."""
    keys = []
    for path in sorted(directory.glob("*.pub")) if directory.is_dir() else ():
        status = os.lstat(path)
        if status.st_uid != 0 or status.st_mode & WRITABLE_BY_OTHERS:
            raise Refused(
                "TDM-LIBRARY-KEY-WRITABLE",
                f"others than root may change the trusted key {path}",
                hint=f"chown root {path} && chmod go-w {path}",
            )
        keys.append(parse_public_key(read_small(path, MAX_KEY_FILE)))
    return keys


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


@dataclass(frozen=True, kw_only=True)
class EntryInputs:
    """The inputs of one launch, open."""

    firmware: SealedInput
    kernel: SealedInput
    initrd: SealedInput
    roms: dict[str, SealedInput]  # by the name that the hypervisor loads

    def close(self) -> None:
        """Close every descriptor."""
        for each in (self.firmware, self.kernel, self.initrd, *self.roms.values()):
            os.close(each.descriptor)


def open_inputs(library: Library, entry: GuestEntry, inputs: InputStore) -> EntryInputs:
    """Open every input of an entry, or none."""
    done: list[SealedInput] = []
    try:
        for file in entry.files:
            done += [inputs.open(library.directory, file)]
    except BaseException:
        for each in done:
            os.close(each.descriptor)
        raise
    firmware, kernel, initrd, *roms = done
    names = [Path(file.path).name for file in entry.roms]
    return EntryInputs(
        firmware=firmware,
        kernel=kernel,
        initrd=initrd,
        roms=dict(zip(names, roms, strict=True)),
    )
