"""Bounded reading of binary evidence: every read knows its offset and never passes the end."""

from __future__ import annotations

from typing import Final, Literal

from tandem.errors import UntrustedInput

Order = Literal["big", "little"]
READ_AGAIN: Final = "read the evidence again from its source; do not edit it"


class Cursor:
    """A position in untrusted bytes; TPM structures are big-endian, event logs little-endian."""

    def __init__(
        self, data: bytes, what: str, order: Order = "big", hint: str = READ_AGAIN
    ) -> None:
        self.data = data
        self.what = what
        self.order: Order = order
        self.hint = hint
        self.offset = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.offset

    def take(self, size: int, field: str) -> bytes:
        """Read `size` bytes, or refuse where they are not there."""
        if size > self.left:
            raise self.broken(f"{field} needs {size} bytes, {self.left} are left")
        start = self.offset
        self.offset += size
        return self.data[start : self.offset]

    def seek(self, offset: int) -> None:
        """Go on reading at `offset`, which the next read checks."""
        self.offset = offset

    def integer(self, size: int, field: str) -> int:
        """Read an unsigned integer of `size` bytes in the cursor's byte order."""
        return int.from_bytes(self.take(size, field), self.order)

    def u8(self, field: str) -> int:
        """Read one byte."""
        return self.integer(1, field)

    def u16(self, field: str) -> int:
        """Read a 16-bit integer."""
        return self.integer(2, field)

    def u32(self, field: str) -> int:
        """Read a 32-bit integer."""
        return self.integer(4, field)

    def u64(self, field: str) -> int:
        """Read a 64-bit integer."""
        return self.integer(8, field)

    def sized(self, field: str) -> bytes:
        """Read a TPM2B: a 16-bit length and that many bytes (TPM 2.0 Part 2, 10.4.1)."""
        return self.take(self.u16(f"{field} length"), field)

    def finish(self) -> None:
        """Refuse bytes after the end: what is not understood is not trusted."""
        if self.left:
            raise self.broken(f"{self.left} bytes follow the end")

    def broken(self, problem: str) -> UntrustedInput:
        """Make the refusal for the place that was reached."""
        return UntrustedInput(
            "TDM-EVIDENCE-BROKEN",
            f"{self.what}: {problem}",
            hint=self.hint,
            offset=self.offset,
        )
