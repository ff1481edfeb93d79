"""36: a vTPM is moved to a host that nobody attested.

Attacker: root on the host that it is moved to, or who decides where it goes.
Control: swtpm's directory copied to any other host: it is the vTPM, and whoever runs that host
reads its memory.
Shows: what is moved is ciphertext whose key the other host's Manager does not have; put under the
same name there, it is refused or never read, and the vTPM of that name has another identity.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, copy, count, define_counter, endorsement_key, increment


def test_control_it_is_the_vtpm_wherever_it_is(tmp_path: Path) -> None:
    # Given a vTPM in use
    (tmp_path / "host").mkdir()
    with shared_swtpm(tmp_path / "host") as tpm:
        define_counter(tpm)
        increment(tpm, 3)
        before = endorsement_key(tpm), count(tpm)

    # When it is moved to a host that the attacker runs
    copy(tmp_path / "host", tmp_path / "elsewhere")
    with shared_swtpm(tmp_path / "elsewhere") as tpm:
        after = endorsement_key(tpm), count(tpm)

    # Then it goes on there
    assert after == before


def test_its_state_is_nothing_to_another_host() -> None:
    # Given a vTPM on its host, and a host that the attacker runs
    with AttackedHost() as host, AttackedHost() as elsewhere:
        with host.guest() as guest:
            define_counter(guest)
            before = endorsement_key(guest)

        # When its state is moved there, where no vTPM had that name
        copy(host.host / "vtpm" / "web", elsewhere.host / "vtpm" / "web")
        with elsewhere.guest() as guest:
            # Then the vTPM of that name is another one, which has nothing of it (TPM_RC_HANDLE)
            assert endorsement_key(guest) != before
            with pytest.raises(AssertionError, match="0x18b"):
                count(guest)

        # And when it is moved again, over that one's
        for slot in (elsewhere.host / "vtpm" / "web").glob("state.*"):
            slot.write_bytes((host.host / "vtpm" / "web" / slot.name).read_bytes())
        with pytest.raises(Refused) as raised, elsewhere.guest():
            pass
        # Then it is not what that one wrote
        assert raised.value.code == "TDM-STATE-DAMAGED"
