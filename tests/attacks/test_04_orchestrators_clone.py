"""4: an orchestrator clones a VM, or restores a whole host, and the vTPM's identity is there twice.

Attacker: whoever may clone or restore machines; often nobody means ill.
Control: swtpm's directory copied and renamed to the clone's UUID, as orchestrators do
(kubevirt#16529): both have one endorsement key.
Shows: a host's directory opens with its own pTPM alone: on another host the Manager does not start
(TDM-PTPM-FOREIGN-KEYS) and gives no vTPM's key out; so no vTPM is there twice.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, copy, endorsement_key


def test_control_the_renamed_copy_has_the_endorsement_key(tmp_path: Path) -> None:
    # Given a VM's vTPM, in a directory of its UUID
    original, clone = (tmp_path / str(uuid.uuid4()) for _ in range(2))
    original.mkdir()
    with shared_swtpm(original) as tpm:
        before = endorsement_key(tpm)

    # When the VM is cloned
    copy(original, clone)
    with shared_swtpm(original) as one, shared_swtpm(clone) as two:
        keys = [endorsement_key(one), endorsement_key(two)]

    # Then both are the VM that somebody knows by its key
    assert keys == [before, before]


def test_a_host_that_was_cloned_opens_no_vtpm() -> None:
    # Given a host whose guest has a vTPM, and another machine with a TPM of its own
    with AttackedHost() as host, AttackedHost() as other:
        with host.guest() as guest:
            before = endorsement_key(guest)
        host.manager.stop()
        other.manager.stop()

        # When all that the first keeps is restored there
        other.take_over(host)
        with pytest.raises(Refused) as raised:
            other.manager.start()

        # Then its Manager does not start on that TPM, and the original goes on
        assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"
        host.manager.start()
        with host.guest() as guest:
            assert endorsement_key(guest) == before
