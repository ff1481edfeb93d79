"""What the pTPM itself refuses between groups, whatever the Manager's own checks say."""

from __future__ import annotations

import datetime
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.errors import TandemError
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.host_approval import Approval, approve, write_approval
from tandem.evidence.host_state import StateDocument
from tandem.manager import records
from tandem.manager.groups import CA_AUTH, Groups, GroupTerms, found_group, group_subject
from tandem.manager.identity import derive
from tandem.manager.issuing import IssuingKeys
from tandem.manager.ptpm import KeyBlob, Ptpm
from tandem.manager.store import Store
from tandem.values import Secret
from tests.integration.manager.running_manager import ready
from tests.unit.manager.software_host import MemoryAnchor

pytestmark = pytest.mark.skipif(not ready(), reason="needs swtpm")
NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
KEYS = {group: ec.generate_private_key(ec.SECP256R1()) for group in ("red", "blue")}


@pytest.fixture
def ptpm(tmp_path: Path) -> Iterator[Ptpm]:
    """Give a pTPM that was measured into, with the Manager's root."""
    ours, theirs = socket.socketpair()
    command = ["swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno()), "--terminate"]
    options = ["--tpmstate", f"dir={tmp_path}", "--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(
        [*command, *options], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
    )
    theirs.close()
    started = Ptpm(ours.fileno())
    started.startup()
    started.measure(8, b"measured")
    started.make_root()
    yield started
    started.close()
    ours.close()
    process.wait(10)


@pytest.fixture
def groups(ptpm: Ptpm) -> dict[str, records.GroupRecord]:
    """Give two tenants' groups, as their records keep them."""
    return {
        name: found_group(ptpm, GroupTerms(name=name, authority=key.public_key()), NOW)
        for name, key in KEYS.items()
    }


def sealed(record: records.GroupRecord) -> KeyBlob:
    return KeyBlob(public=record.sealed_public, private=record.sealed_private)


def ca(record: records.GroupRecord) -> KeyBlob:
    return KeyBlob(public=record.ca_public, private=record.ca_private)


def approval(ptpm: Ptpm, group: str, signer: str, generation: int = 1) -> Approval:
    """Approve the present state for a group, with anybody's key."""
    state = ptpm.read_state((8,))
    document = StateDocument(subject=group_subject(group), generation=generation, state=state)
    return approve(document, KEYS[signer])


def opened(ptpm: Ptpm, groups: dict[str, records.GroupRecord], name: str) -> Secret:
    """Unseal a group's key as its own administrator approved it."""
    return ptpm.unseal(sealed(groups[name]), approval(ptpm, name, name), KEYS[name].public_key())


@pytest.mark.parametrize(
    ("subject", "signer", "key"),
    [
        ("red", "red", "red"),  # red's approval, as red's, on blue's sealed key
        ("blue", "red", "red"),  # signed by red, with red's key in the policy
        ("blue", "red", "blue"),  # signed by red, and said to be blue's
    ],
)
def test_one_groups_approval_does_not_unseal_anothers_key(
    ptpm: Ptpm, groups: dict[str, records.GroupRecord], subject: str, signer: str, key: str
) -> None:
    # Given blue's sealed key, and whatever red's administrator can sign
    forged = approval(ptpm, subject, signer)
    # When the pTPM is asked to unseal with that
    with pytest.raises(TandemError):
        ptpm.unseal(sealed(groups["blue"]), forged, KEYS[key].public_key())
    # Then it does not, and does so for blue's own approval
    assert len(opened(ptpm, groups, "blue").reveal()) == 32


def test_an_earlier_generations_approval_does_not_unseal_a_renewed_key(
    ptpm: Ptpm, groups: dict[str, records.GroupRecord]
) -> None:
    # Given red's approvals for two generations, and its key sealed for the first
    later = approval(ptpm, "red", "red", generation=2)
    # When the wrong one is used
    with pytest.raises(TandemError):
        ptpm.unseal(sealed(groups["red"]), later, KEYS["red"].public_key())
    # Then the pTPM refuses, and takes the right one
    assert opened(ptpm, groups, "red").reveal()


def test_one_groups_key_does_not_sign_with_anothers_ca_key(
    ptpm: Ptpm, groups: dict[str, records.GroupRecord]
) -> None:
    # Given both CA keys, which the pTPM loads for whoever names the Manager's root
    red = opened(ptpm, groups, "red")
    # When blue's is used with what red's key gives
    with (
        pytest.raises(TandemError),
        ptpm.loaded_signer(ca(groups["blue"]), derive(red, CA_AUTH)) as sign,
    ):
        sign(bytes(32))
    # Then the pTPM refuses, and signs with red's own
    with ptpm.loaded_signer(ca(groups["red"]), derive(red, CA_AUTH)) as sign:
        assert sign(bytes(32))


def test_an_issuing_key_is_certified_by_its_own_groups_ca_alone(
    ptpm: Ptpm, groups: dict[str, records.GroupRecord], tmp_path: Path
) -> None:
    # Given a host whose groups are opened from its store
    store = Store.create(tmp_path / "store.sqlite", Secret(bytes(32)), MemoryAnchor())
    found = Groups(store, ptpm, lambda: NOW, KEYS["red"].public_key())
    for name, record in groups.items():
        own = approval(ptpm, name, name)
        found.keep(name, replace(record, approvals=(write_approval(own),)))
    # When each has its issuing keys
    issuing: dict[str, IssuingKeys] = {name: found.opened(name).issuing for name in groups}
    # Then their certificates lead to its own CA and to no other
    for name, keys in issuing.items():
        issuers = {
            other
            for other, record in groups.items()
            if issued_by(
                parse_certificate(keys.attestation), parse_certificate(record.ca_certificate)
            )
        }
        assert issuers == {name}
    store.close()
