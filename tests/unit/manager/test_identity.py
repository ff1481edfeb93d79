"""The host's identity on disk, and what is derived from its master key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import HostError
from tandem.evidence import canonical, record_fields
from tandem.manager.identity import (
    FORMAT,
    Identity,
    derived_auths,
    read_identity,
    write_identity,
)
from tandem.values import Secret

IDENTITY = Identity(
    format=FORMAT,
    ptpm="embedded",
    pcrs={8: b"8" * 32, 9: b"9" * 32},
    ak_public=b"1",
    ak_private=b"2",
    ca_public=b"3",
    ca_private=b"4",
    sealed_public=b"5",
    sealed_private=b"6",
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


OTHER_FORMAT = canonical.encode(record_fields.to_map(replace(IDENTITY, format="of tomorrow")))


@pytest.mark.parametrize("content", [b"", b"\xa0", b"garbage", bytes(100_000), OTHER_FORMAT])
def test_a_damaged_identity_is_refused(tmp_path: Path, content: bytes) -> None:
    # Given something else in its place
    path = tmp_path / "identity.cbor"
    path.write_bytes(content)
    # When it is read
    with pytest.raises(HostError) as raised:
        read_identity(path)
    # Then it is refused by name, not believed
    assert raised.value.code == "TDM-HOST-IDENTITY-DAMAGED"


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
