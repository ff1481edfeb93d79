"""42: the host races the Manager for the TPM, and the errors that follow make a fresh vTPM.

Attacker: host administrator.
Control: two programs that each open one swtpm; the second gets nothing while the first holds it.
Shows: one owner, and an error is an error: every vTPM has the key and the state that it had.
"""

from __future__ import annotations

import socket
import threading

import pytest

from peers.shared_swtpm import HOST, SharedTpm, receive
from tandem.wire import tpm_commands
from tests.attacks.tpm import get_random, make_primary, run
from tests.integration.broker.running_broker import RunningBroker

PATIENCE = 0.5  # seconds that the control's second program waits
ROUNDS = 3


def test_control_the_second_program_gets_nothing(shared: SharedTpm) -> None:
    # Given a program that holds the TPM
    with socket.create_connection((HOST, shared.port)) as holder:
        holder.sendall(get_random())
        receive(holder)

        # When another asks
        with socket.create_connection((HOST, shared.port), PATIENCE) as second:
            second.sendall(get_random())

            # Then it gets an error instead of an answer
            with pytest.raises(TimeoutError):
                receive(second)


def test_a_host_that_never_stops_asking_changes_no_vtpm(broker: RunningBroker) -> None:
    # Given a vTPM that was made and ended, and a client that lets the pTPM make keys without pause
    first = broker.manager.vtpm("raced")
    first.prepare()
    first.commit(1)
    first.channel.close()
    over = threading.Event()

    def race() -> None:
        with broker.client() as client:
            while not over.is_set():
                run(client, tpm_commands.flush_context(make_primary(client)))

    racing = threading.Thread(target=race)
    racing.start()
    try:
        # When its next launches are opened meanwhile, one after the other
        later = []
        for _ in range(ROUNDS):
            later.append(broker.manager.vtpm("raced"))
            later[-1].channel.close()
    finally:
        over.set()
        racing.join()

    # Then they get the key and the state that there were, and nothing is made anew
    assert all(each.welcome.key == first.welcome.key for each in later)
    assert all(each.welcome.state_version == 1 for each in later)
