"""A kernel that measures files: it writes IMA lists as securityfs gives them, and extends."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def named_digest(content: bytes, algorithm: str = "sha256") -> bytes:
    return algorithm.encode() + b":\0" + hashlib.new(algorithm, content).digest()


@dataclass
class Kernel:
    """Measures what it is told to; `values` are PCR 10 by bank, `padded` the old kernels' way."""

    log: bytes = b""
    values: dict[str, bytes] = field(
        default_factory=lambda: {"sha1": bytes(20), "sha256": bytes(32), "padded": bytes(32)}
    )

    def measure(self, template: str, *fields: bytes) -> None:
        """Measure the fields of a template; those of "ima" are a SHA-1 digest and a path."""
        if template == "ima":
            data = fields[0] + fields[1].ljust(256, b"\0")
            shown = fields[0] + sized(fields[1])
        else:
            data = b"".join(map(sized, fields))
            shown = sized(data)
        self._append(template, hashlib.sha1(data, usedforsecurity=False).digest(), data, shown)

    def file(self, path: str, content: bytes = b"") -> None:
        """Measure a file as kernels do by default."""
        self.measure("ima-ng", named_digest(content), path.encode() + b"\0")

    def violate(self, path: str) -> None:
        """Let happen what cannot be measured."""
        data = sized(b"sha256:\0" + bytes(32)) + sized(path.encode() + b"\0")
        self._append("ima-ng", bytes(20), data, sized(data))

    def _append(self, template: str, digest: bytes, data: bytes, shown: bytes) -> None:
        self.log += (10).to_bytes(4, "little") + digest + sized(template.encode()) + shown
        violation = not any(digest)
        extended = {bank: hashlib.new(bank, data).digest() for bank in ("sha1", "sha256")}
        if violation:
            extended = {"sha1": b"\xff" * 20, "sha256": b"\xff" * 32}
        extended["padded"] = extended["sha1"] + bytes(12)
        for bank, value in self.values.items():
            algorithm = "sha256" if bank == "padded" else bank
            self.values[bank] = hashlib.new(algorithm, value + extended[bank]).digest()
