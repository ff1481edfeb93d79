"""T9: somebody beside the builder starts a pair of his own: a vTPM that he measured, and a guest.

Attacker: an administrator of guests without the builder's rights (dom0 in the thread; R10).
Control: swtpm and QEMU started by hand: an evil kernel beside the victim's vTPM state, its launch
register written by the attacker, passes for a pair.
Shows: builder and Manager hear root alone (TDM-MANAGER-NOT-ALLOWED), so there is no record; a pair
made without them is refused by its certificates (issuing-key-is-certified and its neighbours).
Stopping guests, which R10 leaves to dom0, takes root as well. On Linux root is in the trusted base;
that a dom0's root is refused too is for Xen's FLASK.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.good_run import GUEST
from demo.stage import Stage
from peers import plain
from peers.bare_machine import plain_machine
from peers.swtpm_control import SwtpmControl
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tandem.wire import tpm_commands as tpm
from tandem.wire.builder_rpc import BUILDER_REQUESTS, StartGuest
from tandem.wire.control import Command
from tandem.wire.manager_rpc import BUILDER_REQUESTS as MANAGER_REQUESTS
from tandem.wire.tpm_commands import StartupType
from tests.attacks.launches import against
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.tpm import done
from tests.integration.manager.running_manager import open_pair
from tests.unit.appraisal.forge import Forge, new_key

LAUNCH = b"what the builder measures of the good guest"
REGISTERS = (8, 9, 17)
SAY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(10)
try:
    sock.connect(sys.argv[1])
    sock.send(bytes.fromhex(sys.argv[2]))
    print(sock.recv(4096))
except OSError as error:
    print(type(error).__name__)
"""


def test_control_a_pair_made_by_hand_passes(tmp_path: Path) -> None:
    # Given the vTPM of a good pair, measured from outside, and its quote
    state, copy = tmp_path / "state", tmp_path / "copy"
    state.mkdir()
    with plain.swtpm(state) as control, SwtpmControl(control) as swtpm:
        launch(swtpm)
        measure(swtpm)
        good = quoted(swtpm, REGISTERS)
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.sock", ".lock"))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny_kernel("evil"))

    # When somebody starts a swtpm on its state and an evil kernel, and measures what he likes
    with plain.swtpm(copy) as control:
        with plain_machine(control, "-kernel", str(kernel), "-append", "quiet") as evil:
            evil.machine.run_until(b"booted evil.")
            measure(evil.machine)
        with SwtpmControl(control) as swtpm:
            forge_launch(swtpm)
            forged = quoted(swtpm, REGISTERS)

    # Then stock tools accept its quote as the good pair's
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest


@pytest.fixture
def open_sockets(stage: Stage) -> Iterator[Stage]:
    """A host whose sockets an administrator has opened to everybody, by mistake."""
    places = [stage.host, stage.host / "run", *(stage.host / "run").glob("*.sock")]
    modes = {path: path.stat().st_mode & 0o7777 for path in places}
    for path in places:
        path.chmod(0o777)
    yield stage
    for path, mode in modes.items():
        path.chmod(mode)


def test_the_builder_hears_nobody_but_root(open_sockets: Stage) -> None:
    # Given a builder whose socket everybody reaches
    request = BUILDER_REQUESTS.encode(StartGuest(name=GUEST, entry=GUEST, manifest="", keys=()))

    # When another user asks it for a pair
    said = say(open_sockets.host / "run" / "builder.sock", request)

    # Then the connection is closed unread, and nothing runs
    assert said in {"b''", "ConnectionResetError", "BrokenPipeError"}
    assert open_sockets.ask("guest", "list") == []


def test_the_manager_opens_no_record_for_another_user(open_sockets: Stage) -> None:
    # Given a Manager whose socket everybody reaches
    before = open_sockets.ask("host", "status")["open_pairs"]

    # When another user asks it for a record, as the builder does
    said = say(
        open_sockets.host / "run" / "manager.sock", MANAGER_REQUESTS.encode(open_pair(GUEST))
    )

    # Then it is refused for want of the right, and no record is open
    assert "TDM-MANAGER-NOT-ALLOWED" in said
    assert open_sockets.ask("host", "status")["open_pairs"] == before


def test_what_is_allowed_is_to_stop_a_guest(stage: Stage) -> None:
    # Given a guest of the builder's
    [pair] = stage.ask("guest", "start", GUEST)

    # When the administrator of the host stops it
    stage.tandem("guest", "stop", GUEST, "--kill")

    # Then it is gone whole
    assert stage.ask("guest", "list") == []
    assert not Path(f"/proc/{pair['vtpm_pid']}/exe").exists()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rogue_ca": new_key()}, Rule.ISSUER_CERTIFIED),
        ({"rogue_issuer": True}, Rule.AK_CERTIFIED),
        ({"enrolled_ak": new_key()}, Rule.HOST_AK_ENROLLED),
        ({"host_signer": new_key()}, Rule.PTPM_QUOTE_SIGNED),
        ({"vtpm_signer": new_key()}, Rule.VTPM_QUOTE_SIGNED),
    ],
    ids=["own CA", "own issuer", "host not enrolled", "no pTPM", "no vTPM"],
)
def test_a_pair_made_without_the_manager_is_told(changes: dict[str, object], rule: Rule) -> None:
    # Given evidence of a pair that somebody made with keys of his own
    forge = Forge(**changes)  # type: ignore[arg-type]

    # When it is appraised
    verdict = forge.verdict()

    # Then a finding says which link is not the Manager's
    assert rule.title in against(verdict)
    assert verdict.word != "trusted"


def launch(swtpm: SwtpmControl) -> None:
    """Start a TPM, and measure the launch from outside."""
    assert swtpm.ask(Command.INIT, 0) == bytes(4)
    done(swtpm, tpm.startup(StartupType.CLEAR))
    forge_launch(swtpm)


def forge_launch(swtpm: SwtpmControl) -> None:
    """Write PCR 17, as a builder does, or anybody with the control channel."""
    swtpm.ask(Command.HASH_START)
    swtpm.ask(Command.HASH_DATA, len(LAUNCH), data=LAUNCH)
    assert swtpm.ask(Command.HASH_END) == bytes(4)
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(LAUNCH).digest()).digest()
    assert done(swtpm, tpm.pcr_read([17])).parameters[-32:] == expected


def say(path: Path, message: bytes) -> str:
    """Send a message as a user without privilege; give what came back, or how it failed."""
    done = subprocess.run(
        [sys.executable, "-c", SAY, str(path), message.hex()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()
