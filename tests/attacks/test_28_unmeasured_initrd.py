"""28: the initrd is exchanged, and the quote is good: only the first module was ever hashed.

Attacker: host administrator, or whoever writes the files that guests boot from.
Control: QEMU with a directly loaded kernel on swtpm: whatever the initrd, PCR 0 to 15 are the same
(pv-grub hashed modules[0] alone).
Shows: a file that is not the signed one starts nothing (TDM-INPUT-DIFFERS); every part of a launch
is an event of its own, and a changed one is named (initrd-matches-manifest and its neighbours).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.good_run import GUEST
from demo.stage import Stage
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tests.attacks.launches import against, booted, changed, registers_of, verdict_on
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import library_file

CHANGES: dict[Rule, dict[str, object]] = {
    Rule.KERNEL: {"kernel": library_file("other kernel")},
    Rule.INITRD: {"initrd": library_file("other initrd")},
    Rule.FIRMWARE: {"firmware": library_file("other firmware")},
    Rule.TABLES: {"roms": [library_file("kvmvapic.bin"), library_file("other rom")]},
}


def test_control_the_registers_are_the_same(control: Path, tmp_path: Path) -> None:
    # Given a kernel and an initrd that are loaded directly, and the quote of their good start
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(tiny_kernel("it"))
    initrd.write_bytes(b"0707 what the good guest runs")
    direct = ("-kernel", str(kernel), "-initrd", str(initrd), "-append", "quiet")
    good = booted(control, *direct, said=b"booted it.")

    # When the initrd is exchanged
    initrd.write_bytes(b"0707 what the attacker runs, and longer")
    evil = booted(control, *direct, said=b"booted it.")

    # Then PCR 0 to 15 are as they were, and stock tools accept the quote
    assert evil.passes_checkquote(tmp_path)
    assert evil.ak.name == good.ak.name
    assert evil.quote.pcr_digest == good.quote.pcr_digest


@pytest.mark.parametrize("name", ["initramfs.cpio", "vmlinuz"])
def test_a_file_that_is_not_the_signed_one_starts_nothing(stage: Stage, name: str) -> None:
    # Given a host's library, one of whose files is exchanged for one of the same size
    path = stage.host / "library" / name
    original = path.read_bytes()
    path.write_bytes(original[:-4] + b"evil")

    # When the guest is started
    try:
        refusal = stage.refusal("guest", "start", GUEST)
    finally:
        path.write_bytes(original)

    # Then it is refused by the file's name, and nothing runs
    assert refusal["code"] == "TDM-INPUT-DIFFERS"
    assert name in refusal["problem"]
    assert stage.ask("guest", "list") == []


@pytest.mark.parametrize("rule", CHANGES)
def test_each_part_has_an_event_and_a_finding_of_its_own(
    make_pair: Callable[..., PairUnderTest], rule: Rule
) -> None:
    # Given the launch of an entry, and of the same with one part exchanged, both signed
    good, evil = changed(), changed(**CHANGES[rule])

    # When both are launched, and the second one's evidence is appraised by the first one's library
    registers = [registers_of(make_pair, events) for events in (good, evil)]
    found = against(verdict_on(evil))

    # Then PCR 18 differs, and of the guest's parts this one alone is named
    assert registers[0][18] != registers[1][18]
    assert [each for each in CHANGES if each.title in found] == [rule]
