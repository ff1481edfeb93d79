"""35: the state of a vTPM is read where it passes by: in a migration's stream, or saved on disk.

Attacker: root's helper at the control socket, the network, or whoever reads the disk.
Control: swtpm without a migration key; what a guest keeps in NV is in the state blob that the
control channel gives, and in the file (libvirt: "does not encrypt the state during migration").
Shows: the control channel gives no state at all, and what is written to disk is ciphertext.
"""

from __future__ import annotations

from pathlib import Path

from peers.swtpm_control import SwtpmControl
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import BODIES, Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.tpm import Tpm, done
from tests.integration.vtpm.pair_harness import PairUnderTest

INDEX, ATTRIBUTES = 0x01500020, 0x02040004  # NO_DA, AUTHREAD, AUTHWRITE
SECRET = b"the key of the guest's disk"
PERMANENT, GIVEN = 1, 16


def keep(client: Tpm) -> None:
    """Start the TPM and keep a secret in it."""
    done(client, tpm.startup(StartupType.CLEAR))
    done(client, tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, ATTRIBUTES, len(SECRET))))
    done(client, tpm.nv_write(INDEX, INDEX, SECRET, 0, tpm.password()))


def test_control_the_secret_is_in_the_stream_and_in_the_file(control: Path) -> None:
    # Given a guest that keeps a secret in swtpm
    with SwtpmControl(control) as channel:
        assert channel.ask(Command.INIT, 0) == bytes(4)
        keep(channel)

        # When its state is asked for, as a migration does
        blob = channel.state(PERMANENT)

    # Then the secret is there to read, and in the file, too
    assert SECRET in blob
    assert SECRET in (control.parent / "tpm2-00.permall").read_bytes()


def test_neither_channel_nor_disk_gives_it_away(pair: PairUnderTest) -> None:
    # Given a guest that keeps a secret in its vTPM
    keep(GuestOf(pair))

    # When its hypervisor asks for the state, and the disk is read
    ask = Command.GET_STATEBLOB.to_bytes(4) + BODIES[Command.GET_STATEBLOB].pack(1, PERMANENT, 0)
    given = pair.ask_raw(ask, GIVEN)
    written = [each.read_bytes() for each in pair.directory.glob("state.*")]

    # Then there is no state to be had, and no secret in what was written
    assert given[:4] != bytes(4)
    assert given[4:] == bytes(12)
    assert any(written)
    assert all(SECRET not in each for each in written)
