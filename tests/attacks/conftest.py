"""TPMs that everybody shares or reaches, for controls; pairs of real vTPMs beside them.

The host behind the broker, and the host with guests, are in tests/conftest.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import plain
from peers.shared_swtpm import SharedTpm, shared_swtpm
from tests.integration.vtpm.conftest import make_pair, manager, pair, zygote

__all__ = ["make_pair", "manager", "pair", "zygote"]  # fixtures, as the vTPM's own tests have them


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedTpm]:
    """A fresh swtpm that any number of programs use as they like."""
    with shared_swtpm(tmp_path) as tpm:
        yield tpm


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    """The path of the control socket of a fresh swtpm, run as is usual for a QEMU guest."""
    with plain.swtpm(tmp_path) as path:
        yield path
