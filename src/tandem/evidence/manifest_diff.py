"""What differs between two manifests, place by place.  Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tandem.evidence.manifest import Manifest
from tandem.evidence.manifest_file import ManifestFile

ABSENT = "-"
Values = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One place whose value is not the same; `-` stands for none."""

    place: str  # as in `entries.web.machine.cpus`
    before: str
    after: str


def differences(before: Manifest, after: Manifest) -> tuple[Difference, ...]:
    """Give every place that differs, in order; a version and a moment of expiry always do.

    These are left out, but not whether it expires at all.  Digests and key ids are given whole: one
    that begins like another is made in hours, and whoever countersigns goes by what is shown here.
    """
    old, new = (dict(_values(each)) for each in (before, after))
    return tuple(
        Difference(place=place, before=old.get(place, ABSENT), after=new.get(place, ABSENT))
        for place in sorted(old.keys() | new.keys())
        if old.get(place) != new.get(place)
    )


def _values(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "name", manifest.name
    yield "expires", "never" if manifest.expires is None else "at a time"
    yield from _within("signers", manifest.signers)
    for name, entry in manifest.entries.items():
        yield f"entries.{name}", type(entry).__name__
        yield from _within(f"entries.{name}", entry)


def _within(place: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, ManifestFile):
        yield place, f"{value.path} ({value.size} bytes, SHA-256 {value.sha256.hex()})"
        yield f"{place}.sha384", value.sha384.hex()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _within(f"{place}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from _within(f"{place}.{number}", each)
    elif value is not None:
        yield place, value.hex() if isinstance(value, bytes) else str(value)
