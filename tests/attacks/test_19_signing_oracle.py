"""19: a guest chooses what the host's key signs, and shows it as another protocol's quote.

Attacker: the guest's root, who chooses nonce and user data.
Control: a host AK (swtpm) that quotes with the nonce that it is given, as a bare vTPM front end
does; the quote is one for the host's enrolment, of a credential and an export of the attacker's.
Shows: nothing of the guest's is signed as it is: nonce and user data go into a hash with a tag, and
that into a leaf that the Manager alone makes; the host's quote qualifies neither.
"""

from __future__ import annotations

import hashlib

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.evidence.attest import parse_quote
from tandem.evidence.deep_quote import DeepQuoteRequest, parse_deep_quote, unframe_answer
from tandem.evidence.enrolment import enrolment_data
from tandem.evidence.vtpm_ak import vtpm_ak_template
from tandem.wire import tpm_commands as tpm
from tests.attacks.tpm import done
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.pair_harness import PairUnderTest

WANTED = enrolment_data(b"a credential", b"an export that the attacker wrote")


def test_control_the_key_signs_what_it_is_given(shared: SharedTpm) -> None:
    # Given a host's key, and a front end that has it quote for a guest's nonce
    made = done(shared, tpm.create_primary(tpm.ENDORSEMENT, vtpm_ak_template()), with_handle=True)

    # When the guest's nonce is the qualifying data of an enrolment
    answer = done(shared, tpm.quote(made.handle, b"", WANTED, (0, 7))).parameters

    # Then it has the host's quote for that
    assert parse_quote(answer[2 : 2 + int.from_bytes(answer[:2])]).qualifying_data == WANTED


@pytest.mark.parametrize("by_command", [False, True])
def test_neither_tpm_signs_what_the_guest_chose(pair: PairUnderTest, by_command: bool) -> None:
    # Given a guest, and its request that has what it wants signed as nonce and as user data
    guest = Guest(pair)
    guest.start()
    request = DeepQuoteRequest(nonce=WANTED, user_data=WANTED)

    # When it asks in either way
    if by_command:
        framed = guest.deep_quote_by_command(request)
    else:
        assert guest.write_request(request) == 0
        framed = guest.read_answer()
    answer = parse_deep_quote(unframe_answer(framed))

    # Then both quotes are for something else, which it could not have chosen
    signed = [
        parse_quote(each).qualifying_data for each in (answer.vtpm_attest, answer.ptpm_attest)
    ]
    assert WANTED not in signed
    assert hashlib.sha256(WANTED).digest() not in signed


def test_no_key_that_quotes_is_the_guests_to_use(pair: PairUnderTest) -> None:
    # Given a guest that knows where its vTPM's AK is
    guest = Guest(pair)
    guest.start()

    # When it quotes with it by itself, with an empty authorization
    code = guest.code(tpm.quote(0x81810001, b"", WANTED, (17,)))

    # Then the AK's authorization is not empty (TPM_RC_BAD_AUTH; noDA)
    assert code == 0x9A2
