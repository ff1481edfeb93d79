"""Signed envelopes: the right type, enough trusted keys, nothing malformed."""

from __future__ import annotations

import base64
import json

import pytest

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.envelope import PrivateKey, key_id, open_envelope, seal_envelope

TYPE = "application/vnd.tandem.test"
PAYLOAD = b'{"a": 1}'


def test_what_was_sealed_is_opened() -> None:
    # Given a payload sealed by a key
    key = PrivateKey.generate()
    envelope = seal_envelope(PAYLOAD, TYPE, key)

    # When it is opened with that key and another trusted
    opened = open_envelope(envelope, TYPE, [PrivateKey.generate().public_key(), key.public_key()])

    # Then payload and signer come out
    assert opened.payload == PAYLOAD
    assert opened.key_ids == (key_id(key.public_key()),)


def test_a_signature_covers_type_and_payload_as_dsse_says() -> None:
    # Given an envelope
    key = PrivateKey.generate()
    fields = json.loads(seal_envelope(PAYLOAD, TYPE, key))

    # When the pre-authentication encoding is made by hand (DSSE 1.0)
    encoded = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE.encode(), len(PAYLOAD), PAYLOAD)

    # Then the signature is over exactly that
    key.public_key().verify(base64.b64decode(fields["signatures"][0]["sig"]), encoded)


def test_a_stranger_s_signature_is_refused() -> None:
    # Given an envelope of somebody else
    envelope = seal_envelope(PAYLOAD, TYPE, PrivateKey.generate())

    # When it is opened
    # Then a rule refuses it
    with pytest.raises(Refused) as caught:
        open_envelope(envelope, TYPE, [PrivateKey.generate().public_key()])
    assert caught.value.code == "TDM-ENVELOPE-NOT-SIGNED"


def test_one_key_given_twice_does_not_reach_a_threshold_of_two() -> None:
    # Given an envelope with one signature
    key = PrivateKey.generate()
    envelope = seal_envelope(PAYLOAD, TYPE, key)

    # When two signatures are demanded and the one key is given twice
    # Then a rule refuses it
    with pytest.raises(Refused):
        open_envelope(envelope, TYPE, [key.public_key(), key.public_key()], threshold=2)


def test_a_signature_counts_for_nobody_but_its_maker() -> None:
    # Given two trusted keys, and one's signature a second time under the other's name
    alice, bob = PrivateKey.generate(), PrivateKey.generate()
    envelope = json.loads(seal_envelope(PAYLOAD, TYPE, alice))
    [signature] = envelope["signatures"]
    envelope["signatures"].append(signature | {"keyid": key_id(bob.public_key())})

    # When two of them must have signed
    # Then it is refused, though two names stand there
    keys = [alice.public_key(), bob.public_key()]
    with pytest.raises(Refused):
        open_envelope(json.dumps(envelope).encode(), TYPE, keys, threshold=2)


def test_a_threshold_of_none_opens_nothing() -> None:
    # Given an envelope of a stranger, and a caller whose threshold is 0
    envelope = seal_envelope(PAYLOAD, TYPE, PrivateKey.generate())

    # When it is opened
    # Then it is refused: nobody trusted has signed it
    with pytest.raises(Refused):
        open_envelope(envelope, TYPE, [PrivateKey.generate().public_key()], threshold=0)


def test_another_type_is_refused() -> None:
    # Given an envelope of another type
    key = PrivateKey.generate()

    # When it is opened as ours
    # Then its type is refused
    with pytest.raises(UntrustedInput) as caught:
        open_envelope(seal_envelope(PAYLOAD, "text/plain", key), TYPE, [key.public_key()])
    assert caught.value.code == "TDM-ENVELOPE-TYPE"


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "!"},
        {"payload": 1},
        {"signatures": []},
        {"signatures": [{"keyid": "", "sig": "AAAA"}]},
        {"signatures": [{"keyid": "x", "sig": "é"}]},
        {"more": 1},
    ],
)
def test_a_malformed_envelope_is_refused(change: dict[str, object]) -> None:
    # Given an envelope with a part out of shape
    key = PrivateKey.generate()
    fields = json.loads(seal_envelope(PAYLOAD, TYPE, key)) | change

    # When it is opened
    # Then it is refused, and nothing else is raised
    with pytest.raises((UntrustedInput, Refused)):
        open_envelope(json.dumps(fields).encode(), TYPE, [key.public_key()])
