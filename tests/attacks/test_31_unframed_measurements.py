"""31: command line and initrd in one register without framing: one launch passes for another.

Attacker: host administrator.
Control: a loader that extends each part's bare digest into PCR 5, as pv-grub did, and nothing for a
part that is absent: a launch with the good command line as its *initrd* has the same PCR 5.  And
one that hashes them together: the border between them can be moved.
Shows: each part is a tagged event with its length; moved, exchanged or missing parts give other
registers and a finding each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.evidence.launch import LaunchEvent, Tag
from tandem.wire import tpm_commands as tpm
from tests.attacks.launches import against, changed, registers_of, verdict_on
from tests.attacks.quoting_tpm import quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import library_file

REGISTER = 16  # stands for pv-grub's PCR 5, and can be reset between launches
PCR_RESET = 0x13D  # TPM_CC (Part 2, 6.5.2)
Loader = Callable[[SharedTpm, bytes, bytes], None]


def part_by_part(client: SharedTpm, command_line: bytes, initrd: bytes) -> None:
    """Measure as pv-grub did (kexec.c): a digest for each part that there is."""
    for part in (command_line, initrd):
        if part:
            extend(client, part)


def together(client: SharedTpm, command_line: bytes, initrd: bytes) -> None:
    """Measure the parts as one."""
    extend(client, command_line + initrd)


def extend(client: SharedTpm, data: bytes) -> None:
    digest = {tpm.SHA256: hashlib.sha256(data).digest()}
    done(client, tpm.pcr_extend(REGISTER, digest))


@pytest.mark.parametrize(
    ("loader", "good", "evil"),
    [
        (part_by_part, (b"ima_policy=tcb", b""), (b"", b"ima_policy=tcb")),
        (together, (b"quiet ima_policy=tcb", b"0707"), (b"quiet ", b"ima_policy=tcb0707")),
    ],
)
def test_control_another_launch_has_the_same_register(
    shared: SharedTpm,
    tmp_path_factory: pytest.TempPathFactory,
    loader: Loader,
    good: tuple[bytes, bytes],
    evil: tuple[bytes, bytes],
) -> None:
    # Given a good launch, measured without framing, and its quote
    loader(shared, *good)
    first = quoted(shared, (REGISTER,))
    done(shared, tpm.command(PCR_RESET, (REGISTER,), b"", [tpm.password()]))

    # When another launch is measured, whose parts are the same bytes in other places
    loader(shared, *evil)
    second = quoted(shared, (REGISTER,))

    # Then stock tools accept it, and the register is the good launch's
    assert second.passes_checkquote(tmp_path_factory.mktemp("quote"))
    assert second.quote.pcr_digest == first.quote.pcr_digest


def exchanged(events: list[LaunchEvent]) -> list[LaunchEvent]:
    """Have each of the two parts in the place of the other."""
    tags = {Tag.COMMAND_LINE: Tag.INITRD, Tag.INITRD: Tag.COMMAND_LINE}
    return [LaunchEvent(tag=tags.get(each.tag, each.tag), data=each.data) for each in events]


def without(tag: Tag) -> Callable[[list[LaunchEvent]], list[LaunchEvent]]:
    """Leave a part out."""
    return lambda events: [each for each in events if each.tag is not tag]


def twice(events: list[LaunchEvent]) -> list[LaunchEvent]:
    """Measure the initrd a second time."""
    return [*events, *(each for each in events if each.tag is Tag.INITRD)]


def moved(events: list[LaunchEvent]) -> list[LaunchEvent]:
    """Move a piece of one part to the other."""
    del events
    return changed(command_line="console=ttyS0", initrd=library_file(" quietinitrd"))


@pytest.mark.parametrize(
    ("confuse", "rules"),
    [
        (exchanged, {Rule.COMMAND_LINE, Rule.INITRD}),
        (without(Tag.INITRD), {Rule.INITRD}),
        (without(Tag.COMMAND_LINE), {Rule.COMMAND_LINE}),
        (twice, {Rule.INITRD}),
        (moved, {Rule.COMMAND_LINE, Rule.INITRD}),
    ],
    ids=["exchanged", "no initrd", "no command line", "twice", "moved"],
)
def test_parts_cannot_stand_for_each_other(
    make_pair: Callable[..., PairUnderTest],
    confuse: Callable[[list[LaunchEvent]], list[LaunchEvent]],
    rules: set[Rule],
) -> None:
    # Given a good launch, and one whose parts are confused
    good = changed()
    evil = confuse(good)

    # When both are launched, and the second one's evidence is appraised
    registers = [registers_of(make_pair, events) for events in (good, evil)]
    found = against(verdict_on(evil))

    # Then PCR 18 differs, and each part concerned is named
    assert registers[0][18] != registers[1][18]
    assert rules <= {rule for rule in Rule if rule.title in found}
