"""8: a vTPM's state is deleted or damaged, and the guest gets a fresh TPM without a word.

Attacker: whoever writes the host's disk.
Control: swtpm on an emptied directory: another TPM takes its place, with exit status 0.
Shows: a vTPM whose state is missing or damaged stays closed, and says which (TDM-STATE-MISSING,
TDM-STATE-DAMAGED); nothing is made anew by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tandem.wire import tpm_commands
from tests.attacks.disk import AttackedHost
from tests.attacks.tpm import Tpm, done, storage_public


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def endorsement_key(tpm: Tpm) -> bytes:
    """Give the public area of a key that only this TPM's endorsement seed makes."""
    made = tpm_commands.create_primary(tpm_commands.ENDORSEMENT, storage_public())
    response = done(tpm, made, with_handle=True)
    done(tpm, tpm_commands.flush_context(response.handle))
    size = int.from_bytes(response.parameters[:2])
    return response.parameters[: 2 + size]


def test_control_another_tpm_takes_its_place(tmp_path: Path) -> None:
    # Given a vTPM
    with shared_swtpm(tmp_path) as tpm:
        before = endorsement_key(tpm)
        assert endorsement_key(tpm) == before

    # When its state is gone at the next start
    (tmp_path / "tpm2-00.permall").unlink()
    with shared_swtpm(tmp_path) as tpm:
        after = endorsement_key(tpm)

    # Then there is another one, and no error
    assert after != before


@pytest.mark.parametrize(("damage", "code"), [
    ("deleted", "TDM-STATE-MISSING"),
    ("overwritten", "TDM-STATE-DAMAGED"),
    ("one bit", "TDM-STATE-DAMAGED"),
])  # fmt: skip
def test_a_vtpm_without_its_state_stays_closed(host: AttackedHost, damage: str, code: str) -> None:
    # Given a vTPM
    with host.guest() as guest:
        before = endorsement_key(guest)
    whole = host.keep("vtpm")

    # When its state is gone or damaged at the next start
    for slot in (host.host / "vtpm" / "web").glob("state.*"):
        content = slot.read_bytes()
        damaged = {
            "deleted": b"",
            "overwritten": b"\xff" * len(content),
            "one bit": content[:-1] + bytes([content[-1] ^ 1]) if content else b"",
        }[damage]
        slot.write_bytes(damaged)
    with pytest.raises(Refused) as raised, host.guest():
        pass

    # Then it does not start, twice, and nothing was made in its place
    assert raised.value.code == code
    with pytest.raises(Refused), host.guest():
        pass

    # And with its state it is the same TPM
    host.put_back(whole)
    with host.guest() as guest:
        assert endorsement_key(guest) == before
