"""Deep quotes through mailbox and vendor command, whatever the guest does to its TPM."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509 import load_der_x509_certificate

from tandem.errors import UntrustedInput
from tandem.evidence.attest import parse_quote
from tandem.evidence.deep_quote import (
    DeepQuote,
    DeepQuoteRequest,
    leaf_hash,
    parse_deep_quote,
    qualifying_data,
    quote_digest,
    unframe_answer,
)
from tandem.evidence.tpm_types import parse_signature
from tandem.vtpm.manager_client import AWAY_SECONDS
from tandem.vtpm.provisioning import (
    ANSWER_INDEX_SIZE,
    MAILBOX_ANSWERS,
    MAILBOX_KEY,
    MAILBOX_REQUEST,
    Nv,
)
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest, gone

MakePair = Callable[..., PairUnderTest]
NONCE = bytes(range(32))


@pytest.fixture
def guest(pair: PairUnderTest) -> Guest:
    """A guest that has started its TPM."""
    guest = Guest(pair)
    guest.start()
    return guest


def assert_genuine(quote: DeepQuote) -> None:
    """Check what binds the halves: signature, qualifying data, registers, leaf."""
    record = hashlib.sha256(quote.record).digest()
    attest = parse_quote(quote.vtpm_attest)
    assert attest.qualifying_data == qualifying_data(
        quote.nonce, quote.user_data, record, quote.authorizations
    )
    signature = parse_signature(quote.vtpm_signature)
    assert isinstance(signature.value, tuple)
    key = load_der_x509_certificate(quote.ak_certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(
        utils.encode_dss_signature(*signature.value),
        quote.vtpm_attest,
        ec.ECDSA(hashes.SHA256()),
    )
    digest = quote_digest(quote.vtpm_attest, quote.vtpm_signature)
    assert parse_quote(quote.ptpm_attest).qualifying_data == leaf_hash(quote.salt, record, digest)
    values = b"".join(quote.vtpm_pcrs[register] for register in sorted(quote.vtpm_pcrs))
    assert attest.pcr_digest == hashlib.sha256(values).digest()


def test_mailbox_and_vendor_command_give_the_same_kind_of_quote(guest: Guest) -> None:
    # Given a request with user data and registers of the guest's choice
    request = DeepQuoteRequest(nonce=NONCE, user_data=b"channel", registers=tuple(range(24)))

    # When it is asked for in either way
    assert guest.write_request(request) == 0
    by_mailbox = parse_deep_quote(unframe_answer(guest.read_answer()))
    by_command = parse_deep_quote(unframe_answer(guest.deep_quote_by_command(request)))

    # Then both are genuine and carry the launch log and every register asked for
    for quote in (by_mailbox, by_command):
        assert_genuine(quote)
        assert quote.launch_log == LAUNCH_LOG
        assert sorted(quote.vtpm_pcrs) == list(range(24))


def test_a_request_that_is_none_is_refused_in_the_answer(guest: Guest) -> None:
    # Given a request whose user data claims 255 bytes
    broken = NONCE + bytes(3) + b"\xff"

    # When it is written
    code = guest.code(tpm.nv_write(MAILBOX_REQUEST, MAILBOX_REQUEST, broken, 0, tpm.password()))

    # Then the write succeeds and the answer says what is wrong
    assert code == 0
    with pytest.raises(UntrustedInput) as refusal:
        unframe_answer(guest.read_answer())
    assert "status 0x1c4" in refusal.value.problem


def test_the_guest_writes_neither_answers_nor_the_key_index(guest: Guest) -> None:
    # Given an answer
    guest.deep_quote()
    before = guest.read_answer()

    # When the guest writes the indices by their own, the owner's and the platform's authorization
    codes = [
        guest.code(tpm.nv_write(by or index, index, b"forged", 0, tpm.password()))
        for index in (MAILBOX_ANSWERS[0], MAILBOX_KEY)
        for by in (0, tpm.OWNER, tpm.PLATFORM)
    ]

    # Then each attempt fails and the answer is what it was
    assert codes[0] == 0x12F  # TPM_RC_AUTH_UNAVAILABLE
    assert all(codes)
    assert guest.read_answer() == before


def test_the_mailbox_works_with_every_authorization_set_and_after_clear(guest: Guest) -> None:
    # Given a guest that took ownership, endorsement and platform
    for hierarchy in (tpm.OWNER, tpm.ENDORSEMENT, tpm.PLATFORM):
        assert guest.code(tpm.hierarchy_change_auth(hierarchy, b"mine")) == 0
    assert_genuine(guest.deep_quote())

    # When it clears the TPM (TPM2_Clear by platform, Part 3, 24.6)
    assert guest.code(tpm.command(0x126, (tpm.PLATFORM,), b"", [tpm.password(b"mine")])) == 0

    # Then the mailbox works as before
    assert_genuine(guest.deep_quote())


def test_the_mailbox_works_with_every_object_slot_taken(guest: Guest) -> None:
    # Given a guest that holds three transient objects
    keys = [guest.make_key() for _ in range(3)]
    names = [guest.run(tpm.command(0x173, (key,))).parameters for key in keys]  # ReadPublic

    # When it asks for a deep quote
    assert_genuine(guest.deep_quote())

    # Then its objects are where they were
    assert list(guest.handles(tpm.TRANSIENT_FIRST)) == keys
    assert [guest.run(tpm.command(0x173, (key,))).parameters for key in keys] == names


def test_the_mailbox_works_with_every_session_slot_taken(guest: Guest) -> None:
    # Given a guest that holds three sessions, one of them with a policy
    sessions = [guest.run(tpm.start_policy_session(), with_handle=True).handle for _ in range(3)]
    assert guest.code(tpm.command(0x16B, (sessions[-1],))) == 0  # PolicyAuthValue
    digest = tpm.command(0x189, (sessions[-1],))  # PolicyGetDigest
    before = guest.run(digest).parameters

    # When it asks for a deep quote
    assert_genuine(guest.deep_quote())

    # Then its sessions are loaded and their policies are unchanged
    loaded = {handle & 0xFFFFFF for handle in guest.handles(tpm.LOADED_SESSION_FIRST)}
    assert loaded == {handle & 0xFFFFFF for handle in sessions}
    assert guest.run(digest).parameters == before


def test_the_mailbox_says_so_when_no_session_is_left_at_all(guest: Guest) -> None:
    # Given a guest that has all 64 active sessions, three loaded and the others saved
    sessions = []
    for _ in range(64):
        started = guest.run(tpm.start_policy_session(), with_handle=True)
        assert started.code == 0
        sessions.append(started.handle)
        if len(sessions) < 62:
            assert guest.code(tpm.context_save(started.handle)) == 0

    # When it writes a request
    code = guest.write_request(DeepQuoteRequest(nonce=NONCE))

    # Then it gets TPM_RC_SESSION_HANDLES, and after giving one up a deep quote
    assert code == 0x905
    assert guest.code(tpm.flush_context(sessions[-1])) == 0
    assert_genuine(guest.deep_quote())


def test_a_launch_begins_without_the_answers_of_the_last(make_pair: MakePair) -> None:
    # Given an answer of one launch
    first = make_pair()
    first.ready()
    first.start_guest()
    first.connect()
    guest = Guest(first)
    guest.start()
    guest.deep_quote()
    first.kill_guest()
    assert gone(first.pidfd, 1.0)

    # When the next launch reads its mailbox without asking
    second = make_pair()
    second.ready()
    second.start_guest()
    second.connect()
    guest = Guest(second)
    guest.start()

    # Then there is no deep quote in it
    with pytest.raises(UntrustedInput):
        unframe_answer(guest.read_answer())


def test_a_mailbox_write_costs_no_commit_and_a_durable_one_does(
    guest: Guest, manager: ManagerDouble
) -> None:
    # Given a started guest with an index of its own
    assert guest.define_index(0x01500001, Nv.AUTHWRITE | Nv.AUTHREAD | Nv.NO_DA) == 0
    before = manager.commits

    # When it asks for deep quotes, and then writes its index
    guest.deep_quote()
    guest.deep_quote()
    after_mailbox = manager.commits
    assert guest.code(tpm.nv_write(0x01500001, 0x01500001, b"12345678", 0, tpm.password())) == 0

    # Then only the latter was committed
    assert (after_mailbox, manager.commits) == (before, before + 1)


def test_control_requests_are_answered_while_a_deep_quote_waits(
    guest: Guest, manager: ManagerDouble
) -> None:
    # Given a deep quote that the Manager does not answer
    manager.may_answer.clear()
    waiting = threading.Thread(target=guest.deep_quote)
    waiting.start()
    time.sleep(0.1)

    # When the hypervisor asks
    slowest = 0.0
    for command, fields in (
        (Command.GET_CAPABILITY, ()),
        (Command.SET_LOCALITY, (1, 0, 0, 0)),
        (Command.SET_LOCALITY, (0, 0, 0, 0)),
        (Command.CANCEL_TPM_CMD, ()),
        (Command.GET_TPMESTABLISHED, ()),
    ):
        began = time.monotonic()
        assert guest.pair.ask(command, *fields) != b""
        slowest = max(slowest, time.monotonic() - began)

    # Then each answer takes less than 50 ms, and the deep quote is made in the end
    manager.may_answer.set()
    waiting.join(5)
    assert slowest < 0.05
    assert not waiting.is_alive()


def test_a_manager_that_stays_away_is_named_in_the_answer(
    guest: Guest, manager: ManagerDouble
) -> None:
    # Given a Manager that died, and does not come back
    manager.hang_up()

    # When the guest asks for a deep quote
    begun = time.monotonic()
    code = guest.write_request(DeepQuoteRequest(nonce=NONCE))

    # Then the guest waited as long as it may, lives on, and its answer says why there is no quote
    assert AWAY_SECONDS <= time.monotonic() - begun < AWAY_SECONDS + 5
    assert code == 0
    with pytest.raises(UntrustedInput) as refusal:
        unframe_answer(guest.read_answer())
    assert "TDM-MANAGER-GONE" in refusal.value.problem


def test_answers_fit_their_indices(guest: Guest) -> None:
    # Given the largest request there is
    request = DeepQuoteRequest(nonce=NONCE, user_data=bytes(64), registers=tuple(range(24)))

    # When it is answered
    assert guest.write_request(request) == 0
    answer = unframe_answer(guest.read_answer())

    # Then there is room left for a real Manager's certificates and path
    assert len(answer) < ANSWER_INDEX_SIZE * len(MAILBOX_ANSWERS) // 2
