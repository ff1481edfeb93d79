"""7: the states of two vTPMs are exchanged, and each guest has the other's TPM.

Attacker: whoever writes the host's disk ("NVRAM replacement", SvTPM).
Control: two swtpm whose directories change places; both start without a word.
Shows: each state is bound to its vTPM: both are refused (TDM-STATE-DAMAGED), until they are back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, endorsement_key


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def exchange(one: Path, two: Path) -> None:
    """Let two directories change places."""
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def test_control_each_guest_has_the_others_tpm(tmp_path: Path) -> None:
    # Given two guests
    places = [tmp_path / name for name in ("web", "db")]
    before = []
    for place in places:
        place.mkdir()
        with shared_swtpm(place) as tpm:
            before.append(endorsement_key(tpm))

    # When the states change places
    exchange(*places)
    after = []
    for place in places:
        with shared_swtpm(place) as tpm:
            after.append(endorsement_key(tpm))

    # Then so do the identities
    assert after == before[::-1]


def test_neither_vtpm_opens_the_others_state(host: AttackedHost) -> None:
    # Given two guests
    before = {}
    for name in ("web", "db"):
        with host.guest(name) as guest:
            before[name] = endorsement_key(guest)
    places = [host.host / "vtpm" / name for name in before]

    # When the states change places
    exchange(*places)
    codes = []
    for name in before:
        with pytest.raises(Refused) as raised, host.guest(name):
            pass
        codes.append(raised.value.code)

    # Then neither starts, and once they are back both do
    assert codes == ["TDM-STATE-DAMAGED"] * 2
    exchange(*places)
    for name, key in before.items():
        with host.guest(name) as guest:
            assert endorsement_key(guest) == key
