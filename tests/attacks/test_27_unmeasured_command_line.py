"""27: a guest is started with another command line (`init=/bin/sh ima=off`), and its quote is good.

Attacker: host administrator.
Control: QEMU with a directly loaded kernel on swtpm: whatever the command line, PCR 0 to 15 are the
same, and stock tools accept the quote.
Shows: an unsigned change starts nothing (TDM-ENVELOPE-NOT-SIGNED); a signed one is measured as an
event of its own into PCR 18, before the first instruction, and named by the verdict
(command-line-matches-manifest).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from demo.good_run import GUEST
from demo.stage import Stage
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tests.attacks.launches import against, booted, changed, registers_of, verdict_on
from tests.integration.vtpm.pair_harness import PairUnderTest

GOOD, EVIL = "console=ttyS0 quiet", "console=ttyS0 quiet init=/bin/sh ima=off"


def test_control_the_registers_are_the_same(control: Path, tmp_path: Path) -> None:
    # Given a kernel that is loaded directly, and the quote of its good start
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny_kernel("it"))
    direct = ("-kernel", str(kernel), "-append")
    good = booted(control, *direct, GOOD, said=b"booted it.")

    # When it is started with a command line of the attacker's
    evil = booted(control, *direct, EVIL, said=b"booted it.")

    # Then PCR 0 to 15 are as they were, and stock tools accept the quote
    assert evil.passes_checkquote(tmp_path)
    assert evil.ak.name == good.ak.name
    assert evil.quote.pcr_digest == good.quote.pcr_digest


def test_a_signed_library_with_another_command_line_starts_nothing(stage: Stage) -> None:
    # Given the host's signed library, changed in its payload and not signed again
    manifest = stage.host / "library" / "library.dsse.json"
    original = manifest.read_text()
    envelope = json.loads(original)
    payload = base64.b64decode(envelope["payload"]).replace(b"console=ttyS0", b"ima=off sS0  ")
    envelope["payload"] = base64.b64encode(payload).decode()
    manifest.write_text(json.dumps(envelope))

    # When the guest is started
    try:
        refusal = stage.refusal("guest", "start", GUEST)
    finally:
        manifest.write_text(original)

    # Then the signature is what refuses it, and nothing runs
    assert refusal["code"] == "TDM-ENVELOPE-NOT-SIGNED"
    assert stage.ask("guest", "list") == []


def test_a_signed_change_is_in_pcr_18_and_in_the_verdict(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given the launch of an entry, and of the same with the attacker's command line, both signed
    good, evil = changed(command_line=GOOD), changed(command_line=EVIL)

    # When both are launched, and the second one's evidence is appraised by the first one's library
    registers = [registers_of(make_pair, events) for events in (good, evil)]
    verdict = verdict_on(evil)

    # Then PCR 18 differs, and the finding shows what was measured
    assert registers[0][18] != registers[1][18]
    found = against(verdict)[Rule.COMMAND_LINE.title].found
    assert "init=/bin/sh ima=off" in found
    assert verdict.word != "trusted"
