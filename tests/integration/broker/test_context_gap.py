"""A session that was put aside long ago is still there, however many others were swapped since.

A TPM numbers the sessions that it saves, and refuses to save any more once the oldest is too far
behind (TPM_RC_CONTEXT_GAP; Part 1, 30.6.2): 65,535 for libtpms, 255 for some hardware.
"""

from __future__ import annotations

from pathlib import Path

from tandem.wire.broker_rights import Rights
from tandem.wire.tpm_requests import code_of
from tests import gated_tpm as tpm
from tests.gated_tpm import GatedTpm, ask, handle_of

CONTEXT_GAP = 0x901
GAP = 0xFFFF


def test_the_control_a_plain_tpm_refuses_at_the_gap(tmp_path: Path) -> None:
    # Given a plain TPM with a session that was saved, and another
    with tpm.software_tpm(tmp_path) as plain:
        old, other = (handle_of(plain.transceive(tpm.start_policy_session())) for _ in range(2))
        assert code_of(plain.transceive(tpm.save(old))) == 0

        # When the other one is saved and loaded as often as the gap is wide
        answer = b""
        for _ in range(GAP + 2):
            answer = plain.transceive(tpm.save(other))
            if code_of(answer):
                break
            plain.transceive(tpm.load(answer))

        # Then the TPM refuses to save it
        assert code_of(answer) == CONTEXT_GAP


def test_sessions_are_swapped_beyond_the_gap(tmp_path: Path) -> None:
    # Given a client that put a session aside, and works with more than fit
    with tpm.software_tpm(tmp_path) as shared:
        gated = GatedTpm(shared, tpm.everybody(Rights()))
        client = gated.connect()
        aside = client.execute(tpm.save(handle_of(client.execute(tpm.start_policy_session()))))
        sessions = [handle_of(client.execute(tpm.start_policy_session())) for _ in range(4)]

        # When each use of one saves another, more often than the gap is wide
        for number in range(GAP + 100):
            answer = client.execute(ask("PolicyGetDigest", sessions[number % len(sessions)]))
            assert code_of(answer) == 0, number

        # Then the old one is there
        assert shared.asked[tpm.CODES["ContextSave"]] > GAP
        again = handle_of(client.execute(tpm.load(aside)))
        assert code_of(client.execute(ask("PolicyGetDigest", again))) == 0
