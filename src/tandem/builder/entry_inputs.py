"""Inputs of one launch, open: sealed copies of what is measured whole, and disks that are not."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.disks import lock, open_disk, require_root_hash
from tandem.builder.inputs import InputStore, SealedInput, digest
from tandem.builder.library import Library
from tandem.errors import HostError
from tandem.evidence.guest_entry import Disk, GuestEntry, UefiBoot
from tandem.evidence.launch import Blob
from tandem.evidence.manifest_file import ManifestFile

FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
STORE_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Variables:
    """A UEFI variable store that the guest writes to, with what it held when it was opened."""

    descriptor: int
    blob: Blob


@dataclass(frozen=True, kw_only=True)
class EntryInputs:
    """The inputs of one launch, open; None is what the entry does not have."""

    firmware: SealedInput
    kernel: SealedInput | None
    initrd: SealedInput | None
    variables: Variables | None
    roms: dict[str, SealedInput]  # by the name that the hypervisor loads
    disks: dict[str, int]  # descriptor by the disk's id

    def close(self) -> None:
        """Close every descriptor."""
        single = (self.firmware, self.kernel, self.initrd, self.variables)
        for each in (*single, *self.roms.values()):
            if each is not None:
                os.close(each.descriptor)
        for descriptor in self.disks.values():
            os.close(descriptor)


def open_inputs(
    library: Library, entry: GuestEntry, inputs: InputStore, kept_variables: Path
) -> EntryInputs:
    """Open every input of an entry, or none; `kept_variables` is the guest's own store of them."""
    boot = entry.boot
    images: list[SealedInput] = []  # disks that are measured whole
    with ExitStack() as undo:

        def sealed(file: ManifestFile) -> SealedInput:
            found = inputs.open(library.directory, file)
            undo.callback(os.close, found.descriptor)
            return found

        def disk(each: Disk) -> int:
            if each.file is not None:
                images.append(sealed(each.file))
                return images[-1].descriptor
            descriptor = open_disk(library.directory, each)
            undo.callback(os.close, descriptor)
            return descriptor

        variables = None
        if isinstance(boot, UefiBoot):
            template = inputs.open(library.directory, boot.variables)
            try:
                variables = open_variables(
                    template, kept_variables if boot.keep_variables else None
                )
            finally:
                os.close(template.descriptor)
            undo.callback(os.close, variables.descriptor)
        found = EntryInputs(
            firmware=sealed(boot.firmware),
            kernel=None if boot.kernel is None else sealed(boot.kernel),
            initrd=None if boot.initrd is None else sealed(boot.initrd),
            variables=variables,
            roms={Path(rom.path).name: sealed(rom) for rom in boot.roms},
            disks={each.id: disk(each) for each in entry.disks},
        )
        if boot.command_line is None:
            kernel = () if found.kernel is None else (found.kernel,)
            for each in entry.disks:
                require_root_hash(each, (*kernel, *images))
        undo.pop_all()
    return found


def open_variables(template: SealedInput, kept: Path | None) -> Variables:
    """Give a store that the guest may write: a copy in memory, or the guest's own file.

    The file is made from the template at the first launch and measured at each.
    """
    if kept is None:
        memory = os.memfd_create("variables", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        _copy(template, memory)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, FIXED_SIZE)
        return Variables(descriptor=memory, blob=template.blob)
    try:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        if not os.path.lexists(kept):
            _make(template, kept)
        with ExitStack() as undo:
            descriptor = os.open(kept, STORE_FLAGS)
            undo.callback(os.close, descriptor)
            lock(descriptor, str(kept))
            found = Variables(descriptor=descriptor, blob=digest(descriptor))
            undo.pop_all()
            return found
    except OSError as error:
        raise HostError(
            "TDM-VARIABLES-UNUSABLE",
            f"cannot use the guest's UEFI variables in {kept}: {error.strerror}",
            hint="correct the file, or remove it to begin with the library's again",
        ) from error


def _make(template: SealedInput, kept: Path) -> None:
    """Make a store whole or not at all."""
    new = kept.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _copy(template, descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(new, kept)


def _copy(template: SealedInput, to: int) -> None:
    done = 0
    while done < template.blob.size:
        copied = os.sendfile(to, template.descriptor, done, template.blob.size - done)
        if not copied:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += copied
