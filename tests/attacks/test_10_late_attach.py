"""10: a guest boots without a vTPM; a fresh one is attached later, and told what a good boot says.

Attacker: the guest's root together with an administrator of its host.
Control: a machine with a serial port boots an evil kernel; swtpm is put behind that port, and the
guest extends the good digests (the warning of xen-vtpm(7)).
Shows: a vTPM serves a process that was born beside it (else TDM-VTPM-STRANGER); a TPM cannot be
hot-plugged; what no builder measured has FF...FF in PCR 17 and is refused by that
(launch-was-measured).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

from peers.bare_machine import plain_machine
from peers.shared_swtpm import SharedTpm, shared_swtpm
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tests.attacks.bare_pair import GuestOf, paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest, gone
from tests.unit.appraisal.forge import Forge


class Bridge:
    """Passes TPM commands from a guest's serial port to a TPM: the late attachment."""

    def __init__(self, port: Path, vtpm: SharedTpm) -> None:
        self._port = socket.socket(socket.AF_UNIX)
        self._port.connect(str(port))
        self._vtpm = vtpm
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        command = b""
        while byte := self._port.recv(1):
            command += byte
            if len(command) >= 10 and len(command) == int.from_bytes(command[2:6]):
                self._port.sendall(self._vtpm.transceive(command))
                command = b""


class OverSerial:
    """A guest whose TPM is behind its serial port."""

    def __init__(self, machine: object) -> None:
        self.transceive: Callable[[bytes], bytes] = machine.over_serial  # type: ignore[attr-defined]


def test_control_a_late_vtpm_quotes_a_boot_that_never_was(tmp_path: Path) -> None:
    # Given a vTPM with the registers and key that a verifier expects of a good boot
    state, port = tmp_path / "state", tmp_path / "serial.sock"
    state.mkdir()
    with shared_swtpm(state) as vtpm:
        measure(vtpm)
        good = quoted(vtpm, tuple(GOOD_BOOT))
    kernel = tmp_path / "evil"
    kernel.write_bytes(tiny_kernel("evil"))
    serial = ("-chardev", f"socket,id=s,path={port},server=on,wait=off", "-serial", "chardev:s")

    # When an evil kernel boots without a vTPM, and it is attached afterwards
    with plain_machine(None, "-kernel", str(kernel), *serial) as plain:
        plain.machine.run_until(b"booted evil.")
        plain.machine.qmp("cont")
        with shared_swtpm(state) as vtpm:
            Bridge(port, vtpm)
            guest = OverSerial(plain.machine)
            measure(guest)
            forged = quoted(guest, tuple(GOOD_BOOT))

    # Then stock tools accept its quote of the good boot
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest


def test_a_machine_that_ran_before_is_not_served(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a running machine without a TPM, and a vTPM that waits for its guest
    pair = make_pair()
    pair.ready()
    with plain_machine(None):
        # When a process from outside the vTPM's namespace speaks, as that machine would have to
        pair.control.sendall(Command.GET_CAPABILITY.to_bytes(4))

        # Then the vTPM ends
        assert pair.ended().code == "TDM-VTPM-STRANGER"
        assert gone(pair.pidfd, 1.0)


def test_a_tpm_is_not_plugged_into_a_running_machine(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a paired machine, and a host that has its monitor
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()

    # When it plugs in another TPM, or offers the vTPM another connection
    plugged = machine.qmp("device_add", driver="tpm-tis", tpmdev="t", id="late")

    # Then QEMU refuses, and the pair lives as it was
    assert "error" in plugged
    assert not gone(pair.pidfd, 0.2)
    assert done(machine, tpm.pcr_read([17])).parameters[-32:] != b"\xff" * 32


def test_a_vtpm_takes_one_connection_ever(pair: PairUnderTest) -> None:
    # Given a guest with its connection
    guest = GuestOf(pair)
    ours, theirs = socket.socketpair()

    # When its hypervisor offers one for somebody else
    with ours, theirs:
        answer = pair.ask(Command.SET_DATAFD, descriptors=[theirs.fileno()])

    # Then it is not taken
    assert answer != bytes(4)
    done(guest, tpm.startup(tpm.StartupType.CLEAR))


def test_a_vtpm_that_no_builder_measured_is_refused_by_name() -> None:
    # Given evidence of a good boot, in a vTPM whose launch registers nobody wrote
    registers = {17: b"\xff" * 32, 18: b"\xff" * 32, **GOOD_BOOT}
    forge = Forge(vtpm_pcrs=registers)

    # When it is appraised
    verdict = forge.verdict()

    # Then a finding says that there was no launch
    against = {each.rule: each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED}
    assert Rule.LAUNCH_MEASURED.title in against
