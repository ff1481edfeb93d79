"""3: the state of a vTPM is copied, and a second VM has the first one's identity.

Attacker: whoever writes the host's disk, and starts guests there.
Control: swtpm; its directory copied, two at once, both with one endorsement key.
Shows: a state opens for the vTPM that wrote it alone: under another's name it is refused
(TDM-STATE-DAMAGED), under a new name it is not read: that vTPM is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, copy, endorsement_key


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_two_vms_have_one_endorsement_key(tmp_path: Path) -> None:
    # Given a vTPM that has been in use
    state = tmp_path / "state"
    state.mkdir()
    with shared_swtpm(state) as tpm:
        endorsement_key(tpm)

    # When its directory is copied for a second VM, and both run
    copy(state, tmp_path / "clone")
    with shared_swtpm(state) as one, shared_swtpm(tmp_path / "clone") as two:
        keys = {endorsement_key(each) for each in (one, two)}

    # Then they are one TPM
    assert len(keys) == 1


def test_a_clone_is_not_the_vtpm_that_was_copied(host: AttackedHost) -> None:
    # Given two guests with vTPMs of their own
    with host.guest("web") as guest:
        web = endorsement_key(guest)
    with host.guest("db") as guest:
        db = endorsement_key(guest)
    whole = host.keep("vtpm")
    vtpms = host.host / "vtpm"

    # When one's state is put in the place of the other's
    for slot in (vtpms / "db").glob("state.*"):
        slot.write_bytes((vtpms / "web" / slot.name).read_bytes())
    with pytest.raises(Refused) as raised, host.guest("db"):
        pass

    # Then it stays closed
    assert raised.value.code == "TDM-STATE-DAMAGED"

    # And when a guest of a new name is started on a copy
    host.put_back(whole)
    copy(vtpms / "web", vtpms / "clone")
    with host.guest("clone") as guest:
        clone = endorsement_key(guest)

    # Then it has an identity of its own, and the originals have theirs
    assert clone not in (web, db)
    for name, key in (("web", web), ("db", db)):
        with host.guest(name) as guest:
            assert endorsement_key(guest) == key
