"""70: whoever reaches the TPM reads the host's registers, and learns who else is there.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; each sees the other's handles and the host's registers.
Shows: a client sees its own handles alone, and registers only by a right to.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.manager.tpm_templates import ROOT_HANDLE
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, done, get_random, handles, make_primary, run
from tests.integration.broker.running_broker import BLIND_UID, RunningBroker

TRANSIENT, PERSISTENT, INDICES = 0x80000000, 0x81000000, 0x01000000  # TPM_HC (Part 2, 7.5)
POLICY_PCR = 0x17F  # TPM_CC (Part 2, 6.5.2)
KINDS = (TRANSIENT, PERSISTENT, INDICES, 0x02000000, 0x03000000)


def seen(client: Tpm) -> set[int]:
    """List every handle of the TPM that a client is told of."""
    return {handle for kind in KINDS for handle in handles(client, kind)}


def test_control_everybody_reads_registers_and_sees_each_handle(shared: SharedTpm) -> None:
    # Given a TPM with a client's key, session and persistent key
    key = make_primary(shared)
    persistent = tpm_commands.evict_control(tpm_commands.OWNER, key, 0x81000100)
    done(shared, persistent)
    session = done(shared, tpm_commands.start_policy_session(), with_handle=True).handle

    # When another asks
    # Then it is told of all of them, and of the host's registers
    assert {key, 0x81000100} <= seen(shared)
    assert any(handle & 0xFFFFFF == session & 0xFFFFFF for handle in seen(shared))
    assert run(shared, tpm_commands.pcr_read((0, 8, 9))).code == RC_SUCCESS


def test_a_client_sees_its_own_handles_alone(broker: RunningBroker) -> None:
    # Given one user's key and session, and the Manager's own beside it
    with broker.client() as victim, broker.client(uid=BLIND_UID) as attacker:
        make_primary(victim)
        done(victim, tpm_commands.start_policy_session(), with_handle=True)
        assert ROOT_HANDLE in handles(broker.ptpm, PERSISTENT)

        # When another asks what there is
        # Then there is nothing of theirs
        assert seen(attacker) == set()
        assert ROOT_HANDLE not in seen(victim)


def test_a_client_without_the_right_reads_no_register(broker: RunningBroker) -> None:
    # Given a user who may not read registers
    with broker.client(uid=BLIND_UID) as attacker:
        # When it reads them, or has a policy session take them in
        read = run(attacker, tpm_commands.pcr_read((0, 8, 9))).code
        session = done(attacker, tpm_commands.start_policy_session(), with_handle=True).handle
        registers = tpm_commands.sized(b"") + tpm_commands.selection((8, 9))
        taken = run(attacker, tpm_commands.command(POLICY_PCR, (session,), registers)).code

        # Then both are refused, and what it may do it does
        assert read != RC_SUCCESS
        assert taken != RC_SUCCESS
        done(attacker, get_random())
