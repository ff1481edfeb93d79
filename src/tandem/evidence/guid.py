"""EFI_GUID: 16 bytes whose first three fields are little-endian (UEFI 2.10, appendix A)."""

from __future__ import annotations

import uuid
from typing import Final


def guid(text: str) -> bytes:
    """Give the 16 bytes of a GUID in registry format."""
    return uuid.UUID(text).bytes_le


def guid_text(data: bytes) -> str:
    """Show 16 bytes as a GUID in registry format."""
    return str(uuid.UUID(bytes_le=data))


ZERO: Final = bytes(16)
EFI_GLOBAL_VARIABLE: Final = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # UEFI 2.10, 3.3
IMAGE_SECURITY_DATABASE: Final = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # UEFI 2.10, 32.6.1
