"""An image that is made once for its inputs, and which one is the current."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path


def make_current(cache: Path, name: str, what: str, build: Callable[[Path], None]) -> None:
    """Make the image `name` unless it is there, let `current` lead to it, and print its folder."""
    image = cache / name
    if not (image / "initramfs.cpio").exists():
        started = time.monotonic()
        print(f"image: making {what}", file=sys.stderr)
        build(image)
        print(f"image: made in {time.monotonic() - started:.1f} s", file=sys.stderr)
    current = cache / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(name)
    print(image)
