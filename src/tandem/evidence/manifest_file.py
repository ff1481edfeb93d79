"""A file of a library, as its manifest names it: where it is, and the digests that it must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.evidence.launch import Blob
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE, SHA384_SIZE

MAX_FILE_SIZE: Final = 1 << 40


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """A file of the library: where it is (relative to the manifest) and what it must be."""

    path: str
    size: int
    sha256: bytes
    sha384: bytes

    @property
    def blob(self) -> Blob:
        """What a launch measures of the file: everything but its path."""
        return Blob(size=self.size, sha256=self.sha256, sha384=self.sha384)


def read_manifest_file(place: Place) -> ManifestFile:
    """Read a file with its digests."""
    fields = place.fields(("path", "size", "sha256", "sha384"))
    return ManifestFile(
        path=read_relative_path(fields["path"]),
        size=fields["size"].integer(1, MAX_FILE_SIZE),
        sha256=fields["sha256"].hexadecimal(SHA256_SIZE),
        sha384=fields["sha384"].hexadecimal(SHA384_SIZE),
    )


def read_relative_path(place: Place) -> str:
    """Read a path that cannot lead out of the manifest's directory."""
    path = place.text(1024)
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        place.refuse("not a plain path below the manifest's directory")
    return path
