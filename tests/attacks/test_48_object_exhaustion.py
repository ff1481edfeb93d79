"""48: a client loads objects until the TPM has no slot left for anybody.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; three keys fill it.
Shows: a client fills its own share alone; the others have all of theirs.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, make_primary, read_public, run, storage_public
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

RC_OBJECT_MEMORY = 0x902  # TPM_RC (Part 2, 6.6.3)
MORE_THAN_ANYBODY_NEEDS = 300
MAKE = tpm_commands.create_primary(tpm_commands.OWNER, storage_public())


def exhaust(attacker: Tpm) -> tuple[list[int], int]:
    """Make keys until none is made; gives their handles, and the code of the last try."""
    loaded: list[int] = []
    while len(loaded) < MORE_THAN_ANYBODY_NEEDS:
        made = run(attacker, MAKE, with_handle=True)
        if made.code != RC_SUCCESS:
            return loaded, made.code
        loaded.append(made.handle)
    return loaded, RC_SUCCESS


def test_control_three_keys_fill_the_tpm(shared: SharedTpm) -> None:
    # Given a client of a shared TPM that makes keys until it cannot
    loaded, code = exhaust(shared)
    assert (len(loaded), code) == (3, RC_OBJECT_MEMORY)

    # When another wants to load one
    # Then there is no room
    assert run(shared, MAKE, with_handle=True).code == RC_OBJECT_MEMORY


def test_a_client_exhausts_its_own_share_alone(broker: RunningBroker) -> None:
    # Given a client of the broker that makes keys until it gets none
    with broker.client(uid=OTHER_UID) as attacker, broker.client() as victim:
        loaded, code = exhaust(attacker)
        assert len(loaded) > 3
        assert code != RC_SUCCESS

        # When another makes one, and the Manager works
        key = make_primary(victim)
        broker.require_a_working_manager()

        # Then it has it, and the first still has all of his
        assert run(victim, read_public(key)).code == RC_SUCCESS
        assert all(run(attacker, read_public(each)).code == RC_SUCCESS for each in loaded)
