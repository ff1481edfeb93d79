"""47: a client starts sessions until the TPM has none left for anybody.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; after 64 sessions nobody starts one.
Shows: a share for each client: it loses its own, or is refused more; the Manager keeps what it
needs.
"""

from __future__ import annotations

from contextlib import ExitStack

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, done, run
from tests.integration.broker.running_broker import (
    CROWD,
    LOADED_SESSIONS,
    OTHER_UID,
    SAVED_SESSIONS,
    RunningBroker,
)

RC_SESSION_HANDLES = 0x905  # TPM_RC (Part 2, 6.6.3)
MORE_THAN_ANY_TPM_HAS = 100
OF_A_TPM, SHARE = 64, 12  # TPM_PT_ACTIVE_SESSIONS_MAX; a user's, where broker.toml says nothing


def exhaust(attacker: Tpm) -> tuple[list[int], int]:
    """Start and park sessions until none is given; gives them, and the code of the last try."""
    sessions: list[int] = []
    while len(sessions) < MORE_THAN_ANY_TPM_HAS:
        started = run(attacker, tpm_commands.start_policy_session(), with_handle=True)
        if started.code != RC_SUCCESS:
            return sessions, started.code
        sessions.append(started.handle)
        done(attacker, tpm_commands.context_save(started.handle))
    return sessions, RC_SUCCESS


def flush(client: Tpm, sessions: list[int]) -> None:
    """Give back what there is of sessions: what a client saved outlives its connection."""
    for session in sessions:
        run(client, tpm_commands.flush_context(session))


def taken(broker: RunningBroker) -> int:
    """Count the pTPM's sessions in use, loaded or saved, as whoever is beside it sees them."""
    left = broker.left_in_the_tpm()
    return len(left[LOADED_SESSIONS]) + len(left[SAVED_SESSIONS])


def test_control_nobody_gets_a_session_any_more(shared: SharedTpm) -> None:
    # Given a client of a shared TPM that starts sessions until it gets none
    sessions, code = exhaust(shared)
    assert (len(sessions), code) == (OF_A_TPM, RC_SESSION_HANDLES)

    # When another wants one
    started = run(shared, tpm_commands.start_policy_session(), with_handle=True)

    # Then there is none
    assert started.code == RC_SESSION_HANDLES


def test_a_client_that_starts_without_end_loses_its_own_alone(broker: RunningBroker) -> None:
    # Given a client's session, and another client that starts and parks one after the other
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        kept = done(victim, tpm_commands.start_policy_session(), with_handle=True).handle
        sessions, _ = exhaust(attacker)

        # When the first uses its session and wants another, and the Manager works
        used = run(victim, policy_digest(kept)).code
        started = run(victim, tpm_commands.start_policy_session(), with_handle=True).code
        broker.require_a_working_manager()

        # Then it has both, for the other lost what it had parked first, and holds its share alone
        assert (used, started) == (RC_SUCCESS, RC_SUCCESS)
        assert taken(broker) <= SHARE + 2
        flush(attacker, sessions)


def test_a_client_that_keeps_what_it_starts_is_refused_more(broker: RunningBroker) -> None:
    # Given a client that keeps its sessions loaded
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        codes = [
            run(attacker, tpm_commands.start_policy_session(), with_handle=True).code
            for _ in range(MORE_THAN_ANY_TPM_HAS)
        ]

        # When another wants one
        started = run(victim, tpm_commands.start_policy_session(), with_handle=True).code

        # Then it gets it; the first got its share and a refusal
        assert started == RC_SUCCESS
        assert codes.count(RC_SUCCESS) == SHARE


def test_many_users_together_leave_the_manager_its_sessions(broker: RunningBroker) -> None:
    # Given many users, each of whom starts sessions without end
    with ExitStack() as connected:
        clients = [connected.enter_context(broker.client(uid=uid)) for uid in CROWD]
        sessions = {client: exhaust(client)[0] for client in clients}
        assert taken(broker) > 2 * SHARE

        # When the Manager needs the pTPM
        # Then it does its work, and there are sessions left
        broker.require_a_working_manager()
        assert taken(broker) < OF_A_TPM
        for client, handles in sessions.items():
            flush(client, handles)


def policy_digest(session: int) -> bytes:
    """TPM2_PolicyGetDigest (Part 3, 23.17)."""
    return tpm_commands.command(0x189, (session,))
