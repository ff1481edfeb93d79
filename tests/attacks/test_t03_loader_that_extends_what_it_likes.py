"""T3: a boot loader extends the good kernel's digests, and boots another kernel (R5).

Attacker: a malicious administrator with a boot loader of his own, or the guest's own loader.
Control: QEMU on swtpm; an evil kernel boots, PCR 8 and 9 get the good one's digests, and stock
tools accept the quote.
Shows: what a loader extends is its own affair; PCR 17 and 18 are the builder's, of the bytes that
were loaded, and no guest extends or resets them (TPM_RC_LOCALITY); the verdict names what differs
(kernel-matches-manifest, command-line-matches-manifest).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import attacks
from demo.good_run import COMMAND_LINE, GUEST
from demo.stage import Stage
from peers.bare_machine import plain_machine
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tests.attacks.bare_pair import paired_machine
from tests.attacks.launches import against, changed
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest
from tests.unit.appraisal.forge import Forge, library_file

LIAR = "liar"
PCR_RESET = 0x13D  # TPM_CC (Part 2, 6.5.2)
GOOD, EVIL = tiny_kernel("good"), tiny_kernel("evil")
SAID = {8: hashlib.sha256(b"quiet").digest(), 9: hashlib.sha256(GOOD).digest()}


@pytest.fixture
def hosted(stage: Stage) -> Iterator[Stage]:
    """A host, without a guest afterwards."""
    yield stage
    stage.tandem("guest", "stop", LIAR, "--kill", expect=None)


def test_control_the_evil_kernel_quotes_as_the_good_one(control: Path, tmp_path: Path) -> None:
    # Given a loader that measures what it loads, a good kernel, and its quote
    files = {name: tmp_path / name for name in ("good", "evil")}
    quotes = {}
    for name, content in (("good", GOOD), ("evil", EVIL)):
        files[name].write_bytes(content)
        with plain_machine(control, "-kernel", str(files[name]), "-append", "quiet") as plain:
            plain.machine.run_until(f"booted {name}.".encode())

            # When the administrator's loader extends the good one's digests whatever it loads
            measure(plain.machine, SAID)
            quotes[name] = quoted(plain.machine, tuple(range(16)))

    # Then stock tools accept the evil kernel's quote as the good one's
    assert quotes["evil"].passes_checkquote(tmp_path)
    assert quotes["evil"].ak.name == quotes["good"].ak.name
    assert quotes["evil"].quote.pcr_digest == quotes["good"].quote.pcr_digest


def test_a_loader_does_not_touch_the_launch_registers(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a guest after its firmware, with the loader at work
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]

    # When it extends what it likes, the launch registers too, and resets them
    measure(machine, SAID)
    codes = set()
    for register in (17, 18):
        codes.add(run(machine, tpm.pcr_extend(register, {tpm.SHA256: SAID[9]})).code)
        codes.add(run(machine, tpm.command(PCR_RESET, (register,), b"", [tpm.password()])).code)

    # Then those are refused by TPM_RC_LOCALITY, and hold what the builder measured
    assert codes == {tpm.Rc.LOCALITY}
    for register in (17, 18):
        assert done(machine, tpm.pcr_read([register])).parameters[-32:] == expected[register]


def test_good_digests_do_not_help_an_evil_kernel() -> None:
    # Given a launch of another kernel, whose loader said the good one's digests
    evil = Forge(events=changed(kernel=library_file("evil kernel")))
    evil.vtpm_pcrs = evil.answer().vtpm_pcrs | SAID

    # When its evidence is appraised
    verdict = evil.verdict()

    # Then the kernel that was loaded is named
    assert Rule.KERNEL.title in against(verdict)
    assert verdict.word != "trusted"


def test_a_real_guest_that_lies_about_itself_is_told(hosted: Stage) -> None:
    # Given a guest that an administrator started from a library of his own
    key = hosted.work / "liar.key"
    hosted.tandem("library", "keygen", "-o", key)
    line = f"{COMMAND_LINE} init=/init tandem.evil=1"
    own = attacks.sign_anew(hosted, hosted.work / "liar", line, key)
    keyed = ("--library", own, "--library-key", f"{key}.pub")
    hosted.tandem("guest", "start", LIAR, "--entry", GUEST, *keyed)

    # When it extends a good boot's digests, fails to extend PCR 17, and is attested
    with hosted.console(LIAR) as console:
        attacks.ready(console)
        for register, digest in SAID.items():
            console.run(f"tpm2_pcrextend {register}:sha256={digest.hex()}")
        forged = console.run(f"tpm2_pcrextend 17:sha256={SAID[9].hex()} 2>&1; true")
    verdict = attacks.attest_now(hosted, "liar.json", LIAR)

    # Then the verdict names what was changed
    assert "locality" in forged
    assert attacks.named_finding(verdict, "command-line") == Rule.COMMAND_LINE.title
