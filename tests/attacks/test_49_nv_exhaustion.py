"""49: a client defines NV indices until the TPM has no room for anybody's.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; there is no room for another index.
Shows: a client fills its own share alone, and there is room for others.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, done, run
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

RC_NV_SPACE = 0x14B  # TPM_RC (Part 2, 6.6.3)
FIRST, OTHERS_FIRST = 0x01500000, 0x01500100
SIZE = 512
MORE_THAN_ANY_TPM_HAS = 400
ATTRIBUTES = 0x02040004  # NO_DA, AUTHREAD, AUTHWRITE (TPMA_NV, Part 2, 13.4)


def define(index: int) -> bytes:
    """Define an index in the owner's hierarchy."""
    public = tpm_commands.nv_public(index, ATTRIBUTES, SIZE)
    return tpm_commands.nv_define_space(tpm_commands.OWNER, public)


def exhaust(attacker: Tpm, first: int = FIRST) -> tuple[list[int], int]:
    """Define indices until none is taken; gives them, and the code of the last try."""
    for index in range(first, first + MORE_THAN_ANY_TPM_HAS):
        code = run(attacker, define(index)).code
        if code != RC_SUCCESS:
            return list(range(first, index)), code
    return list(range(first, first + MORE_THAN_ANY_TPM_HAS)), RC_SUCCESS


def test_control_the_tpm_is_full(shared: SharedTpm) -> None:
    # Given a client of a shared TPM that defines indices until it cannot
    defined, code = exhaust(shared)
    assert len(defined) > 100
    assert code == RC_NV_SPACE

    # When the host's owner needs one
    # Then there is no room
    assert run(shared, define(0x01800544)).code == RC_NV_SPACE


def test_a_client_fills_its_own_share_alone(broker: RunningBroker) -> None:
    # Given a client of the broker that defines indices until it cannot
    with broker.client(uid=OTHER_UID) as attacker:
        defined, code = exhaust(attacker, OTHERS_FIRST)
        try:
            assert code not in (RC_SUCCESS, RC_NV_SPACE)

            # When the pTPM is asked for room beside it, and the Manager for its own work
            beside = run(broker.ptpm, define(0x01A00000)).code
            broker.require_a_working_manager()

            # Then there is room
            assert beside == RC_SUCCESS
            done(broker.ptpm, undefine(0x01A00000))
        finally:
            for index in defined:
                done(attacker, undefine(index))


def undefine(index: int) -> bytes:
    """TPM2_NV_UndefineSpace (Part 3, 31.4)."""
    authorization = [tpm_commands.password()]
    return tpm_commands.command(0x122, (tpm_commands.OWNER, index), b"", authorization)
