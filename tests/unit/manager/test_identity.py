"""The host's identity on disk, and what is derived from its master key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import HostError, Refused
from tandem.evidence import canonical, record_fields
from tandem.manager.identity import (
    FORMAT,
    Identity,
    check_proof,
    derived_auths,
    proven,
    read_identity,
    write_identity,
)
from tandem.values import Secret

MASTER = Secret(b"k" * 32)
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
IDENTITY = Identity(
    format=FORMAT,
    generation=3,
    slot=1,
    epoch=1,
    ptpm="embedded",
    registers=(8, 9),
    approval_key=KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    root_name=b"0",
    ak_public=b"1",
    ak_private=b"2",
    sealed_public=b"5",
    sealed_private=b"6",
    recovery=b"7",
    proof=b"8",
)


def test_an_identity_is_read_as_it_was_written(tmp_path: Path) -> None:
    # Given an identity, written over another
    path = tmp_path / "identity.cbor"
    write_identity(path, replace(IDENTITY, ptpm="/dev/tpm0"))
    write_identity(path, IDENTITY)
    # When it is read
    # Then it is the newer one, and nothing else was left
    assert read_identity(path) == IDENTITY
    assert list(tmp_path.iterdir()) == [path]


def test_a_host_that_was_never_made_says_so(tmp_path: Path) -> None:
    # Given no identity
    # When it is read
    with pytest.raises(HostError) as raised:
        read_identity(tmp_path / "manager" / "identity.cbor")
    # Then the error says how to make one
    assert (raised.value.code, raised.value.hint) == (
        "TDM-HOST-NOT-INITIALISED",
        "make the host with `tandem host init`",
    )


def encoded(**changes: object) -> bytes:
    return canonical.encode({**record_fields.to_map(IDENTITY), **changes})


def pem_of(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xa0", b"garbage", bytes(100_000)),
        encoded(format="of tomorrow"),
        encoded(generation=0),
        encoded(slot=2),
        encoded(ptpm="/dev/tpm0\0"),
        encoded(registers=[]),
        encoded(registers=[8, 24]),
        encoded(approval_key=b"no key"),
        encoded(approval_key=pem_of(ec.SECP384R1())),
    ],
)
def test_a_damaged_identity_is_refused(tmp_path: Path, content: bytes) -> None:
    # Given something else in its place
    path = tmp_path / "identity.cbor"
    path.write_bytes(content)
    # When it is read
    with pytest.raises(HostError) as raised:
        read_identity(path)
    # Then it is refused by name, not believed
    assert raised.value.code == "TDM-HOST-IDENTITY-DAMAGED"


def test_an_identity_that_somebody_changed_is_refused() -> None:
    # Given an identity, proven by its master key
    identity = proven(IDENTITY, MASTER)
    check_proof(identity, MASTER)
    # When somebody without that key exchanges who approves, and proves it with his own
    other = replace(identity, approval_key=pem_of(ec.SECP256R1()))
    for changed in (other, proven(other, Secret(b"K" * 32))):
        with pytest.raises(Refused) as raised:
            check_proof(changed, MASTER)
        # Then it is refused by name
        assert raised.value.code == "TDM-HOST-IDENTITY-EXCHANGED"


def test_each_generation_has_a_store_of_its_own() -> None:
    # Given an identity of the third generation, and one of the first
    # When their stores are named
    # Then they differ
    assert IDENTITY.store == "store.3.sqlite"
    assert replace(IDENTITY, generation=1).store == "store.sqlite"


def test_each_object_has_an_authorisation_of_its_own() -> None:
    # Given a master key
    auths = derived_auths(Secret(b"k" * 32))
    # When the authorisations of another are derived too
    others = derived_auths(Secret(b"K" * 32))
    # Then all differ, and the same key gives the same again
    values = [each.reveal() for each in (*auths.values(), *others.values())]
    assert len(set(values)) == len(values)
    again = derived_auths(Secret(b"k" * 32))
    assert [each.reveal() for each in again.values()] == values[: len(auths)]
