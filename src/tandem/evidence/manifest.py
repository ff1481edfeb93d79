"""Library manifest: the guests and domains that a host may build, with the digest of every input.

It travels in a signed envelope (`envelope.py`) of type `PAYLOAD_TYPE`.  Two kinds of entry, as in
the design: `on-request` is a guest that gets a vTPM, `build-once` a part of the host.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from tandem.errors import Refused
from tandem.evidence.guest_entry import MAX_COMMAND_LINE, GuestEntry, read_guest_entry
from tandem.evidence.manifest_file import ManifestFile, read_manifest_file
from tandem.evidence.signers import Signers, read_signers
from tandem.evidence.strict_json import Place, parse_json

Value = TypeVar("Value")
PAYLOAD_TYPE: Final = "application/vnd.tandem.library+json"
FORMAT: Final = "tandem-library-1"
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
MAX_MANIFEST: Final = 2 * 1024 * 1024
MAX_VERSION: Final = (1 << 63) - 1
MAX_FILES: Final = 256
MAX_BUILD_ID: Final = 64
MAX_FIRMWARE: Final = 256
_HOST_KEYS: Final = (
    *("group", "kernel", "initrd", "build_id", "command_line", "firmware_version"),
)


@dataclass(frozen=True, kw_only=True)
class OnceEntry:
    """A `build-once` entry: a part of the host, by the digests of its files.

    The rest is for an entry of role `host`: what the launch of the host's own vTPM should measure.
    """

    name: str
    role: str
    description: str
    others: tuple[ManifestFile, ...]  # beside kernel and initrd
    group: str = "default"
    kernel: ManifestFile | None = None
    initrd: ManifestFile | None = None
    build_id: bytes | None = None  # of the kernel as it runs
    command_line: str | None = None
    firmware_version: str | None = None

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every file that the library has of this part."""
        own = (self.kernel, self.initrd)
        return (*(file for file in own if file is not None), *self.others)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A library; `digest` is the SHA-256 of the payload that was signed.

    `signers` may sign what comes after this version: see ADR 0017.
    """

    name: str
    version: int
    expires: datetime.datetime | None
    signers: Signers
    entries: Mapping[str, GuestEntry | OnceEntry]
    digest: bytes

    def require_current(self, now: datetime.datetime) -> None:
        """Refuse a library whose time is over: who holds back newer ones gains that time only."""
        if self.expires is not None and now >= self.expires:
            raise Refused(
                "TDM-LIBRARY-EXPIRED",
                f"version {self.version} of library {self.name} expired at "
                f"{self.expires:{TIME_FORMAT}}",
                hint="sign a newer version with `tandem library sign`; what runs goes on",
            )

    def require_signed_by(self, key_ids: Collection[str]) -> None:
        """Refuse a library that too few of the keys signed which it names itself."""
        if not self.signers.are_met_by(key_ids):
            raise Refused(
                "TDM-LIBRARY-SIGNATURES",
                f"version {self.version} of library {self.name} takes {self.signers}; of these, "
                f"{len(set(key_ids) & set(self.signers.key_ids))} that are trusted here signed it",
                hint="have more of them sign it with `tandem library countersign`, and trust the "
                "keys that did",
            )


def parse_manifest(payload: bytes, what: str = "library manifest") -> Manifest:
    """Read a manifest, or refuse it and name the place that is wrong in `what`."""
    root = parse_json(payload, what, "TDM-MANIFEST-BAD", MAX_MANIFEST)
    fields = root.fields(("format", "name", "version", "signers", "entries"), ("expires",))
    fields["format"].one_of(FORMAT)
    return Manifest(
        name=fields["name"].name(),
        version=fields["version"].integer(1, MAX_VERSION),
        expires=_given(fields, "expires", _time, None),
        signers=read_signers(fields["signers"]),
        entries={name: _entry(name, place) for name, place in fields["entries"].members()},
        digest=hashlib.sha256(payload).digest(),
    )


def _time(place: Place) -> datetime.datetime:
    """Read a moment in UTC (RFC 3339, whole seconds), written in the one way that there is."""
    text = place.text(len("2026-01-31T12:00:00Z"))
    try:
        moment = datetime.datetime.strptime(text, TIME_FORMAT).replace(tzinfo=datetime.UTC)
    except ValueError:
        moment = None
    if moment is None or f"{moment:{TIME_FORMAT}}" != text:
        place.refuse("not a time as 2026-01-31T12:00:00Z")
    return moment


def _entry(name: str, place: Place) -> GuestEntry | OnceEntry:
    kind = place.at(place.typed(dict).get("kind"), "kind").one_of("on-request", "build-once")
    return read_guest_entry(name, place) if kind == "on-request" else _once(name, place)


def _once(name: str, place: Place) -> OnceEntry:
    role = place.at(place.typed(dict).get("role"), "role").one_of("manager", "host")
    own = _HOST_KEYS if role == "host" else ()
    fields = place.fields(("kind", "role"), ("description", "files", *own))
    return OnceEntry(
        name=name,
        role=role,
        description=_given(fields, "description", lambda each: each.text(1024), ""),
        others=_given(fields, "files", _files, ()),
        group=_given(fields, "group", Place.name, "default"),
        kernel=_given(fields, "kernel", read_manifest_file, None),
        initrd=_given(fields, "initrd", read_manifest_file, None),
        build_id=_given(fields, "build_id", lambda e: e.some_hexadecimal(MAX_BUILD_ID), None),
        command_line=_given(fields, "command_line", lambda e: e.text(MAX_COMMAND_LINE), None),
        firmware_version=_given(fields, "firmware_version", lambda e: e.text(MAX_FIRMWARE), None),
    )


def _given(
    fields: Mapping[str, Place], key: str, read: Callable[[Place], Value], absent: Value
) -> Value:
    """Read a field that may be left out."""
    return read(fields[key]) if key in fields else absent


def _files(place: Place) -> tuple[ManifestFile, ...]:
    return tuple(read_manifest_file(each) for each in place.items(MAX_FILES))
