"""T5: a guest that never used its vTPM ends, and its vTPM stays (R3).

Attacker: nobody; or whoever waits for a vTPM without a guest.
Control: QEMU on swtpm, killed before its first instruction; swtpm serves whoever comes next.
Shows: the life of the vTPM follows the pair and not the TPM traffic: it is gone all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peers.bare_machine import plain_machine
from peers.swtpm_control import SwtpmControl
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest, gone


def test_control_swtpm_stays_and_serves_somebody_else(control: Path, tmp_path: Path) -> None:
    # Given a vTPM whose key a verifier knows, and a guest killed before its first instruction
    with plain_machine(control) as earlier:
        earlier.machine.run_until()
        known = quoted(earlier.machine)
    with plain_machine(control):
        pass

    # When somebody else comes to the same swtpm
    with SwtpmControl(control) as other:
        assert other.ask(Command.INIT, 0) == bytes(4)
        done(other, tpm.startup(StartupType.CLEAR))
        quote = quoted(other)

    # Then it quotes for him with the guest's key
    assert quote.passes_checkquote(tmp_path)
    assert quote.ak.name == known.ak.name


def test_a_vtpm_that_was_never_used_goes_with_its_guest(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a machine that is held before its first instruction
    pair = make_pair()
    pair.ready()
    paired_machine(pair)

    # When it is killed
    pair.kill_guest()

    # Then its vTPM is gone within a second, with the reason
    assert pair.ended().code in {"TDM-VTPM-GUEST-GONE", "TDM-VTPM-HUNG-UP"}
    assert gone(pair.pidfd, 1.0)
