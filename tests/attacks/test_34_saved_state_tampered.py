"""34: the saved state of a vTPM is edited while its guest is off.

Attacker: whoever writes the host's disk, or keeps its backups.
Control: swtpm; one byte of an NV index is changed in its state file, and the guest reads that (in
versions before 0.7.1 a forged header even reached past its buffer, CVE-2022-23645).
Shows: the state is encrypted and authenticated, bound to the vTPM and its version, and its digest
is the Manager's: any changed bit, header or body, is refused (TDM-STATE-DAMAGED).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tandem.wire import tpm_commands as tpm
from tests.attacks.disk import AttackedHost
from tests.attacks.tpm import Tpm, done

INDEX, ATTRIBUTES = 0x01500020, 0x02040004  # NO_DA, AUTHREAD, AUTHWRITE
KEPT = b"revoked: key number one"
EDITED = KEPT.replace(b"one", b"two")


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def keep(client: Tpm) -> None:
    """Write what the guest counts on."""
    done(client, tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, ATTRIBUTES, len(KEPT))))
    done(client, tpm.nv_write(INDEX, INDEX, KEPT, 0, tpm.password()))


def kept(client: Tpm) -> bytes:
    return done(client, tpm.nv_read(INDEX, INDEX, len(KEPT), 0, tpm.password())).parameters[2:]


def test_control_the_guest_reads_what_was_edited(tmp_path: Path) -> None:
    # Given what a guest keeps in swtpm, which is off
    with shared_swtpm(tmp_path) as client:
        keep(client)
    state = tmp_path / "tpm2-00.permall"

    # When it is edited in the state file
    content = state.read_bytes()
    assert KEPT in content
    state.write_bytes(content.replace(KEPT, EDITED))

    # Then that is what the guest has
    with shared_swtpm(tmp_path) as client:
        assert kept(client) == EDITED


@pytest.mark.parametrize("place", [0.0, 0.001, 0.5])
def test_a_changed_bit_anywhere_is_refused(host: AttackedHost, place: float) -> None:
    # Given what a guest keeps, in a state where it cannot be found
    with host.guest() as guest:
        keep(guest)
    slots = [each for each in (host.host / "vtpm" / "web").glob("state.*") if each.stat().st_size]
    assert all(KEPT not in slot.read_bytes() for slot in slots)
    whole = host.keep("vtpm")

    # When one bit is changed, in the header, in the nonce, or in the middle
    for slot in slots:
        content = bytearray(slot.read_bytes())
        content[int(place * len(content)) + 8] ^= 1
        slot.write_bytes(content)
    with pytest.raises(Refused) as raised, host.guest():
        pass

    # Then the vTPM stays closed, and with what it wrote itself it goes on
    assert raised.value.code == "TDM-STATE-DAMAGED"
    host.put_back(whole)
    with host.guest() as guest:
        assert kept(guest) == KEPT
