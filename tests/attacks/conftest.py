"""A TPM that everybody shares, for controls; the host behind the broker is in tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import SharedTpm, shared_swtpm


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedTpm]:
    """A fresh swtpm that any number of programs use as they like."""
    with shared_swtpm(tmp_path) as tpm:
        yield tpm
