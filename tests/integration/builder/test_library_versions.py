"""A host never goes back to an older library, nor to one whose time is over: with real services.

The plain way for comparison: QEMU starts whatever kernel a path leads to, as old as may be.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.evidence.envelope import open_envelope, parse_private_key, seal_envelope
from tandem.evidence.manifest import PAYLOAD_TYPE
from tests.integration.builder.running_host import RunningHost


@pytest.fixture
def host() -> Iterator[RunningHost]:
    host = RunningHost()
    yield host
    host.close()


def launched(host: RunningHost) -> None:
    """Start the smallest guest and end it again."""
    host.start("brief")
    host.run("guest", "stop", "brief", "--kill")


def sign(host: RunningHost, *keys: Path) -> None:
    signing = [word for key in keys or (host.key,) for word in ("--key", str(key))]
    host.tandem("library", "sign", *signing)


def test_an_older_library_is_refused_after_a_newer_one_was_seen(host: RunningHost) -> None:
    # Given a guest started from version 1, then from version 2, which ended version 1
    manifest = host.library / "library.dsse.json"
    launched(host)
    older = manifest.read_bytes()
    sign(host)
    newer = manifest.read_bytes()
    launched(host)
    # When somebody puts version 1 back, whose signature holds, and the services start anew
    manifest.write_bytes(older)
    host.tandem("library", "verify")
    host.tandem("host", "down")
    host.tandem("host", "up")
    error = host.refusal("guest", "start", "brief")
    # Then no guest starts from it, nothing is left of the attempt, and version 2 goes on
    assert error["code"] == "TDM-LIBRARY-OLDER"
    assert "version 2" in error["problem"]
    assert host.pairs() == []
    assert host.leftovers() == []
    manifest.write_bytes(newer)
    launched(host)


def test_the_administrator_may_have_a_library_begin_anew(host: RunningHost) -> None:
    # Given version 1, and version 900, which a thief of the key signed
    manifest = host.library / "library.dsse.json"
    launched(host)
    first = manifest.read_bytes()
    host.tandem("library", "sign", "--key", str(host.key), "--version", "900")
    launched(host)
    manifest.write_bytes(first)
    assert host.refusal("guest", "start", "brief")["code"] == "TDM-LIBRARY-OLDER"
    # When the host's administrator has it forgotten
    approval = str(host.directory / "approval.key")
    host.tandem("library", "forget", "main", "--key", approval)
    # Then version 1 is the first one again, and a name that nobody knows is refused
    launched(host)
    refused = host.refusal("library", "forget", "other", "--key", approval)
    assert refused["code"] == "TDM-LIBRARY-UNKNOWN"


def test_a_library_whose_time_is_over_starts_nothing(host: RunningHost) -> None:
    # Given a library that was signed for some time, which is over
    manifest = host.library / "library.dsse.json"
    key = parse_private_key(host.key.read_bytes())
    payload = open_envelope(manifest.read_bytes(), PAYLOAD_TYPE, [key.public_key()]).payload
    document = json.loads(payload) | {"expires": "2020-01-01T00:00:00Z"}
    manifest.write_bytes(seal_envelope(json.dumps(document).encode(), PAYLOAD_TYPE, key))
    # When a guest is to be started from it
    error = host.refusal("guest", "start", "brief")
    # Then that is refused by name, and nothing is left; a new signature is all it takes
    assert error["code"] == "TDM-LIBRARY-EXPIRED"
    assert (host.pairs(), host.leftovers()) == ([], [])
    sign(host)
    launched(host)


def test_a_vtpm_follows_two_of_three_and_not_one_with_a_stranger(host: RunningHost) -> None:
    # Given a persistent guest, from a library that takes two of three signers
    people = [host.directory / name for name in ("alice", "bob", "carol", "mallory")]
    for path in people:
        host.tandem("library", "keygen", "-o", str(path))
    alice, bob, carol, mallory = people
    host.tandem("library", "trust", *(f"{path}.pub" for path in people[:3]), "--threshold", "2")
    source = host.library / "library.toml"
    entries = source.read_text()
    named = ", ".join(f'"{path}.pub"' for path in people[:3])
    source.write_text(f'[library]\nname = "ours"\nsigners = [{named}]\nthreshold = 2\n\n{entries}')
    (host.library / "library.dsse.json").unlink()
    sign(host, alice, bob)
    host.start("web")
    host.run("guest", "stop", "web", "--kill")
    # When alice signs another library with a stranger, which this host is told to trust once
    other = host.directory / "other"
    shutil.copytree(host.library, other)
    (other / "library.dsse.json").unlink()
    (other / "library.toml").write_text(f'[library]\nname = "others"\n\n{entries}')
    signing = ("--key", str(alice), "--key", str(mallory))
    host.tandem("library", "sign", str(other / "library.toml"), *signing)
    trusting = ("--library-key", f"{mallory}.pub")
    start = ("guest", "start", "web", "--library", str(other / "library.dsse.json"), *trusting)
    error = host.refusal(*start)
    # Then the guest's vTPM is not opened; by two of its three it is
    assert error["code"] == "TDM-VTPM-OTHER-LIBRARY"
    sign(host, bob, carol)
    host.start("web")
    host.run("guest", "stop", "web", "--kill")
