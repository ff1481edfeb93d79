"""1: a vTPM is reset under its live guest, and the digests of a good boot are extended again.

Attacker: a process of the host that reaches the vTPM's control socket, for a guest that runs what
it should not.
Control: swtpm; `swtpm_ioctl -i` and a Startup set PCR 0 to 15 to zero, and stock tpm2_checkquote
takes the forged quote.
Shows: no path leads to the control channel; its one hypervisor ends the pair by an INIT
(TDM-VTPM-RESET-REFUSED); counts that are not the pair record's are a finding (vtpm-was-not-reset).
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from peers.shared_swtpm import HOST, SharedTpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.builder.door import DOOR
from tandem.hypervisor.descriptors import connect
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command, Request
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.strangers import names_of_sockets
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest, gone
from tests.unit.appraisal.forge import Forge

EVIL = {9: b"\xee" * 32}
REGISTERS = (*GOOD_BOOT, 0, 7)


def test_control_the_forged_quote_passes_tpm2_checkquote(shared: SharedTpm, tmp_path: Path) -> None:
    # Given a guest whose good boot was quoted, and that has loaded something else since
    measure(shared)
    good = quoted(shared, REGISTERS)
    measure(shared, EVIL)
    assert quoted(shared, REGISTERS).quote.pcr_digest != good.quote.pcr_digest

    # When somebody resets the TPM by its control socket, and the good digests are extended again
    reset = ["swtpm_ioctl", "--tcp", f"{HOST}:{shared.port + 1}", "-i"]
    subprocess.run(reset, check=True, timeout=20)
    done(shared, tpm.startup(StartupType.CLEAR))
    measure(shared)
    forged = quoted(shared, REGISTERS)

    # Then stock tools accept the quote: same key, same registers; the reset count alone has moved
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest
    assert forged.quote.reset_count > good.quote.reset_count


def test_there_is_no_socket_to_reset_it_by(pair: PairUnderTest) -> None:
    # Given a live guest
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))

    # When the sockets of its vTPM are looked for in the host's table of them
    names = names_of_sockets(pair.pid)

    # Then there is one with a name, the builder's own, which takes no control request
    assert [Path(name).name for name in names] == [DOOR]
    with connect(pair.doors, DOOR, socket.SOCK_SEQPACKET) as door:
        door.send(Request(command=Command.INIT, fields=(0,)).encode())
        door.settimeout(5)
        assert door.recv(16) == b""
    done(GuestOf(pair), tpm.pcr_read([0]))


def test_an_init_by_its_own_hypervisor_ends_the_pair(pair: PairUnderTest) -> None:
    # Given a live guest, measured, whose hypervisor is in the attacker's hands
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    measure(guest)

    # When it initializes the TPM again, as `swtpm_ioctl -i` does
    pair.ask(Command.STOP)
    answer = pair.ask(Command.INIT, 0)

    # Then it is refused, and neither half outlives it
    assert answer not in (bytes(4), b"")
    assert pair.ended().code == "TDM-VTPM-RESET-REFUSED"
    assert gone(pair.pidfd, 1.0)
    assert gone(pair.guest_pidfd, 1.0)
    assert guest.transceive(tpm.startup(StartupType.CLEAR)) == b""


def test_a_quote_after_a_reset_is_told_by_its_count() -> None:
    # Given complete evidence whose vTPM was reset once more than its pair record says
    forge = Forge(counts=(4, 1))

    # When it is appraised
    verdict = forge.verdict()

    # Then that alone is against it, by name
    against = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert against == [Rule.VTPM_NOT_RESET.title]
