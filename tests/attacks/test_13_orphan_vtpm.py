"""13: a guest dies, and its vTPM signs on for whoever is there.

Attacker: a process of the host that kills the guest and reaches the vTPM's socket.
Control: QEMU killed on swtpm; a connection of the attacker's own gets quotes over the registers of
the dead guest's good boot.
Shows: the vTPM goes with its guest, its connections are closed, and the Manager answers its key
channel no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peers.bare_machine import plain_machine
from peers.swtpm_control import SwtpmControl
from tandem.channel import Closed
from tandem.wire.control import Command, Request
from tandem.wire.manager_rpc import AskDeepQuote, ClosePair, DeepQuoted, PairClosed
from tests.attacks.bare_pair import paired_machine
from tests.attacks.disk import AttackedHost
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.integration.vtpm.pair_harness import PairUnderTest, gone


def test_control_the_dead_guests_registers_are_quoted(control: Path, tmp_path: Path) -> None:
    # Given a guest whose good boot was quoted, and that is killed
    with plain_machine(control) as plain:
        plain.machine.run_until()
        measure(plain.machine)
        good = quoted(plain.machine, (0, 7, *GOOD_BOOT))
        plain.process.kill()
        plain.process.wait()

    # When the attacker connects to its vTPM himself, and resets nothing
    with SwtpmControl(control) as attacker:
        forged = quoted(attacker, (0, 7, *GOOD_BOOT))

    # Then stock tools accept a fresh quote of a guest that is dead
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest
    assert forged.quote.reset_count == good.quote.reset_count


def test_the_vtpm_of_a_dead_guest_is_gone(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a measured guest, and somebody who kept both ends that its hypervisor had
    pair = make_pair()
    pair.ready()
    kept = pair.control.dup()
    machine = paired_machine(pair)
    machine.run_until()
    measure(machine)

    # When the guest is killed
    pair.kill_guest()

    # Then its vTPM is gone within a second, and what was kept leads nowhere
    assert gone(pair.pidfd, 1.0)
    with kept, pytest.raises((BrokenPipeError, ConnectionResetError)):
        kept.sendall(Request(command=Command.GET_CAPABILITY).encode())


def test_the_manager_quotes_no_more_for_a_closed_launch() -> None:
    # Given a real Manager, and a launch that has got deep quotes
    with AttackedHost() as host:
        vtpm = host.manager.vtpm("web")
        vtpm.prepare()
        ask = AskDeepQuote(vtpm_quote_digest=bytes(32))
        vtpm.channel.ask(ask, DeepQuoted)

        # When the builder has seen the pair end, and closes it
        builder = host.manager.connect()
        builder.ask(ClosePair(pair_id=vtpm.opened.pair_id), PairClosed)

        # Then whoever still holds the vTPM's channel gets nothing
        with pytest.raises(Closed):
            vtpm.channel.ask(ask, DeepQuoted)
