"""The zygote's spare process becomes the next vTPM; nothing depends on there being one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.vtpm.provisioning import EK_ECC_HANDLE, EK_RSA_HANDLE
from tandem.wire import tpm_commands as tpm
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import PairUnderTest, ZygoteUnderTest, gone, started_pair

READ_PUBLIC = 0x173  # TPM_CC_ReadPublic


@pytest.fixture
def own_zygote() -> Iterator[ZygoteUnderTest]:
    """A zygote of the test's own, that has made its spare."""
    zygote = ZygoteUnderTest()
    spare_of(zygote)
    yield zygote
    zygote.close()


def children_of(zygote: ZygoteUnderTest) -> list[int]:
    pid = zygote.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spare_of(zygote: ZygoteUnderTest, before: tuple[int, ...] = ()) -> int:
    """Wait for a child beyond those of before; the helpers of the zygote's own start are gone."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.3)
        new = [each for each in children_of(zygote) if each not in before]
        if new:
            return new[0]
    raise AssertionError("the zygote made no spare")


def test_the_spare_becomes_the_next_vtpm(own_zygote: ZygoteUnderTest, tmp_path: Path) -> None:
    # Given a spare
    spare = spare_of(own_zygote)

    # When a vTPM is asked for
    pair = PairUnderTest(own_zygote, ManagerDouble().open_pair, tmp_path)
    pair.ready()

    # Then it is the spare, and there is another one soon
    assert pair.pid == spare
    assert spare_of(own_zygote, (spare,)) != spare
    pair.close()


def test_a_spare_that_was_killed_is_missed_by_nobody(
    own_zygote: ZygoteUnderTest, tmp_path: Path
) -> None:
    # Given a spare that is killed
    os.kill(spare_of(own_zygote), signal.SIGKILL)
    time.sleep(0.05)

    # When a vTPM is asked for before there is another
    pair = PairUnderTest(own_zygote, ManagerDouble().open_pair, tmp_path)

    # Then it starts
    assert pair.ready().manufactured
    pair.close()


def test_the_spare_ends_with_its_zygote(own_zygote: ZygoteUnderTest) -> None:
    # Given a spare
    pidfd = os.pidfd_open(spare_of(own_zygote))

    # When the zygote is killed
    own_zygote.process.kill()

    # Then the spare is gone
    assert gone(pidfd, 2.0)


def test_no_two_vtpms_share_a_key(
    own_zygote: ZygoteUnderTest, manager: ManagerDouble, tmp_path: Path
) -> None:
    # Given two new vTPMs of one zygote, the first from its spare
    names = ("one", "two")
    pairs = [
        started_pair(own_zygote, manager.open_pair, tmp_path / name, vtpm=name) for name in names
    ]

    # When their endorsement keys and random numbers are read
    known: list[set[bytes]] = []
    for pair in pairs:
        guest = Guest(pair)
        guest.start()
        reads = [tpm.command(READ_PUBLIC, (handle,)) for handle in (EK_RSA_HANDLE, EK_ECC_HANDLE)]
        asked = [*reads, tpm.command(0x17B, parameters=(32).to_bytes(2))]
        known.append({guest.run(each).parameters for each in asked})
        pair.close()

    # Then none is the same
    assert not known[0] & known[1]
    assert len(known[0] | known[1]) == 6
