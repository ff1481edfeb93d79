"""Approval keys as files: made, used, or refused, and never lost while a host is under one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.cli.approval_keys import ApprovalKey, approval_key, private_approval_key
from tandem.errors import HostError, TandemError, UntrustedInput, UsageError
from tandem.evidence.host_approval import key_public
from tandem.manager.identity import write_identity
from tandem.settings import HostPaths
from tests.unit.manager.test_identity import IDENTITY


def fail() -> None:
    raise HostError("TDM-TEST", "it fails", hint="none")


def test_a_key_is_made_for_its_owner_alone_and_used_the_next_time(tmp_path: Path) -> None:
    # Given a place without a key
    file = str(tmp_path / "approval.key")
    # When it is asked for twice
    with approval_key(file, tmp_path / "host") as first:
        assert os.stat(file).st_mode & 0o777 == 0o600
    with approval_key(file, tmp_path / "host") as second:
        pass
    # Then it was made once, and says so
    assert (first.made, second.made) == (True, False)
    assert key_public(first.public) == key_public(second.public)
    assert "made in" in first.advice
    assert "move it off this host" in second.advice
    assert key_public(private_approval_key(file).public_key()) == key_public(first.public)


def test_a_public_key_is_enough(tmp_path: Path) -> None:
    # Given the public half of a key that somebody else has
    file = tmp_path / "approval.pub"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    # When it is used
    with approval_key(str(file), tmp_path / "host") as found:
        # Then it is that, and the advice is about its other half
        assert key_public(found.public) == key_public(public)
        assert "its private half" in found.advice
        assert "move it" not in found.advice


def test_a_key_is_not_kept_where_its_host_is(tmp_path: Path) -> None:
    # Given a place below the host's directory, also by a link
    host = tmp_path / "host"
    host.mkdir()
    (tmp_path / "link").symlink_to(host)
    for place in (host / "approval.key", tmp_path / "link" / "approval.key"):
        # When the key is to be made there
        with pytest.raises(UsageError) as raised, approval_key(str(place), host):
            pass
        # Then it is refused
        assert raised.value.code == "TDM-APPROVAL-KEY-IN-HOST"
    assert list(host.iterdir()) == []


def test_a_key_of_a_failed_attempt_is_removed_unless_it_was_there(tmp_path: Path) -> None:
    # Given a key that is there, and a place without one
    there, new = str(tmp_path / "there.key"), str(tmp_path / "new.key")
    with approval_key(there, tmp_path / "host"):
        pass
    # When what they are for fails
    for file in (there, new):
        with pytest.raises(HostError), approval_key(file, tmp_path / "host"):
            fail()
    # Then the first is there, and the second is not
    assert (Path(there).exists(), Path(new).exists()) == (True, False)


def test_a_key_that_the_host_is_under_is_never_removed(tmp_path: Path) -> None:
    # Given a host that was sealed for a new key before the command failed
    paths = HostPaths(tmp_path / "host")
    paths.manager.mkdir(parents=True)
    file = tmp_path / "new.key"

    def seal_and_fail(made: ApprovalKey) -> None:
        der = made.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        write_identity(paths.identity, replace(IDENTITY, approval_key=der))
        fail()

    # When the command fails
    with pytest.raises(HostError), approval_key(str(file), paths.root) as made:
        seal_and_fail(made)
    # Then its key is there: nothing else approves a state of that host
    assert key_public(private_approval_key(str(file)).public_key()) == key_public(made.public)


@pytest.mark.parametrize("content", [b"", b"noise", b"-----BEGIN PUBLIC KEY-----\nAA==\n"])
def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    # Given a file that is something else
    file = tmp_path / "file"
    file.write_bytes(content)
    # When it is used as a key
    with pytest.raises(UntrustedInput) as raised, approval_key(str(file), tmp_path / "host"):
        pass
    # Then it is refused and as it was
    assert raised.value.code == "TDM-APPROVAL-KEY-BAD"
    assert file.read_bytes() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    # Given a directory that does not exist
    file = tmp_path / "nowhere" / "approval.key"
    # When a key is to be made there
    with pytest.raises(TandemError) as raised, approval_key(str(file), tmp_path / "host"):
        pass
    # Then the error names it
    assert raised.value.code == "TDM-APPROVAL-KEY-NOT-WRITTEN"
    assert str(file) in raised.value.problem
