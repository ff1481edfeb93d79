"""57: an older list of what is good is served, one that still has the build with the hole.

Attacker: whoever serves the file, or writes the host's disk.
Control: two versions of a list, both signed by its owner; `openssl` accepts the older one, as the
signature is as good as it ever was.
Shows: the Manager keeps the highest version of each library that a guest was started from, and
starts none from an older one (TDM-LIBRARY-OLDER); a verifier with the current library breaks
manifest-is-the-records for a guest of the old one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.appraisal.rules import Rule
from tandem.channel import expect
from tandem.errors import Refused
from tandem.evidence.envelope import seal_envelope
from tandem.evidence.manifest import PAYLOAD_TYPE
from tandem.wire.manager_rpc import Attend, Attended, OpenPair, PairOpened
from tests.attacks.disk import AttackedHost
from tests.attacks.verdicts import against
from tests.integration.vtpm.pair_harness import open_request
from tests.unit.appraisal.forge import Forge, library


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def openssl(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["openssl", *words], cwd=directory, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def of_version(number: int, vtpm: str) -> OpenPair:
    """Ask for a launch from a version of the library."""
    return replace(open_request(vtpm), manifest_version=number, manifest_digest=number.to_bytes(32))


def launch(host: AttackedHost, asked: OpenPair) -> None:
    """Have a launch opened, as a builder does, and leave it."""
    builder = host.manager.connect()
    builder.ask(Attend(), Attended)
    builder.send(asked)
    message, _ = builder.receive_any()
    expect(message, PairOpened)
    builder.close()


def test_control_the_older_lists_signature_holds(tmp_path: Path) -> None:
    # Given a list and the one that replaced it, both signed by their owner
    openssl(tmp_path, "genpkey", "-algorithm", "ed25519", "-out", "key")
    openssl(tmp_path, "pkey", "-in", "key", "-pubout", "-out", "pub")
    for name, content in (("old", "kernel with a hole"), ("new", "kernel without")):
        (tmp_path / name).write_text(content)
        sign = ("pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", name, "-out", f"{name}.sig")
        openssl(tmp_path, *sign)

    # When the old one is served
    verify = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pub")
    said = openssl(tmp_path, *verify, "-in", "old", "-sigfile", "old.sig")

    # Then whoever checks the signature takes it
    assert "Verified Successfully" in said


def test_the_manager_starts_nothing_from_an_older_library(host: AttackedHost) -> None:
    # Given a host whose guests come from version 3, and whose Manager was restarted since
    launch(host, of_version(3, "web"))
    host.manager.stop()
    host.manager.start()

    # When a guest is to start from version 2, which the same key signed
    with pytest.raises(Refused) as raised:
        launch(host, of_version(2, "db"))

    # Then it is older, and version 3 still serves
    assert raised.value.code == "TDM-LIBRARY-OLDER"
    launch(host, of_version(3, "db"))


def test_a_store_that_forgot_the_newer_version_is_refused(host: AttackedHost) -> None:
    # Given a store that was copied before the newer version came
    launch(host, of_version(2, "web"))
    host.manager.stop()
    kept = host.keep("manager")
    host.manager.start()
    launch(host, of_version(3, "web"))
    host.manager.stop()

    # When it is put back, so that version 2 is the newest again
    host.put_back(kept)
    with pytest.raises(Refused) as raised:
        host.manager.start()

    # Then the pTPM knows that it is old
    assert raised.value.code == "TDM-ROLLBACK-STORE"


def test_a_verifier_with_the_current_library_tells_a_guest_of_the_old_one() -> None:
    # Given a guest of version 6, and a verifier whose policy has version 7 by the same key
    forge = Forge(library=library(version=6))
    current = replace(
        forge.policy(),
        manifest=seal_envelope(Forge(library=library(version=7)).payload, PAYLOAD_TYPE,
                               forge.library_key),
    )  # fmt: skip

    # When it is appraised
    verdict = forge.verdict(current)

    # Then it is not from that library
    assert Rule.MANIFEST_RECORDED.title in against(verdict)
