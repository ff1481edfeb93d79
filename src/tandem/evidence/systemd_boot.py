"""systemd-boot 252: which unified kernel image it starts, and with which command line.

Read in `src/boot/efi/boot.c`.  What is chosen is the first entry that the settings name, else the
first in the menu's order; only images in `\\EFI\\Linux` can be predicted (Boot Loader
Specification, type 2), and what else would change the boot is Refused by name.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.fat import FatFiles
from tandem.evidence.guid import guid
from tandem.evidence.kernel_image import load_options
from tandem.evidence.pe_image import PeImage, parse_pe
from tandem.evidence.variable_store import VariableStore

LOADER: Final = guid("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")  # vendor of its variables
IMAGES: Final = "EFI/Linux"
ENTRIES: Final = "loader/entries"
DRIVERS: Final = "EFI/systemd/drivers"
SETTINGS: Final = "loader/loader.conf"
CREDENTIALS: Final = "loader/credentials"
_COUNTED: Final = re.compile(r"\+\d+(-\d+)?\.efi$", re.IGNORECASE)
_SEGMENT: Final = re.compile(r"[0-9]+|[A-Za-z]+|[~.^-]")
MAX_RELEASE: Final = 16 * 1024  # bytes of an os-release that are looked at


@dataclass(frozen=True, kw_only=True)
class UnifiedEntry:
    """An image of the menu; `options` are those of its section .cmdline."""

    path: str
    name: str  # of the file, in lower case
    sort_key: str
    version: str
    options: bytes
    image: PeImage


def chosen_entry(files: FatFiles, store: VariableStore) -> UnifiedEntry:
    """Give what is started without anybody at the menu, or Refuse what cannot be foreseen."""
    _refuse_others(files)
    entries = sorted(_entries(files), key=cmp_to_key(_compare))
    if not entries:
        raise _unforeseen(f"there is no image in {IMAGES}")
    wanted = [
        _variable(store, "LoaderEntryOneShot"),
        _variable(store, "LoaderEntryDefault"),
        _setting(files, "default"),
    ]
    for pattern in filter(None, wanted):
        if pattern == "@saved":
            raise _unforeseen("it starts what was started last")
        for entry in entries:
            if fnmatch.fnmatchcase(entry.name, pattern.lower()):
                return entry
    return entries[0]


def extra_files(files: FatFiles, path: str) -> tuple[str, ...]:
    """Give what a stub would pass on beside its image: credentials and system extensions."""
    found = [f"{CREDENTIALS}/{each.name}" for each in files.list(CREDENTIALS)]
    found += [f"{path}.extra.d/{each.name}" for each in files.list(f"{path}.extra.d")]
    return tuple(each for each in found if each.lower().endswith((".cred", ".raw")))


def _refuse_others(files: FatFiles) -> None:
    if any(each.name.lower().endswith(".conf") for each in files.list(ENTRIES)):
        raise _unforeseen(f"it has entries in {ENTRIES}, beside unified kernel images")
    if files.list(DRIVERS):
        raise _unforeseen(f"it loads drivers from {DRIVERS}")


def _entries(files: FatFiles) -> list[UnifiedEntry]:
    found = []
    for each in files.list(IMAGES):
        hidden = each.directory or each.name.startswith((".", "auto-"))
        if hidden or not each.name.lower().endswith(".efi"):
            continue
        if _COUNTED.search(each.name):
            raise _unforeseen(f"{each.name} counts its boots")
        path = f"{IMAGES}/{each.name}"
        entry = _entry(path, each.name, files.read(path) or b"")
        if entry is not None:
            found.append(entry)
    return found


def _entry(path: str, name: str, data: bytes) -> UnifiedEntry | None:
    """Read an image; one without an os-release is not in the menu."""
    try:
        image = parse_pe(data, path)
    except UntrustedInput:
        return None
    release, command_line = image.section(b".osrel"), image.section(b".cmdline")
    if release is None:
        return None
    fields = _os_release(image.content(release)[:MAX_RELEASE].decode("utf-8", "replace"))
    if not any(fields.get(key) for key in ("PRETTY_NAME", "IMAGE_ID", "NAME", "ID")):
        return None
    text = image.content(command_line).decode("utf-8", "replace") if command_line else None
    return UnifiedEntry(
        path=path,
        name=name.lower(),
        sort_key=fields.get("IMAGE_ID") or fields.get("ID") or "",
        version=next(
            (
                fields[key]
                for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
                if fields.get(key)
            ),
            "",
        ),
        options=b"" if text is None else load_options(text),
        image=image,
    )


def _os_release(text: str) -> dict[str, str]:
    pairs = (line.strip().partition("=") for line in text.rstrip("\0").splitlines())
    return {key: value.strip("\"'") for key, mark, value in pairs if mark}


def _setting(files: FatFiles, name: str) -> str:
    """Read a setting of loader.conf; the last one counts."""
    found = ""
    for line in (files.read(SETTINGS) or b"").decode("utf-8", "replace").splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and words[0] == name:
            found = words[1].strip()
    return found


def _variable(store: VariableStore, name: str) -> str:
    return store.read(LOADER, name).decode("utf-16-le", "replace").split("\0")[0]


def _compare(one: UnifiedEntry, other: UnifiedEntry) -> int:
    """Compare as `config_entry_compare`: images with a sort key first, then newest first."""
    if bool(one.sort_key) != bool(other.sort_key):
        return -1 if one.sort_key else 1
    if one.sort_key != other.sort_key:
        return -1 if one.sort_key < other.sort_key else 1
    by_version = compare_versions(other.version, one.version) if one.sort_key else 0
    return by_version or compare_versions(other.name, one.name)


def compare_versions(one: str, other: str) -> int:
    """Compare versions as `strverscmp_improved`: below 0 where `one` is older."""
    a, b = _SEGMENT.findall(one), _SEGMENT.findall(other)
    while True:
        if found := _compare_mark(a, b, "~"):
            return found
        if not a or not b:
            return bool(a) - bool(b)
        for mark in "-^.":
            if found := _compare_mark(a, b, mark):
                return found
        if a and b and (found := _compare_segment(a.pop(0), b.pop(0))):
            return found


def _compare_mark(a: list[str], b: list[str], mark: str) -> int:
    """A mark makes a version older than one without; where both have it, it is passed over."""
    if (a[:1] == [mark]) != (b[:1] == [mark]):
        return -1 if a[:1] == [mark] else 1
    if a[:1] == [mark]:
        del a[0], b[0]
    return 0


def _compare_segment(a: str, b: str) -> int:
    """Numbers by their value and above words, words by their letters."""
    if a.isdigit() != b.isdigit():
        return 1 if a.isdigit() else -1
    if a.isdigit():
        one, other = a.lstrip("0"), b.lstrip("0")  # too long for `int`, perhaps
        return ((len(one), one) > (len(other), other)) - ((len(one), one) < (len(other), other))
    return (a > b) - (a < b)


def _unforeseen(why: str) -> Refused:
    return Refused(
        "TDM-UEFI-UNFORESEEN",
        f"what systemd-boot starts cannot be foreseen: {why}",
        hint=f"leave one unified kernel image in {IMAGES}, and no other entries",
    )
