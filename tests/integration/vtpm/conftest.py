"""Fixtures: one zygote and one Manager double for the tests of a module, a fresh pair for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import PairUnderTest, ZygoteUnderTest


@pytest.fixture(scope="session")
def zygote() -> Iterator[ZygoteUnderTest]:
    """A zygote for all tests."""
    zygote = ZygoteUnderTest()
    yield zygote
    zygote.close()


@pytest.fixture
def manager() -> ManagerDouble:
    """A Manager that knows no vTPM yet."""
    return ManagerDouble()


@pytest.fixture
def make_pair(
    zygote: ZygoteUnderTest, manager: ManagerDouble, tmp_path: Path
) -> Iterator[Callable[..., PairUnderTest]]:
    """Make pairs of one vTPM, one after the other, each waiting for its guest."""
    pairs: list[PairUnderTest] = []

    def make(**options: object) -> PairUnderTest:
        directory = tmp_path / str(options.get("vtpm", "vtpm"))
        pair = PairUnderTest(zygote, manager.open_pair, directory, **options)  # type: ignore[arg-type]
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        pair.close()


@pytest.fixture
def pair(make_pair: Callable[..., PairUnderTest]) -> PairUnderTest:
    """A pair whose guest is about to send its first command."""
    made = make_pair()
    made.ready()
    made.start_guest()
    made.connect()
    return made
